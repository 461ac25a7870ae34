"""One of two processes that train together is killed: the other says so soon and ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.small_runs import (
    RUNS,
    free_port,
    has_come,
    result_of,
    two_machines,
    two_processes,
)
from tests.faults.started_tools import PRETRAIN, worker_processes

SOON = 120  # seconds, where others use the processor; gloo would wait for an hour
QUICK = (("pretraining", 1),)
WHOLE = tuple((kind, rank) for kind in RUNS for rank in (0, 1))


def pytest_generate_tests(metafunc):
    if "killed" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole")
        metafunc.parametrize(("kind", "killed"), WHOLE if whole else QUICK)


def test_the_death_of_a_process_is_said_by_the_other(kind, killed, out, started, whole):
    two = [started(run) for run in two_processes(RUNS[kind], out)]
    has_come(two[0], out, RUNS[kind].training)
    two[killed].kill()
    left = two[1 - killed]
    assert left.ends(SOON) == 2, left.tail()
    assert "another process of this job" in left.sentence()
    assert "--resume" in left.sentence()
    if whole:
        undisturbed = out.with_name("undisturbed")
        for folder, flags in ((out, ("--resume",)), (undisturbed, ())):
            for run in [started(run) for run in two_processes(RUNS[kind], folder, *flags)]:
                run.ended_well()
        assert result_of(RUNS[kind], out) == result_of(RUNS[kind], undisturbed)


@pytest.mark.parametrize("killed_machine", [0, 1])
def test_the_death_of_a_machine_is_said_by_the_other(killed_machine, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    two = [started(run) for run in two_machines(RUNS["pretraining"], out)]
    has_come(two[0], out, RUNS["pretraining"].training)
    two[killed_machine].clean_up()
    left = two[1 - killed_machine]
    assert left.ends(SOON) == 2, left.tail()
    assert "another process of this job" in left.sentence()


def test_a_launcher_says_that_its_process_was_killed(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    two = [started(run) for run in two_machines(RUNS["pretraining"], out)]
    has_come(two[0], out, RUNS["pretraining"].training)
    [victim] = [n for n in worker_processes(two[1]) if b"spawn_main" in command_of(n)]
    os.kill(victim, signal.SIGKILL)
    assert "was killed (SIGKILL), probably because memory ran out" in two[1].refuses()
    assert "another process of this job" in two[0].refuses()


def command_of(process):
    return Path(f"/proc/{process}/cmdline").read_bytes()


@pytest.mark.timeout(900)
def test_torchrun_ends_a_job_that_lost_a_process(out, whole):
    if not whole:
        pytest.skip("with --whole")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", PRETRAIN]
    out.parent.mkdir(exist_ok=True)
    log = out.with_name("log")
    with log.open("w") as file:
        run = subprocess.Popen(
            [*command, *map(str, RUNS["pretraining"].arguments(out))],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while "iter: 2  " not in log.read_text():
            assert run.poll() is None, log.read_text()
        [victim] = processes_of(run.pid)[1:]
        os.kill(victim, signal.SIGKILL)
        assert run.wait(SOON) != 0
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    RUNS["pretraining"].start(out, "--resume").ended_well()


def processes_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(number) for number in children.read().split()]
