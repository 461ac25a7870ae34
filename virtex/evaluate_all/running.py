"""Runs as processes of this machine, so many at the same time, each with its share of the GPUs."""

import contextlib
import ctypes
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from virtex.engine.signals import GRACE_SECONDS, RESUME
from virtex.errors import UserError
from virtex.evaluate_all.plan import (
    DONE,
    FAILED,
    INTERRUPTED,
    NOT_STARTED,
    Entry,
    Run,
    finished_record,
    has_record,
)

LOOK_SECONDS = 0.1
NEWS_SECONDS = 20  # between two looks at what runs side by side have said
NEWS_BYTES, NEWS_WIDTH = 4096, 160
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
ERROR_LINE = re.compile(r"(?:\S+: )?error(?: in process \d+)?: (.+)")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Job(Protocol):
    """A run that has been started somewhere.

    Attributes:
        how: ``started``, or as which job of a cluster.
    """

    how: str

    def poll(self) -> int | None:
        """Its exit status, below 0 the signal that ended it; None while it runs."""


J = TypeVar("J", bound=Job)


class Launcher(Protocol[J]):
    """Where runs are started.

    Attributes:
        streams: whether their output also goes to the terminal.
        left: what those are that run when this process is interrupted.
    """

    streams: bool
    left: str

    def start(self, started: Sequence[tuple[Run, Sequence[str] | None]]) -> list[J]:
        """Start runs, each with these GPUs (None: those that the cluster gives it)."""

    def news(self, jobs: Sequence[J]) -> str:
        """What else there is to say of them, if anything."""

    def end(self, jobs: Sequence[J]) -> None:
        """End those that still run, where they are this machine's."""


class Here:
    """Starts runs as processes of this machine."""

    left = INTERRUPTED

    def __init__(self, at_once: int, news_seconds: float = NEWS_SECONDS):
        self.streams = at_once == 1
        self.news_seconds, self.told = news_seconds, time.monotonic()
        self.environment = {} if at_once == 1 else threads_of_each(at_once)

    def start(self, started: Sequence[tuple[Run, Sequence[str] | None]]) -> list["Process"]:
        return [Process(run.command, run.log, gpus, self.environment) for run, gpus in started]

    def news(self, jobs: Sequence["Process"]) -> str:
        """What each of several has said last, now and then."""
        if self.streams or time.monotonic() - self.told < self.news_seconds:
            return ""
        self.told = time.monotonic()
        said = [(job.log.stem, last_line(job.log)) for job in jobs]
        return "\n".join(f"  {name}: {line}" for name, line in said if line)

    def end(self, jobs: Sequence["Process"]) -> None:
        end_processes(jobs)


def threads_of_each(at_once: int) -> dict[str, str]:
    """So many that processes do not wait for one another; nothing where the user says it."""
    threads = max((os.cpu_count() or 1) // at_once, 1)
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}


class Process:
    """A tool's process, with all those it starts; its output goes to the end of a log."""

    how = "started"

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        gpus: Sequence[str] | None,
        environment: dict[str, str] | None = None,
    ):
        """
        Args:
            gpus: all that it may see; None: those that this process sees.
        """
        self.log = log
        environment = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            file.write(f"=== {now}  {shlex.join(command)}\n".encode())
            file.flush()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which ends them in order
                preexec_fn=functools.partial(before_tool, libc(), os.getpid()),
            )

    def poll(self) -> int | None:
        return self.process.poll()

    def send(self, number: int) -> None:
        """To it and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def before_tool(library: ctypes.CDLL | None, parent: int) -> None:
    """What the new process does before it becomes the tool."""
    if library is not None:  # where this process is killed, no run may go on unseen
        library.prctl(DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
    # a cluster's warning is for the job, which then ends the tool
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def end_processes(processes: Sequence[Process]) -> None:
    """Ask those that still run to end, and kill them if they do not."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.send(signal.SIGTERM)
    for process in left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(GRACE_SECONDS)
    for process in left:
        process.send(signal.SIGKILL)  # to what its group still holds, too
        process.process.wait()


