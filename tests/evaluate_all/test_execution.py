"""Parallel runs: their GPUs and threads, how they fail, how they are stopped."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.errors import raises_code
from tests.evaluate_all.fake_runs import (
    NOTE,
    STUBBORN,
    count_parallel,
    fake_runs,
    is_alive,
    read_notes,
    wait_until,
)
from virtex.evaluate_all.execution import run_all
from virtex.evaluate_all.launchers import LocalLauncher, split_gpus, visible_gpus
from virtex.evaluate_all.plan import FAILED, PENDING

EIGHT = [str(number) for number in range(8)]


@pytest.mark.parametrize(
    ("gpus", "parallel", "expected"),
    [
        (EIGHT, 1, [tuple(EIGHT)]),
        (EIGHT, 8, [(name,) for name in EIGHT]),
        (["3", "GPU-5ab", "0", "7"], 2, [("3", "GPU-5ab"), ("0", "7")]),
        ([], 3, [(), (), ()]),
    ],
)
def test_gpus_are_split_evenly(gpus, parallel, expected):
    assert split_gpus(gpus, parallel) == expected


def test_unavailable_gpus_are_an_error():
    assert visible_gpus(0) == []
    with raises_code("arguments.max_parallel", "--max-parallel 3", "8 GPUs"):
        split_gpus(EIGHT, 3)
    with raises_code("device.too_few_gpus", "--num-gpus"):
        visible_gpus(torch.cuda.device_count() + 1)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_visible_devices_are_kept(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus(None) == visible_gpus(1) == ["0"]


def test_parallel_runs_use_their_gpus_and_threads(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_all(fake_runs(tmp_path, NOTE, 4, parallel=2), [("2",), ("7",)], LocalLauncher(2))
    notes = read_notes(tmp_path, 4)
    assert count_parallel(notes) == 2
    assert {gpus for _, gpus, _, _ in notes} == {"2", "7"}
    for gpu in ("2", "7"):  # one after the other on each
        times = sorted((start, end) for start, gpus, _, end in notes if gpus == gpu)
        assert all(end <= later for (_, end), (later, _) in itertools.pairwise(times))
    assert {threads for _, _, threads, _ in notes} == {str(max(os.cpu_count() // 2, 1))}


def test_single_run_uses_all_gpus_and_streams(tmp_path, capsys):
    run_all(fake_runs(tmp_path, NOTE, 2), [("0", "1", "GPU-a")], LocalLauncher(1))
    notes = read_notes(tmp_path, 2)
    assert count_parallel(notes) == 1
    assert {gpus for _, gpus, _, _ in notes} == {"0,1,GPU-a"}
    assert capsys.readouterr().out.splitlines().count("started") == 2


# Prints progress until its note exists
PROGRESS = """
import os, sys, time
print("\\r 1 of 3", end="\\r 2 of 3", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


def test_parallel_runs_report_progress(tmp_path):
    lines = []

    def log(line):
        lines.append(line)
        if line.endswith("2 of 3"):
            (tmp_path / "note_0").touch()  # ends the run

    run_all(fake_runs(tmp_path, PROGRESS), [()] * 2, LocalLauncher(2), log, 0.01)
    assert "[1/1] run 0:  2 of 3" in lines


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "print('python -m tool: error: no data [data.missing]'); print('more'); exit(2)",
            "exit status 2: no data [data.missing]",
        ),
        ("print('error in process 1: lost'); exit(1)", "exit status 1: lost"),
        ("print('so far'); 1 / 0", "exit status 1: ZeroDivisionError: division by zero"),
        ("exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); exit('still here')",
            "exit status 1: still here",
        ),
    ],
)
def test_failures_have_a_reason(tmp_path, program, reason):
    (run,) = runs = fake_runs(tmp_path, program)
    assert run_all(runs, [()], LocalLauncher(1)) == 0
    assert (run.status, run.reason) == (FAILED, reason)


def test_missing_record_is_a_failure(tmp_path):
    (run,) = runs = fake_runs(tmp_path, "")
    run_all(runs, [()], LocalLauncher(1))
    assert run.status == FAILED
    assert run.reason.endswith(f"{run.folder} [run.no_record]")


def test_each_attempt_has_its_own_reason(tmp_path):
    (run,) = runs = fake_runs(tmp_path, "print('error: the first'); exit(2)")
    run_all(runs, [()], LocalLauncher(1))
    run.base, run.status = ("exit(3)",), PENDING
    run_all(runs, [()], LocalLauncher(1))
    assert run.reason == "exit status 3"
    assert run.log.read_text().count("=== ") == 2


PARENT = """
import sys
from pathlib import Path
from tests.evaluate_all.fake_runs import fake_runs
from virtex.evaluate_all import launchers
from virtex.evaluate_all.execution import run_all
launchers.GRACE_SECONDS = 1
runs = fake_runs(Path(sys.argv[1]), sys.argv[2], 3)
stopped = run_all(runs, [(), ()], launchers.LocalLauncher(2))
print(*(run.status for run in runs), sep=", ")
sys.exit(128 + stopped)
"""


def start_parent(folder, program):
    """Start a process with two active runs; return it and the ids of their processes."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    notes = [folder / "note_0", folder / "note_1"]
    wait_until(lambda: all(note.exists() and note.read_text() for note in notes))
    return parent, [int(number) for note in notes for number in note.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interruption_stops_all_processes(tmp_path, number):
    parent, numbers = start_parent(tmp_path, STUBBORN)
    parent.send_signal(number)
    printed, _ = parent.communicate(timeout=300)
    assert parent.returncode == 128 + number
    assert printed.splitlines()[-1] == "interrupted, interrupted, pending"
    assert not any(is_alive(number) for number in numbers)
    assert not (tmp_path / "note_2").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_runs_end_when_the_parent_is_killed(tmp_path):
    parent, numbers = start_parent(tmp_path, STUBBORN.replace("SIG_IGN", "SIG_DFL"))
    parent.kill()
    parent.communicate(timeout=300)
    wait_until(lambda: not any(is_alive(number) for number in numbers[::2]))
    for number in numbers[1::2]:  # their own children
        os.kill(number, signal.SIGKILL)
