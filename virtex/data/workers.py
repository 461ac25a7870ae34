"""Report DataLoader workers that were killed or could not be started as UserError."""

import atexit
import os
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from virtex.engine.signals import block_signals, init_worker_signals, kill_workers
from virtex.errors import UserError

# torch's messages: from its SIGCHLD handler, or later, when a batch is missing
DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)"
)
REASONS = {
    "Killed": "was killed, probably because memory ran out",
    "Bus error": "was killed (bus error), probably because shared memory, /dev/shm, is full",
}
UNKNOWN_REASON = "exited, possibly because memory or open files (ulimit -n) ran out"
GRACE_SECONDS = 1.0  # until SIGCHLD arrives, which names the signal
OPEN_FILES = "Too many open files"  # as torch and the system say
# errors raised in a worker arrive as text
OUT_OF_MEMORY = re.compile(r"Caught \w*MemoryError in|[Cc]an(?:'t|not) allocate memory")

# The destructor of a loader whose workers could not be started reads them before torch sets them,
# and prints a traceback.
_MultiProcessingDataLoaderIter._shutdown = True
_MultiProcessingDataLoaderIter._workers_status = defaultdict(bool)  # type: ignore[assignment]
# For programs that do not end in ``run_tool``: before multiprocessing sends SIGTERM to the workers,
# which ignore it for two minutes, and waits for them.
atexit.register(kill_workers)


def init_worker(worker: int) -> None:
    """Initialize a worker (``worker_init_fn``).

    The worker exits if a batch cannot be sent because (shared) memory is full. By default, it
    would drop the batch and the main process would wait for it forever.
    """
    init_worker_signals(worker)
    # errors of the feeder thread after the main process has exited
    sys.excepthook = lambda *_: None
    exit_worker = staticmethod(lambda error, batch: os._exit(1))
    Queue._on_queue_feeder_error = exit_worker  # type: ignore[attr-defined]


class GuardedLoader:
    """Batches of a loader; raises UserError if a worker is killed.

    The error is raised at a batch, or asynchronously in the main thread.
    """

    def __init__(self, loader: DataLoader, workers: str = "--num-workers"):
        """
        Args:
            workers: option that sets the number of workers, for the error message.
        """
        self.loader, self.workers = loader, workers

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Start the workers immediately, not at the first batch.

        Raises:
            UserError: they cannot be started.
        """
        if not self.loader.num_workers:
            return iter(self.loader)
        try:
            with block_signals():
                batches = iter(self.loader)
        except OSError as error:  # of semaphores in /dev/shm, pipes or processes
            kill_workers()  # some may have been started
            raise start_error(error.strerror, self.workers) from error
        install_sigchld_handler(self.workers)
        return self._iterate(batches)

    def _iterate(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            with translate_worker_errors(self.workers):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (ConnectionError, FileNotFoundError, EOFError) as error:
                    if str(error).startswith("Caught "):  # raised by a healthy worker
                        raise
                    # the worker that holds the batch in shared memory is gone
                    time.sleep(GRACE_SECONDS)
                    raise killed_error(UNKNOWN_REASON, self.workers) from error
            yield batch


@contextmanager
def translate_worker_errors(workers: str) -> Iterator[None]:
    """Translate torch's errors about workers into UserError."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error.__cause__, UserError):  # raised by our SIGCHLD handler, caught by torch
            raise UserError(str(error.__cause__), error.__cause__.code) from error
        if OPEN_FILES in str(error):
            raise start_error(OPEN_FILES, workers) from error
        if (reason := kill_reason(error)) is None:
            raise
        raise killed_error(reason, workers) from error


def killed_error(reason: str, workers: str) -> UserError:
    return UserError(
        f"a DataLoader worker {reason}; use fewer workers ({workers}) or smaller batches, "
        "then continue with --resume",
        "data.worker_killed",
    )


def start_error(reason: str | None, workers: str) -> UserError:
    return UserError(
        f"{workers}: the DataLoader workers could not be used ({reason}); use fewer or none, or "
        "raise the limit (files: ulimit -n; processes: ulimit -u; shared memory: /dev/shm)",
        "data.workers_failed",
    )


def kill_reason(error: Exception) -> str | None:
    """Return why a worker was killed, or None for other errors."""
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return "ran out of memory"
    if not (death := DEATH.search(str(error))):
        return None
    name = death["signal"]
    return REASONS.get(name, f"was killed ({name})" if name else UNKNOWN_REASON)


def install_sigchld_handler(workers: str) -> None:
    """Wrap torch's SIGCHLD handler, which raises asynchronously in the main thread.

    torch installs it when the first loader starts its workers.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and not isinstance(handler, SigchldHandler):
            signal.signal(signal.SIGCHLD, SigchldHandler(handler, workers))


class SigchldHandler:
    """torch's SIGCHLD handler, raising UserError for a killed worker."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], workers: str):
        self.handler, self.workers = handler, workers

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if is_shutting_down(frame):
            return
        with translate_worker_errors(self.workers):
            self.handler(number, frame)


def is_shutting_down(frame: FrameType | None) -> bool:
    """Return whether a loader is shutting down its workers."""
    while frame is not None:
        if frame.f_code.co_name == "_shutdown_workers":
            return True
        frame = frame.f_back
    return False
