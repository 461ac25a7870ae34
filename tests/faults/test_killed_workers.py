"""A process that loads images is killed: a sentence says so at once, and --resume goes on."""

import contextlib
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.faults.small_runs import RUNS, has_come, result_of, undisturbed
from tests.faults.started_tools import worker_processes
from virtex.engine.checkpoints import last_checkpoint

QUICK = ("pretraining",)
SOON = 90  # seconds, where others use the processor; alone it takes two
CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))  # version 1 and 2
LIMITS = ("memory.limit_in_bytes", "memory.max")
MEGABYTE = 1 << 20


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole")
        metafunc.parametrize("kind", RUNS if whole else QUICK)
    if "moment" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole")
        metafunc.parametrize("moment", ("training", "evaluating") if whole else ("training",))


def at_work(run, kind, out, moment):
    """The run, held up at a moment at which it has processes that load images."""
    has_come(run, out, getattr(RUNS[kind], moment))
    run.until(lambda: len(worker_processes(run)) >= 2, "its processes")
    run.pause()
    return worker_processes(run)


def assert_said(kind, run):
    run.go_on()
    assert run.ends(SOON) == 2, run.tail()
    said = run.sentence()
    assert "because memory ran out" in said
    assert "smaller batches" in said
    assert "--resume" in said
    assert RUNS[kind].workers in said


def assert_goes_on(kind, out, started):
    started(RUNS[kind].start(out, "--resume", name="next", workers=2)).ended_well()
    assert result_of(RUNS[kind], out) == undisturbed(kind)[0]


def test_the_death_of_a_worker_is_said_and_the_run_goes_on(kind, moment, out, started):
    run = started(RUNS[kind].start(out, workers=2))
    workers = at_work(run, kind, out, moment)
    # a validation is told at its end, when its own processes are no longer wanted
    told_late = moment == "evaluating" and "validation" in RUNS[kind].evaluating
    os.kill(workers[0 if told_late else -1], signal.SIGKILL)
    assert_said(kind, run)
    assert_goes_on(kind, out, started)


def test_the_death_of_all_workers_is_said(kind, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    run = started(RUNS[kind].start(out, workers=2))
    for worker in at_work(run, kind, out, "training"):
        os.kill(worker, signal.SIGKILL)
    assert_said(kind, run)


@contextlib.contextmanager
def memory_for(processes):
    """Little memory for these processes: the kernel's own OOM killer comes, as in a container."""
    root = next((folder for folder in CGROUPS if folder.is_dir()), CGROUPS[1])
    group = root / f"virtex-faults-{os.getpid()}"
    try:
        group.mkdir()
        next(group / name for name in LIMITS if (group / name).exists()).write_text("4096")
    except (OSError, StopIteration):
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip("no memory cgroup that can be written")
    try:
        for process in processes:
            (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        with contextlib.suppress(OSError):
            for process in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(process)
        group.rmdir()


def test_the_kernels_oom_killer_is_said_and_the_run_goes_on(kind, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    run = started(RUNS[kind].start(out, workers=2))
    with memory_for(at_work(run, kind, out, "training")[-1:]):
        assert_said(kind, run)
    assert_goes_on(kind, out, started)


def test_a_worker_without_memory_left_is_said(kind, out, started, whole):
    """ulimit -v: an allocation fails, and nobody is killed."""
    if not whole:
        pytest.skip("with --whole")
    if kind == "captioning":
        pytest.skip("a worker that cannot start its thread for its first batch is waited for")
    run = started(RUNS[kind].start(out, workers=2))
    for worker in at_work(run, kind, out, "training"):
        resource.prlimit(worker, resource.RLIMIT_AS, (MEGABYTE, MEGABYTE))
    run.go_on()
    assert run.ends(SOON) == 2, run.tail()
    # a worker that cannot even start a thread says so by itself, with a traceback
    [said] = [line for line in run.errors.splitlines() if ": error: " in line]
    assert "a process that loads data" in said
    assert "memory" in said


def test_checkpoints_are_whole_after_a_workers_death(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for kind in ("pretraining", "linear", "transfer"):
        folder = out / kind
        run = started(RUNS[kind].start(folder, workers=2))
        os.kill(at_work(run, kind, folder, "evaluating")[0], signal.SIGKILL)
        assert_said(kind, run)
        assert last_checkpoint(folder) is not None
        assert not list(folder.glob(".*.unfinished"))
        assert not (folder / ".lock").exists()
