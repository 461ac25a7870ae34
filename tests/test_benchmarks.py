"""Every benchmark runs with tiny sizes."""

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import measure, run_all, scale

ARGUMENTS = {
    "svm": ("--device", "cpu"),
    "linear_probe": ("--device", "cpu"),
    "caption_scores": (),
    "transfer_overhead": ("--num-gpus", "0"),
    "feature_extraction": ("--device", "cpu"),
    "pretraining_throughput": ("--device", "cpu"),
    "leaderboard": (),
}
QUICK = ("svm", "linear_probe")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.whole] * (n not in QUICK)) for n in ARGUMENTS]
)
def test_benchmark_runs(name, tmp_path):
    file = tmp_path / "rows.json"
    module = importlib.import_module(f"benchmarks.{name}")
    module.main([*ARGUMENTS[name], "--quick", "--json", str(file)])
    rows = [measure.Row(**fields) for fields in json.loads(file.read_text())]
    assert rows and all(row.ours or row.note for row in rows)


@pytest.mark.parametrize("command", [c for commands in run_all.COMMANDS.values() for c in commands])
def test_make_bench_command_is_valid(command):
    script, *words = run_all.as_typed(command).split()[1:]
    importlib.import_module(f"benchmarks.{Path(script).stem}").build_parser().parse_args(words)


@pytest.mark.whole
def test_scale_measures_every_subject(tmp_path, capsys):
    scale.main([*scale.SUBJECTS, "--quick", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(f"## {name}" in printed for name in scale.SUBJECTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("power", "expected"), [(1, 1.0), (2, 2.0)])
def test_scale_finds_the_slope(power, expected):
    sizes = (1000, 2000, 4000, 8000)
    assert scale.growth(sizes, [(n / 1000) ** power for n in sizes]) == pytest.approx(expected)
