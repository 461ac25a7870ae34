"""Processes at the same time, what they are given, how they end: with small programs as tools."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluate_all.small_tools import (
    NOTE,
    STUBBORN,
    TASK,
    at_the_same_time,
    entries_of,
    is_alive,
    notes_in,
    wait_until,
)
from virtex.evaluate_all.plan import FAILED
from virtex.evaluate_all.running import Here, run_all


def reason_of(folder, tool):
    (entry,) = entries = entries_of(folder, tool)
    run_all(entries, [()], Here(1))
    assert entry.status == FAILED
    return entry.reason


def test_a_run_a_gpu(tmp_path):
    run_all(entries_of(tmp_path, NOTE, 5), [("2",), ("7",)], Here(2))
    notes = notes_in(tmp_path, 5)
    assert at_the_same_time(notes) == 2
    assert {gpus for _, gpus, _, _ in notes} == {"2", "7"}
    for gpu in ("2", "7"):  # one after the other on each
        times = sorted((start, end) for start, gpus, _, end in notes if gpus == gpu)
        assert all(end <= later for (_, end), (later, _) in itertools.pairwise(times))


def test_one_run_over_all_gpus(tmp_path):
    run_all(entries_of(tmp_path, NOTE, 2), [("0", "1", "GPU-a")], Here(1))
    notes = notes_in(tmp_path, 2)
    assert at_the_same_time(notes) == 1
    assert {gpus for _, gpus, _, _ in notes} == {"0,1,GPU-a"}


def test_runs_at_once_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_all(entries_of(tmp_path, NOTE, 1), [()] * 2, Here(2))
    ((_, gpus, threads, _),) = notes_in(tmp_path, 1)
    assert (gpus, threads) == ("", str(max(os.cpu_count() // 2, 1)))


def test_only_one_run_at_a_time_streams(tmp_path, capsys):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        run_all(entries_of(folder, NOTE), [()] * number, Here(number))
        assert ("no news" in capsys.readouterr().out) == (number == 1)
        assert "no news" in (folder / "logs/0.log").read_text()


def test_what_runs_side_by_side_is_told_now_and_then_by_its_last_line(tmp_path):
    bar = "import time; print('begun'); print('\\r 1 of 3', end='\\r 2 of 3'); time.sleep(2)"
    told = []
    run_all(entries_of(tmp_path, bar), [()] * 2, Here(2, news_seconds=0.5), told.append)
    assert "  0:  2 of 3" in "\n".join(told).splitlines()


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (
            "import sys; print('tool.py: error: no data'); print('more'); sys.exit(2)",
            "exit status 2: no data",
        ),
        ("print('error in process 1: lost'); exit(1)", "exit status 1: lost"),
        ("print('so far'); 1 / 0", "exit status 1: ZeroDivisionError: division by zero"),
        ("exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_failure_has_a_reason(tmp_path, tool, reason):
    assert reason_of(tmp_path, tool) == reason


def test_an_attempt_has_its_own_reason(tmp_path):
    (entry,) = entries = entries_of(tmp_path, "print('error: the first'); exit(2)")
    run_all(entries, [()], Here(1))
    (tmp_path / "tools" / TASK.tool).write_text("exit(3)")
    entry.status = "to run"
    run_all(entries, [()], Here(1))
    assert entry.reason == "exit status 3"
    log = entry.run.log.read_text()
    assert log.count("=== ") == 2 and "the first" in log


def test_an_end_without_a_record_is_a_failure(tmp_path):
    assert reason_of(tmp_path, "") == f"it ended without a record in {tmp_path / 'run_0'}"


PARENT = """
import sys
from pathlib import Path
from tests.evaluate_all.small_tools import entries_of
from virtex.evaluate_all import running
from virtex.evaluate_all.running import Here, run_all
running.GRACE_SECONDS = 1
folder, tool = Path(sys.argv[1]), sys.argv[2]
entries = entries_of(folder, tool, 3)
stopped = run_all(entries, [(), ()], Here(2))
print(*(entry.status for entry in entries), sep=", ")
sys.exit(128 + stopped)
"""


def started_parent(folder, tool):
    """A process that runs two stubborn tools at once, and the numbers of all they started."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), tool],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    notes = [folder / "note_0", folder / "note_1"]
    wait_until(lambda: all(n.exists() and n.read_text() for n in notes), "both tools run")
    return parent, [int(number) for note in notes for number in note.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_ends_all_that_runs_and_starts_nothing(tmp_path, number):
    parent, numbers = started_parent(tmp_path, STUBBORN)
    parent.send_signal(number)
    printed, _ = parent.communicate(timeout=60)
    assert parent.returncode == 128 + number
    assert printed.splitlines()[-1] == "interrupted, interrupted, not started"
    assert not any(is_alive(number) for number in numbers)
    assert not (tmp_path / "note_2").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they go on")
def test_no_tool_goes_on_unseen_where_this_process_is_killed(tmp_path):
    parent, numbers = started_parent(tmp_path, STUBBORN.replace("SIG_IGN", "SIG_DFL"))
    parent.kill()
    parent.communicate(timeout=60)
    wait_until(lambda: not any(is_alive(number) for number in numbers[::2]), "the tools have ended")
    for number in numbers[1::2]:  # what a tool starts is its own affair
        os.kill(number, signal.SIGKILL)


def test_a_tool_leaves_a_clusters_warning_to_its_job(tmp_path):
    tool = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); exit('still here')"
    assert reason_of(tmp_path, tool) == "exit status 1: still here"
