"""Every benchmark runs, with tiny sizes, and hands its rows over; all of them become one table."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import report, run_all

ROOT = Path(__file__).resolve().parent.parent
COMPARED = {  # benchmark -> rows, each with a reference
    "svm": 1,
    "linear_probe": 1,
    "caption_scores": 4,
    "transfer_overhead": 1,
    "feature_extraction": 1,
    "pretraining_speed": 3,
    "pretraining_throughput": 2,
}
WITHOUT_DEVICE = {"caption_scores": [], "transfer_overhead": ["--num-gpus", "0"]}


def rows_of(name, arguments, folder):
    """What a benchmark hands over."""
    file = folder / "rows.json"
    importlib.import_module(f"benchmarks.{name}").main([*arguments, "--json", str(file)])
    return [report.Row(**fields) for fields in json.loads(file.read_text())]


@pytest.mark.parametrize("name", COMPARED)
def test_a_benchmark_compares_ours_with_a_reference(name, tmp_path):
    device = WITHOUT_DEVICE.get(name, ["--device", "cpu"])
    rows = rows_of(name, ["--quick", *device], tmp_path)
    assert len(rows) == COMPARED[name]
    for row in rows:
        if not row.note:  # Java, or a reference, may not be installed
            assert row.unit and row.beside
            better = row.ours / row.reference if row.higher_is_better else row.reference / row.ours
            assert row.ratio == pytest.approx(better) and row.ratio > 0  # of one pair


def test_a_reference_that_is_not_installed_is_named():
    assert report.not_installed("json", "no_such_module") == "not installed: no_such_module"
    assert report.not_installed("json") == ""


def test_captions_of_a_model_that_is_not_there_are_a_row_with_the_reason(tmp_path):
    (row,) = rows_of("toy_captions", [str(tmp_path / "none")], tmp_path)
    assert row.ours is None and "pretrain first" in row.note


def test_all_benchmarks_are_run_or_said_to_be_no_benchmark():
    listed = {command.split(".py")[0] for found in run_all.COMMANDS.values() for command in found}
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert listed <= there
    assert there - listed == {"report", "run_all", "pictures", "plain_virtex", "scale"} & there


def test_every_command_is_understood_by_its_benchmark():
    for found in run_all.COMMANDS.values():
        for command in found:
            script, *words = run_all.typed(command).split()[1:]
            module = importlib.import_module(f"benchmarks.{Path(script).stem}")
            module.build_parser().parse_args(words)


def test_pairs_alternate_and_the_ratio_is_the_median_of_theirs():
    args = report.benchmark_parser("").parse_args(["--repeat", "3"])
    order = []
    ours, reference = iter([1.0, 2.0, 4.0]), iter([2.0, 2.0, 40.0])
    row = report.compare(
        "work",
        lambda: order.append("ours") or next(ours),
        lambda: order.append("reference") or next(reference),
        "another",
        args,
        warm_up=False,
    )
    assert order == ["ours", "reference", "reference", "ours", "ours", "reference"]
    assert (row.ours, row.reference, row.ratio) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1234"), (12.345, "12.3"), (0.001234, "0.00123"), (0.0, "0"), (None, "")],
)
def test_numbers_have_three_digits_that_count(value, shown):
    assert report.number(value) == shown


def test_one_command_makes_one_table(tmp_path):
    rows, table = tmp_path / "rows", tmp_path / "table.md"
    measured = report.Row("measured before", "s", 1.0, 2.0, 2.0, False, "another")
    rows.mkdir()
    run_all.rows_file("svm.py --device cpu", rows).write_text(json.dumps([asdict(measured)]))
    command = [sys.executable, "benchmarks/run_all.py", "--device", "cpu", "--output", str(table)]
    command += ["--only", "svm", "--rows", str(rows)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = table.read_text()
    for word in ("processor", "memory", "GPU", "torch", "Detectron2", "commit", "load average"):
        assert re.search(rf"^- .*{word}", page, re.MULTILINE), word
    (line,) = [line for line in page.splitlines() if line.startswith("| svm ")]
    assert line == (
        "| svm | measured before | 1.00 | another 2.00 | 2.00 | s "
        "| `python benchmarks/svm.py --device cpu` |"
    )


def test_the_leaderboard_is_timed_with_and_without_its_page(tmp_path):
    alone, whole = rows_of("leaderboard", ["--quick"], tmp_path)
    assert alone.name.endswith("CSV") and whole.name.endswith("CSV, page and chart")
    assert alone.ours > 0 and whole.ours > 0 and alone.reference is None


def test_a_benchmark_that_fails_is_a_row_with_its_last_words_and_is_tried_again(tmp_path):
    command = "leaderboard.py many"
    run_all.measure(command, tmp_path, quick=False)
    (row,) = run_all.rows_of(command, tmp_path)
    assert row.note.startswith("failed: leaderboard.py: error: argument counts")
    assert run_all.has_failed([row]) and not run_all.is_measured(command, tmp_path)
