"""The command: what it writes and prints, and that it writes nothing when something is wrong."""

import csv
import os
import shutil
import subprocess
import sys
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
    """Return the exit status, lines of stdout, lines of stderr."""

    def start(*arguments):
        with pytest.raises(SystemExit) as exit:
            run_tool(tool.main, tool.build_parser(), [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return exit.value.code, out.splitlines(), err.splitlines()

    return start


@pytest.fixture
def rejects(run):
    """Expect exit status 2 and an error with a code that names something."""

    def check(code, named, *arguments):
        status, _, err = run(*arguments)
        assert status == 2
        assert err[-1].endswith(f"[{code}]")
        assert str(named) in err[-1]

    return check


def test_all_outputs_are_written_and_named(run, results, tmp_path):
    out = tmp_path / "new" / "folder"
    names = {"output": "a.csv", "markdown": "a.md", "html": "a.html", "plot": "a.svg"}
    flags = [part for flag, name in names.items() for part in (f"--{flag}", out / name)]
    for _ in range(2):  # existing files are replaced
        status, printed, err = run(results, *flags)
        assert (status, err) == (0, [])
        written = ", ".join(str(out / name) for name in names.values())
        assert printed == [f"2 models, 3 records, 0 skipped, 0 duplicates; wrote {written}"]
    assert sorted(os.listdir(out)) == sorted(names.values())
    with open(out / "a.csv", newline="") as file:
        assert next(csv.DictReader(file))["voc07_svm/mAP"] == "88.5000"


def test_without_an_output_the_table_is_printed(run, results):
    status, printed, _ = run(results)
    assert status == 0
    assert printed[0].startswith("| model ")
    assert printed[-1] == "2 models, 3 records, 0 skipped, 0 duplicates"


def test_skipped_and_duplicate_files_are_listed(run, rejects, results, tmp_path):
    output = "--output", tmp_path / "a.csv"
    assert run(results, *output, "--strict")[0] == 0
    os.remove(tmp_path / "a.csv")
    write(results, "{", "[]", '{"schema_version": 9}', record("b", "coco"))
    rejects("leaderboard.strict", "3 skipped, 1 duplicate", results, *output, "--strict")
    assert os.listdir(tmp_path) == ["results"]
    status, printed, err = run(results, *output)
    assert status == 0
    assert [line.split()[0] for line in err] == ["skipped"] * 3 + ["ignored"]
    assert printed[0].startswith("2 models, 3 records, 3 skipped, 1 duplicate; wrote")


def test_long_csv(run, results, tmp_path):
    run(results, "--output", tmp_path / "a.csv", "--long")
    head, first = (tmp_path / "a.csv").read_text().splitlines()[:2]
    assert head.startswith("model,kind,arch,sha256,task,protocol,version,overrides,data,metric")
    assert first.startswith("a,measured,resnet50,")


@pytest.mark.parametrize(
    ("flags", "csv_has", "markdown_has"),
    [
        ((), True, False),
        (("--metrics", "primary"), False, False),
        (("--metrics", "all"), True, True),
    ],
)
def test_metrics_are_primary_or_all(run, results, tmp_path, flags, csv_has, markdown_has):
    run(results, "--output", tmp_path / "a.csv", "--markdown", tmp_path / "a.md", *flags)
    assert ("voc07_svm/AP/cat" in (tmp_path / "a.csv").read_text()) == csv_has
    assert ("voc07_svm/AP/cat" in (tmp_path / "a.md").read_text()) == markdown_has


def test_labels_tasks_and_published_rows(run, results, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRTEX_ZOO", "")  # --zoo adds to it; this restores it
    own = tmp_path / "zoo.yaml"
    own.write_text(
        "models:\n  mine:\n    urls: [https://example.org/mine.pth]\n    results:\n"
        "    - {task: voc07_svm, protocol: paper, metric: mAP, value: 77.7, source: my paper}\n"
    )
    options = "--label", "a=Our model", "--tasks", "voc07_svm", "--published", "--zoo", own
    _, printed, err = run(results, *options)
    assert not err
    assert any(line.startswith("| Our model ") for line in printed)
    assert not any("coco" in line for line in printed[:1])
    [line] = [line for line in printed if line.startswith("| mine (published)")]
    assert "77.70" in line and "my paper" in line
    assert printed[-1].startswith("1 model, 2 records, 0 skipped, 0 duplicates, ")
    assert printed[-1].endswith(" published")


def test_control_characters_are_not_printed(run, tmp_path):
    folder = write(tmp_path / "\x1b[31mred", record("\x1b[31mred"), "{")
    status, printed, err = run(folder)
    assert status == 0
    assert not any("\x1b" in line for line in printed + err)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--output", "{tmp}"), "output"),
        (("--output", "{tmp}/result.json"), "output"),
        (("--output", "{tmp}/file/a.csv"), "output"),
        (("--output", "{tmp}/file"), "output"),
        (("--output", "/dev/null"), "output"),
        (("--plot", "{tmp}/a.bmp"), "output"),
        (("--markdown", "{tmp}/a.csv"), "output"),
        (("--tasks", "lvis"), "unknown_task"),
        (("--label", "x=y"), "unknown_label"),
        (("--output", "-", "--markdown", "-"), "arguments"),
    ],
)
def test_on_an_invalid_argument_nothing_is_written(rejects, results, tmp_path, flags, code):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    given = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    outputs = "--html", tmp_path / "a.html", "--output", tmp_path / "a.csv"
    rejects(f"leaderboard.{code}", given[1], results, *outputs, *given)
    assert sorted(tmp_path.rglob("*")) == before


def test_long_needs_the_csv(rejects, results):
    rejects("leaderboard.arguments", "--output", results, "--long")


def test_results_without_a_record_are_named(rejects, tmp_path):
    place = tmp_path / "elsewhere"
    rejects("leaderboard.not_found", place, place, "--output", tmp_path / "a.csv")
    place.mkdir()
    rejects("leaderboard.no_results", place, place, "--output", tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("flag", ["--output", "--markdown"])
def test_dash_is_standard_output(run, results, tmp_path, flag):
    run(results, flag, tmp_path / "file")
    status, printed, err = run(results, flag, "-", "--html", tmp_path / "a.html")
    assert status == 0
    assert printed == (tmp_path / "file").read_text().splitlines()
    assert err == [f"2 models, 3 records, 0 skipped, 0 duplicates; wrote {tmp_path / 'a.html'}"]
    assert run(results, flag, "-")[1:] == (printed, [err[0].partition(";")[0]])


def test_bytes_do_not_depend_on_order_or_place(run, tmp_path):
    runs = [
        record(f"m{n % 4}", ("coco", "voc07_svm")[n % 2], value=40 + n / 7, seed=n)
        for n in range(12)
    ]
    for n, name in enumerate("abcd"):
        write(tmp_path / "one" / name, *runs[n * 3 :][:3])
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


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['leaderboard.py', '--help']\n"
        "from virtex.eval_tools import leaderboard\n"
        "import virtex.cli\n"
        "try: virtex.cli.run_tool(leaderboard.main, leaderboard.build_parser())\n"
        "except SystemExit: print({'torch', 'pandas', 'pydantic', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "examples:" in done.stdout