class Stop:
    """Notes SIGINT and SIGTERM while it is open, so that everything is ended in order."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Stop":
        self.before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number


def tell(line: str) -> None:
    print(line, flush=True)


def run_all(
    entries: Sequence[Entry],
    shares: Sequence[Sequence[str] | None],
    launcher: Launcher[Any],
    say: Callable[[str], None] = tell,
) -> int:
    """Run what is open, one run for each of ``shares`` at a time, on after failures.

    Args:
        entries: their status, reason, seconds and record are set.
        shares: of the GPUs.

    Returns:
        the signal that interrupted it, or 0.
    """
    waiting = [entry for entry in entries if entry.is_open]
    labels = {id(e): f"[{n}/{len(waiting)}] {e.run.name}:" for n, e in enumerate(waiting, 1)}
    free = list(shares)
    running: list[Running] = []
    with Stop() as stop:
        try:
            while (waiting or running) and not stop.signal:
                number = min(len(waiting), len(free))
                begun = [Running(waiting.pop(0), free.pop(0)) for _ in range(number)]
                if begun:
                    jobs = launcher.start([(each.entry.run, each.share) for each in begun])
                    for each, job in zip(begun, jobs, strict=True):
                        each.job = job
                        running.append(each)
                        say(f"{labels[id(each.entry)]} {job.how} (log {each.entry.run.log})")
                time.sleep(LOOK_SECONDS)
                for each in running[:]:
                    status = each.job.poll()
                    if launcher.streams:
                        each.show()
                    if status is not None:
                        running.remove(each)
                        free.append(each.share)
                        each.conclude(status)
                        say(f"{labels[id(each.entry)]} {ending(each.entry)}")
                if news := launcher.news([each.job for each in running]):
                    say(news)
        finally:
            launcher.end([each.job for each in running])
    for each in running:
        each.entry.status, each.entry.seconds = launcher.left, each.seconds()
    for entry in waiting:
        entry.status = NOT_STARTED
    return stop.signal


class Running:
    """A run that is being started."""

    job: Job

    def __init__(self, entry: Entry, share: Sequence[str] | None):
        self.entry, self.share = entry, share
        log = entry.run.log
        self.log_size = self.shown = log.stat().st_size if log.exists() else 0
        self.started = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def show(self) -> None:
        """What has come to the log since the last time."""
        with open(self.entry.run.log, "rb") as file:
            file.seek(self.shown)
            new = file.read()
        self.shown += len(new)
        sys.stdout.buffer.write(new)
        sys.stdout.flush()

    def conclude(self, status: int) -> None:
        """What the run has come to, by its exit status and its record."""
        entry = self.entry
        entry.status, entry.seconds = FAILED, self.seconds()
        if status == RESUME:  # told to end by somebody else
            entry.status = INTERRUPTED
        elif status:
            entry.reason = reason_of(status, entry.run.log, self.log_size)
        else:
            self.read_record()

    def read_record(self) -> None:
        entry = self.entry
        try:
            if not has_record(entry.run):
                raise UserError(f"it ended without a record in {entry.run.folder}")
            entry.record = finished_record(entry.run, entry.model)
            entry.status = DONE
        except UserError as error:
            entry.reason = str(error)


def ending(entry: Entry) -> str:
    """``done in 1:02:03, bbox/AP 38.91``, or why not."""
    from virtex.engine.progress import duration  # imports torch, which a job does without

    if entry.status == DONE:
        assert entry.seconds is not None and entry.record is not None
        return f"done in {duration(entry.seconds)}, {score_of(entry.record)}"
    if entry.status == INTERRUPTED:
        return INTERRUPTED
    return f"failed: {entry.reason.partition(chr(10))[0]}"


def score_of(record: dict) -> str:
    value = record["metrics"][record["primary_metric"]]
    return f"{record['primary_metric']} {'-' if value is None else format(value, '.2f')}"


def reason_of(status: int, log: Path, start: int) -> str:
    """Why a tool failed: how it ended, and what it said last (of an attempt's part of the log)."""
    how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
    lines = list(lines_from(log, start))
    errors = [match[1] for line in lines if (match := ERROR_LINE.fullmatch(line))]
    said = errors[-1:] or lines[-1:]
    return f"{how}: {said[0]}" if said else how


def last_line(log: Path) -> str:
    """The newest line of a log, or of a progress bar in it; cut to a terminal's width."""
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - NEWS_BYTES, 0))
        lines = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())
    return lines[-1][:NEWS_WIDTH]


def lines_from(log: Path, start: int) -> Iterator[str]:
    """Lines of an attempt that say something, without its heading."""
    if not log.exists():
        return iter(())
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return (line for line in text.splitlines()[1:] if line.strip())
