"""Handle SIGTERM, which schedulers send some time before they kill a job, and broken pipes."""

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

RESUME = 75  # exit status EX_TEMPFAIL of <sysexits.h>: the same command with --resume continues
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
GRACE_SECONDS = 120  # for the current iteration and its checkpoint


class SigtermReceived(KeyboardInterrupt):
    """SIGTERM was received."""

    def __init__(self, saved: str = "") -> None:
        """
        Args:
            saved: the state that a resumed run continues from, for the message.
        """
        super().__init__(f"stopped by SIGTERM{saved and f', {saved}'}; continue with --resume")


class SigtermFlag:
    """A flag that is set when SIGTERM is received."""

    received = False


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise ``SigtermReceived``, as Ctrl-C raises KeyboardInterrupt."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # scheduler and launcher may both send it
        raise SigtermReceived

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def defer_sigterm() -> Iterator[SigtermFlag]:
    """Record SIGTERM in the yielded flag, which the block checks where it can stop cleanly.

    If the block completes nevertheless, the signal is raised again after it.
    """
    flag = SigtermFlag()

    def handle(_number: int, _frame: FrameType | None) -> None:
        flag.received = True

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
    if flag.received:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM while workers are started; they call ``init_worker_signals``.

    Python ignores an exception that is raised in the functions it calls around a fork.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker_signals(_worker: int = 0) -> None:
    """Let a worker process ignore Ctrl-C and SIGTERM, which the main process handles.

    After SIGTERM, a worker that is not killed exits by itself after ``GRACE_SECONDS``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def kill_workers() -> None:
    """Kill the worker processes: one may be waiting for a lock of another that died."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if not workers:
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch reports killed workers
    for worker in workers:
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, before)


def forward_sigterm(processes: list[int]) -> SigtermFlag:
    """From now on, forward SIGTERM to the given processes.

    Args:
        processes: process ids; the list may grow. Check the returned flag after extending it,
            as an earlier signal was not forwarded to the new processes.
    """
    flag = SigtermFlag()

    def handle(_number: int, _frame: FrameType | None) -> None:
        flag.received = True
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    return flag


class DiscardingFile(io.FileIO):
    """A file that discards what is written once its reader has closed the pipe (``| head``)."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())
            os.close(devnull)
            return len(content)


def protect_output() -> None:
    """From now on, closing standard output or error ends printing, not the work.

    Streams that a caller has replaced are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start (``>&-``)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = DiscardingFile(stream.fileno(), "w", closefd=False)
            text = io.TextIOWrapper(
                # unbuffered with PYTHONUNBUFFERED, as the original
                raw if stream.write_through else io.BufferedWriter(raw),
                stream.encoding,
                "backslashreplace",  # file names may not be valid text
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, text)
