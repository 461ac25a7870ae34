"""The tool: what it writes and says, and that it writes nothing when something is wrong."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.leaderboard.board_records import record, write
from virtex.cli import run_tool
from virtex.eval_tools import leaderboard as tool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(tmp_path):
    return write(
        tmp_path / "results",
        record("a", value=88.0), record("a", value=89.0, seed=1), record("b", "coco"),
    )  # fmt: skip


@pytest.fixture
def run(capsys):
    """Status, lines of stdout, lines of stderr."""

    def start(*arguments):
        with pytest.raises(SystemExit) as left:
            run_tool(tool.main, tool.build_parser(), [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return left.value.code, out.splitlines(), err.splitlines()

    return start


@pytest.fixture
def refused(run):
    def start(*arguments):
        status, _, err = run(*arguments)
        assert status == 2
        return err[-1].partition("error: ")[2]

    return start


def test_all_outputs_are_written_and_named(run, results, tmp_path):
    out = tmp_path / "new" / "folder"
    names = {"output": "a.csv", "markdown": "a.md", "html": "a.html", "plot": "a.svg"}
    flags = [part for flag, name in names.items() for part in (f"--{flag}", out / name)]
    status, said, err = run(results, *flags)
    assert (status, err) == (0, [])
    written = ", ".join(str(out / name) for name in names.values())
    assert said == [f"2 models, 3 records, 0 skipped, 0 duplicates; wrote {written}"]
    assert sorted(os.listdir(out)) == sorted(names.values())
    with open(out / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["voc07_svm/mAP"] == "88.5000"


def test_without_an_output_the_table_is_printed(run, results):
    status, said, _ = run(results)
    assert status == 0
    assert said[0].startswith("| model ")
    assert said[-1] == "2 models, 3 records, 0 skipped, 0 duplicates"


def test_skipped_and_duplicate_files_get_a_line_each_and_are_counted(run, results, tmp_path):
    write(results, "{", "[]", '{"schema_version": 9}', record("b", "coco"))
    status, said, err = run(results, "--output", tmp_path / "a.csv")
    assert status == 0
    assert [line.split()[0] for line in err] == ["skipped"] * 3 + ["duplicate"]
    assert [line.split(": ")[1] for line in err[:3]] == ["corrupt", "foreign", "future"]
    assert said[0].startswith("2 models, 3 records, 3 skipped, 1 duplicate; wrote")


@pytest.mark.parametrize("extra", ["{", record("b", "coco")], ids=["skipped", "duplicate"])
def test_strict_makes_either_an_error_and_writes_nothing(run, refused, results, tmp_path, extra):
    assert run(results, "--output", tmp_path / "a.csv", "--strict")[0] == 0
    os.remove(tmp_path / "a.csv")
    write(results, extra)
    said = refused(results, "--output", tmp_path / "a.csv", "--html", tmp_path / "n/h", "--strict")
    assert said.startswith("--strict: ")
    assert os.listdir(tmp_path) == ["results"]


def test_the_long_csv(run, results, tmp_path):
    run(results, "--output", tmp_path / "a.csv", "--long")
    head, first = (tmp_path / "a.csv").read_text().splitlines()[:2]
    assert head.startswith("model,kind,arch,sha256,task,protocol,version,deviations,data,metric")
    assert first.startswith("a,measured,resnet50,")


@pytest.mark.parametrize(
    ("flags", "csv_has", "markdown_has"),
    [
        ((), True, False),
        (("--metrics", "primary"), False, False),
        (("--metrics", "all"), True, True),
    ],
)
def test_metrics_chooses_between_those_that_rank_and_all(
    run, results, tmp_path, flags, csv_has, markdown_has
):
    run(results, "--output", tmp_path / "a.csv", "--markdown", tmp_path / "a.md", *flags)
    assert ("voc07_svm/AP/cat" in (tmp_path / "a.csv").read_text()) == csv_has
    assert ("voc07_svm/AP/cat" in (tmp_path / "a.md").read_text()) == markdown_has


def test_labels_tasks_and_published_rows(run, results):
    _, said, _ = run(results, "--label", "a=Our model", "--tasks", "voc07_svm", "--published")
    assert any(line.startswith("| Our model ") for line in said)
    assert any("(published)" in line for line in said)
    assert not any("coco" in line for line in said[:1])
    assert said[-1].startswith("1 model, 2 records, 0 skipped, 0 duplicates, ")
    assert said[-1].endswith(" published")


def test_published_numbers_of_a_zoo_of_ones_own(run, results, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRTEX_ZOO", "")  # --zoo adds to it; this takes it back
    own = tmp_path / "zoo.yaml"
    own.write_text(
        "models:\n  mine:\n    urls: [https://example.org/mine.pth]\n    results:\n"
        "    - {task: coco, protocol: coco_mask_rcnn_R_50_FPN_2x, metric: bbox/AP, value: 77.7,"
        " source: my paper}\n"
    )
    _, said, err = run(results, "--published", "--zoo", own)
    assert not err
    [line] = [line for line in said if line.startswith("| mine (published)")]
    assert "77.70" in line
    assert "my paper" in line


def test_a_dash_of_a_model_name_does_not_reach_the_terminal_as_control(run, tmp_path):
    folder = write(tmp_path / "\x1b[31mred", record("\x1b[31mred"), "{")
    status, said, err = run(folder)
    assert status == 0
    assert not any("\x1b" in line for line in said + err)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--output", "{tmp}"), "is a folder"),
        (("--output", "{tmp}/result.json"), "is what a result is called"),
        (("--output", "{tmp}/file/a.csv"), "cannot be written"),
        (("--output", "{tmp}/file"), "is there already"),
        (("--output", "/dev/null"), "is not a file that can be replaced"),
        (("--plot", "{tmp}/a.bmp"), "must end in .png, .svg, .pdf"),
        (("--markdown", "{tmp}/a.csv"), "is named for two outputs"),
        (("--tasks", "lvis"), "--tasks: there is no result of lvis"),
        (("--label", "x=y"), "--label x=y: there is no model of that name"),
    ],
)
def test_bad_outputs_and_flags_are_one_sentence_and_nothing_is_written(
    refused, results, tmp_path, flags, why
):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    given = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    said = refused(results, "--html", tmp_path / "a.html", "--output", tmp_path / "a.csv", *given)
    assert why in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("flag", ["--output", "--markdown"])
def test_a_dash_is_standard_output_and_nothing_else_is_said_there(run, results, tmp_path, flag):
    run(results, flag, tmp_path / "file")
    status, said, err = run(results, flag, "-", "--html", tmp_path / "a.html")
    assert status == 0
    assert said == (tmp_path / "file").read_text().splitlines()
    assert err == [f"2 models, 3 records, 0 skipped, 0 duplicates; wrote {tmp_path / 'a.html'}"]
    assert run(results, flag, "-")[1:] == (said, [err[0].partition(";")[0]])


def test_only_one_output_is_standard_output(refused, results):
    assert refused(results, "--output", "-", "--markdown", "-").startswith("- is named for two")


def test_long_needs_the_csv(refused, results):
    assert "--output" in refused(results, "--long")


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "empty"])
def test_results_without_a_record_are_named(refused, tmp_path, make):
    make(tmp_path / "elsewhere")
    said = refused(tmp_path / "elsewhere", "--output", tmp_path / "a.csv")
    assert str(tmp_path / "elsewhere") in said
    assert not (tmp_path / "a.csv").exists()


def test_an_old_output_is_replaced_and_a_link_to_it_too(run, results, tmp_path):
    (tmp_path / "a.csv").write_text("old")
    run(results, "--output", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().startswith("model,")
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "results"]


def test_the_order_of_folders_and_files_changes_no_byte(run, tmp_path):
    runs = [record(f"m{n % 4}", ("coco", "voc07_svm")[n % 2], value=40 + n / 7, seed=n)
            for n in range(12)]  # fmt: skip
    for name in "abcd":
        write(tmp_path / "one" / name, *runs["abcd".index(name) * 3 :][:3])
    outputs = []
    for number, order in enumerate(("abcd", "dcba")):
        out = tmp_path / f"out{number}"
        folders = [tmp_path / "one" / name for name in order]
        run(*folders, "--output", out / "a.csv", "--html", out / "a.html", "--plot", out / "a.png")
        outputs.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert outputs[0] == outputs[1]
    shutil.move(tmp_path / "one", tmp_path / "moved" / "one")
    folders = [tmp_path / "moved" / "one" / name for name in "abcd"]
    run(*folders, "--html", tmp_path / "moved.html")
    assert (tmp_path / "moved.html").read_bytes() == outputs[0][1]


def test_two_thousand_records_take_little_time_and_memory(tmp_path):
    folder = tmp_path / "results"
    for number in range(2000):
        model, seed = divmod(number, 2)
        write(folder / f"{model // 50}" / f"{model}_{seed}", record(f"m{model}", seed=seed))
    command = [sys.executable, ROOT / "eval_tools/leaderboard.py", folder]
    outputs = ["--output", tmp_path / "a.csv", "--html", tmp_path / "a.html"]
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, [*command, *outputs])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    said, kilobytes = done.stdout.splitlines()
    assert said.startswith("1000 models, 2000 records")
    # 0.5 s and 50 MB on an idle core; what is quadratic, or keeps whole records, is far above
    assert seconds < 10
    assert int(kilobytes) * (1 if sys.platform == "linux" else 1 / 1024) < 150_000


def test_help_answers_without_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['leaderboard.py', '--help']\n"
        "from virtex.eval_tools import leaderboard\n"
        "import virtex.cli\n"
        "try: virtex.cli.run_tool(leaderboard.main, leaderboard.build_parser())\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "examples:" in done.stdout
