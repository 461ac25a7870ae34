"""SIGTERM: a cluster's word that time is over. What can be gone on with leaves saying so."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

RESUME = 75  # EX_TEMPFAIL of <sysexits.h>: the same again, with --resume, goes on
GRACE_SECONDS = 120  # for the iteration in work and its checkpoint


class Stopped(KeyboardInterrupt):
    """SIGTERM has come."""

    def __init__(self, saved: str = "") -> None:
        """
        Args:
            saved: what there is now to go on from.
        """
        super().__init__(f"stopped by SIGTERM{saved and f', {saved}'}; --resume goes on")


class Stop:
    """Whether SIGTERM has come."""

    asked = False


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """SIGTERM raises ``Stopped`` in the block, as Ctrl-C raises KeyboardInterrupt."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come from a cluster and a launcher
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def defer_sigterm() -> Iterator[Stop]:
    """SIGTERM is only noted in the block, which looks at ``asked`` where it can end in order.

    One that came too late for that comes again behind the block.
    """
    stop = Stop()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.asked:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def block_sigterm() -> Iterator[None]:
    """Block SIGTERM in the block; a process started in it unblocks it (``init_worker_signals``)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker_signals(_worker: int = 0) -> None:
    """For a worker process: SIGTERM, which a cluster sends to all, is the main process's affair.

    One that nobody ends otherwise is gone some time later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_workers() -> None:
    """End worker processes for good: one may wait for what another held that has died."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if not workers:
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # no news
    for worker in workers:
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, before)


def forward_sigterm(processes: list[int]) -> Stop:
    """From here on SIGTERM is passed on to these processes, which this one waits for.

    Args:
        processes: may still grow; who adds to it looks whether SIGTERM has come before.
    """
    stop = Stop()

    def send(_number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    signal.signal(signal.SIGTERM, send)
    return stop
