"""Processes that load data: when one of them dies, what is said is what to do."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from virtex.engine.signals import block_sigterm, init_worker_signals
from virtex.errors import UserError

# how torch tells it: at once from its handler of SIGCHLD, or later where it misses a batch
DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)"
)
REASONS = {
    "Killed": "was killed, probably because memory ran out",
    "Bus error": "was killed (bus error), probably because shared memory, /dev/shm, is full",
}
PERHAPS = "died, perhaps because memory ran out"
DYING_SECONDS = 1.0  # until the system says of what
# of an error in such a process; numpy's and torch's do not arrive as what they were
OUT_OF_MEMORY = re.compile(r"Caught \w*MemoryError in|[Cc]an(?:'t|not) allocate memory")


def serve(worker: int) -> None:
    """What a process that loads data does first (``worker_init_fn``).

    It is to end where a batch cannot be passed on, for want of memory or of shared memory. As it
    is, the batch would be left out with a traceback, and waited for without end.
    """
    init_worker_signals(worker)
    # of the thread that hands batches over, when the main process has gone
    sys.excepthook = lambda *_: None
    leave = staticmethod(lambda error, batch: os._exit(1))
    Queue._on_queue_feeder_error = leave  # type: ignore[attr-defined]


class Watched:
    """A loader's batches; UserError where one of its processes dies.

    It is raised at a batch, or wherever the main thread is.
    """

    def __init__(self, loader: DataLoader, workers: str = "--num-workers"):
        """
        Args:
            workers: what the user sets the number of processes by.
        """
        self.loader, self.workers = loader, workers

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The processes start here, not at the first batch."""
        with block_sigterm():
            batches = iter(self.loader)
        if not self.loader.num_workers:
            return batches
        tell_deaths(self.workers)
        return self.told(batches)

    def told(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            with deaths_told(self.workers):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (ConnectionError, FileNotFoundError, EOFError) as error:
                    if str(error).startswith("Caught "):  # by a process that is well
                        raise
                    # a batch is fetched from the process that made it, which is gone
                    time.sleep(DYING_SECONDS)
                    raise dead(PERHAPS, self.workers) from error
            yield batch


@contextmanager
def deaths_told(workers: str) -> Iterator[None]:
    """What torch raises when a process of a loader died becomes a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error.__cause__, UserError):  # the handler's, which torch has caught
            raise UserError(str(error.__cause__)) from error
        if (reason := reason_of(error)) is None:
            raise
        raise dead(reason, workers) from error


def dead(reason: str, workers: str) -> UserError:
    return UserError(
        f"a process that loads data {reason}; use fewer of them ({workers}) or smaller batches, "
        "then go on with --resume"
    )


def reason_of(error: Exception) -> str | None:
    """Why a process that loads data is gone; None: it is another error."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return "ran out of memory"
    if not (death := DEATH.search(str(error))):
        return None
    name = death["signal"]
    return REASONS.get(name, f"died ({name})" if name else PERHAPS)


def tell_deaths(workers: str) -> None:
    """Let torch's handler of SIGCHLD, which raises wherever the main thread is, say a sentence.

    It is there from when the first loader's processes have been started.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and not isinstance(handler, Told):
            signal.signal(signal.SIGCHLD, Told(handler, workers))


class Told:
    """A handler of SIGCHLD in which a process's death becomes a sentence."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], workers: str):
        self.handler, self.workers = handler, workers

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if is_shutting_down(frame):
            return
        with deaths_told(self.workers):
            self.handler(number, frame)


def is_shutting_down(frame: FrameType | None) -> bool:
    """Whether a loader is ending its processes, and no longer wants anything of them."""
    while frame is not None:
        if frame.f_code.co_name == "_shutdown_workers":
            return True
        frame = frame.f_back
    return False
