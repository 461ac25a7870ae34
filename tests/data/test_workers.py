"""DataLoader workers that cannot be started or used, and the end of a program that has some."""

import gc
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from torch.utils.data import DataLoader

from tests.errors import raises_code
from virtex.data.workers import GuardedLoader, init_worker


def loader(num_workers: int) -> GuardedLoader:
    return GuardedLoader(
        DataLoader(range(200), num_workers=num_workers, worker_init_fn=init_worker)
    )


@contextmanager
def open_files_left(count: int):
    """Let this process open ``count`` more files."""
    used = set(map(int, os.listdir("/proc/self/fd")))
    limit = next(n for n in range(4096) if n - sum(fd < n for fd in used) == count)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("files", [1, 6, 9, 14])  # for the first queue, another, workers
def test_workers_that_cannot_be_started(monkeypatch, files):
    printed = []  # by destructors
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(error.exc_value))
    with open_files_left(files), raises_code("data.workers_failed", "--num-workers", "ulimit -n"):
        iter(loader(8))
    gc.collect()
    assert not printed


def test_batches_that_cannot_be_received():
    kept = []  # each holds an open file
    with open_files_left(40), raises_code("data.workers_failed", "--num-workers", "ulimit -n"):
        for batch in loader(1):
            kept.append(batch)
    assert kept


def test_program_with_workers_ends():
    code = (
        "from tests.data.test_workers import loader\n"
        "batches = iter(loader(2))\nnext(batches)\nraise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert not done.stderr


def test_interruption_while_workers_start():
    """Python would ignore a KeyboardInterrupt that a function around the fork raises."""
    pending = []

    def iterate(loader):
        signal.raise_signal(signal.SIGINT)
        pending.append(signal.sigpending())
        return iter(())

    guarded = loader(0)
    guarded.loader = type("Loader", (), {"num_workers": 1, "__iter__": iterate})()
    # a shell starts background jobs with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            iter(guarded)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pending == [{signal.SIGINT}]
