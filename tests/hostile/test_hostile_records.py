"""Result records of unknown origin are shown in a leaderboard, or skipped with the reason."""

import contextlib
import csv
import io
import json
import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.errors import raises_code
from tests.hostile.data_mutations import as_json, broken, file_of
from tests.hostile.data_runs import guarded, require_plain, run
from tests.leaderboard.board_records import record
from virtex.errors import UserError
from virtex.eval_tools import leaderboard
from virtex.evaluate_all.records import comparable, diff, recorded
from virtex.records import read_record, write_json
from virtex.runner import print_summary

FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]+$)")
WHOLE = record(overrides=[("SOLVER.MAX_ITER", 100, 10, "override")])
PAGE = re.compile(r"<script[^>]*>|</script>|<[a-z]+[^>]* on[a-z]+=", re.IGNORECASE)
NAMES = ("moco_v2.pth", "MoCo", "<b>x</b>", "=1+1", "a=b=c", "\x1b[31m", "{'a': 1}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("records")
    (top / "outside").mkdir()
    (top / "results" / "sound").mkdir(parents=True)
    (top / "results" / "hostile").mkdir()
    (top / "results" / "sound" / "result.json").write_text(json.dumps(record("sound.pth")))
    (top / "board").mkdir()
    return top


def board_of(folder, content, *flags):
    """The leaderboard tool on a sound record and this one; all outputs but the chart."""
    (folder / "results/hostile/result.json").write_bytes(content)
    board = folder / "board"
    outputs = [
        "--output",
        board / "a.csv",
        "--markdown",
        board / "a.md",
        "--html",
        board / "a.html",
    ]
    with guarded(folder / "outside"):
        status, out, err = run(
            leaderboard, folder / "results", *outputs, "--metrics", "all", *flags
        )
    require_plain(status, err, folder, "--label", "--tasks")
    assert sorted(os.listdir(folder)) == ["board", "outside", "results"]
    assert sorted(os.listdir(folder / "results/hostile")) == ["result.json"]
    for text in (out, err):
        assert all(c.isprintable() or c == "\n" for c in text)
    return status, board


def require_harmless(board, scripts):
    """Every row of the CSV is as long as its head, no cell is a formula; the page runs its own."""
    text = (board / "a.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [cell for row in rows for cell in row if FORMULA.match(cell)]
    page = (board / "a.html").read_text(encoding="utf-8")
    assert [found[0] for found in PAGE.finditer(page)] == scripts
    table = (board / "a.md").read_text(encoding="utf-8").splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


@pytest.fixture(scope="module")
def scripts(folder):
    """The script elements of a page of sound records alone."""
    _, board = board_of(folder, b"{}")
    return [found[0] for found in PAGE.finditer((board / "a.html").read_text())]


@given(file_of(WHOLE))
@example(as_json({**WHOLE, "metrics": {f"m{n}": 1.0 for n in range(20_000)}}).encode())
@example(b"[],".join([b"["] + [b""] * 2_600_000) + b"0]")
@example(as_json({**WHOLE, "created": "0001-01-01T00:00:00+23:59"}).encode())
@example(as_json({**WHOLE, "created": "9999-12-31T23:59:59-23:59"}).encode())
def test_any_record_is_shown_or_skipped(folder, scripts, content):
    status, board = board_of(folder, content)
    assert status == 0  # the sound record is there whatever the other one holds
    require_harmless(board, scripts)


@given(broken(json.dumps(WHOLE)))
def test_any_bytes_are_shown_or_skipped(folder, scripts, content):
    status, board = board_of(folder, content)
    assert status == 0
    require_harmless(board, scripts)


@given(st.one_of(file_of(WHOLE), broken(json.dumps(WHOLE))))
@example(as_json({**WHOLE, "metrics": [1.0] * 9, "primary_metric": 10}).encode())
@example(b"[" * 100_000)
def test_any_record_in_a_run_folder_is_read_or_rejected(folder, content):
    """What --resume and evaluate_all.py read of an earlier run's record."""
    path = folder / "results/hostile/result.json"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        found = read_record(path)
        with contextlib.redirect_stdout(io.StringIO()):
            print_summary(found, path.parent)
        expected = comparable("voc07_svm", "paper", "1", {}, 0)
        assert isinstance(diff(recorded(found), expected), str)


def test_pipe_is_not_a_record(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    with raises_code("records.invalid", tmp_path):
        read_record(tmp_path / "result.json")


def test_file_name_that_is_not_text_is_written(tmp_path):
    write_json(tmp_path / "a.json", {"name": os.fsdecode(b"caf\xe9.pth")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "caf?.pth"}


@given(st.one_of(st.sampled_from(NAMES), st.text(max_size=40)), st.text(max_size=40), st.booleans())
def test_any_label(folder, scripts, name, label, known):
    content = json.dumps({**WHOLE, "model": {**WHOLE["model"], "name": name or "x"}})
    named = (name or "x") if known else f"{name}?"
    with contextlib.suppress(UnicodeEncodeError):  # no command line can hold half a character
        os.fsencode(named + label)
        status, board = board_of(folder, content.encode(), f"--label={named}={label}")
        if status == 0:
            require_harmless(board, scripts)


@pytest.fixture(scope="module")
def chart(folder, whole):
    """What draws charts is imported, which takes longer than a case may."""
    if whole:
        run(leaderboard, folder / "results/sound", "--plot", folder / "board/a.png")


@given(file_of(WHOLE), st.sampled_from([".svg", ".pdf", ".png"]))
@example(as_json({**WHOLE, "metrics": {"mAP": None}}).encode(), ".svg")
@pytest.mark.timeout(3000)
def test_any_single_record(folder, chart, whole, content, suffix):
    """Alone; a chart takes long, so that only the whole is drawn."""
    (folder / "results/hostile/result.json").write_bytes(content)
    plot = folder / "board" / f"a{suffix}"
    for outputs in ([], ["--html", plot.with_name("b.html")], *[["--plot", plot]] * whole):
        status, _, err = run(leaderboard, folder / "results/hostile", *outputs)
        require_plain(status, err, folder, "--plot")


def test_undefined_metrics_are_not_drawn(folder):
    content = as_json({**WHOLE, "metrics": {"mAP": None, "other": 1.0}})
    (folder / "results/hostile/result.json").write_text(content)
    plot = folder / "board/a.svg"
    status, _, err = run(leaderboard, folder / "results/hostile", "--plot", plot)
    assert status == 2
    require_plain(status, err, "[leaderboard.no_results]")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_special_files_named_like_records_are_skipped(tmp_path, kind):
    place = tmp_path / "results" / "run"
    place.mkdir(parents=True)
    make = {
        "pipe": lambda path: os.mkfifo(path),
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }
    make[kind](place / "result.json")
    (place / "up").symlink_to(tmp_path)
    for named in (tmp_path, place / "result.json"):
        status, _, err = run(leaderboard, named)
        require_plain(status, err, named)
        assert status == 2


def test_output_linked_to_itself_is_rejected(folder, tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "a.csv")
    status, _, err = run(leaderboard, folder / "results/sound", "--output", tmp_path / "a.csv")
    require_plain(status, err, tmp_path / "a.csv")
