"""Execute the runs of a plan, several at the same time; a failure does not stop the others."""

import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from virtex.engine.signals import RESUME
from virtex.errors import UserError
from virtex.evaluate_all.launchers import LocalLauncher, Process, SubmititLauncher, SubmittedJob
from virtex.evaluate_all.plan import DONE, FAILED, INTERRUPTED, Run
from virtex.evaluate_all.records import find_record
from virtex.evaluate_all.report import format_score

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 20  # between progress reports of parallel runs
ERROR_LINE = re.compile(r"(?:\S.*?: )?error(?: in process \d+)?: (.+)")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager that records SIGINT and SIGTERM, so that runs can be stopped in order."""

    signal = 0

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self.record) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def record(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number


class ActiveRun:
    """A run that has been started."""

    job: Process | SubmittedJob
    progress = ""  # as last reported

    def __init__(self, run: Run, gpus: Sequence[str] | None, label: str):
        self.run, self.gpus, self.label = run, gpus, label
        self.log_start = self.streamed = run.log.stat().st_size if run.log.exists() else 0
        self.started = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def stream(self) -> None:
        """Copy new log output to the terminal."""
        with open(self.run.log, "rb") as file:
            file.seek(self.streamed)
            new = file.read()
        self.streamed += len(new)
        sys.stdout.buffer.write(new)
        sys.stdout.flush()

    def finish(self, status: int) -> None:
        """Set the outcome of the run from its exit status and its record."""
        run = self.run
        run.status, run.seconds = FAILED, self.seconds()
        if status == RESUME:  # SIGTERM sent by another process, such as the scheduler
            run.status = INTERRUPTED
        elif status:
            run.reason = failure_reason(status, run.log, self.log_start)
        else:
            try:
                run.record = find_record(run)
                if run.record is None:
                    raise UserError(f"the run wrote no record to {run.folder}", "run.no_record")
                run.status = DONE
            except UserError as error:
                run.reason = f"{error} [{error.code}]"


def log_line(line: str) -> None:
    print(line, flush=True)


def run_all(
    runs: Sequence[Run],
    gpus: Sequence[Sequence[str] | None],
    launcher: LocalLauncher | SubmititLauncher,
    log: Callable[[str], None] = log_line,
    progress_seconds: float = PROGRESS_SECONDS,
) -> int:
    """Execute the runnable runs, up to ``len(gpus)`` at the same time.

    Args:
        runs: their status, reason, seconds and record are set.
        gpus: the GPUs of each parallel run.

    Returns:
        The signal that interrupted the runs, or 0.
    """
    waiting = [run for run in runs if run.is_runnable]
    labels = {run.name: f"[{n}/{len(waiting)}] {run.name}:" for n, run in enumerate(waiting, 1)}
    free, active = list(gpus), list[ActiveRun]()
    reported = time.monotonic()
    with StopRequest() as stop:
        try:
            while (waiting or active) and not stop.signal:
                count = min(len(waiting), len(free))
                new = [
                    ActiveRun(run, free.pop(0), labels[run.name])
                    for run in (waiting.pop(0) for _ in range(count))
                ]
                if new:
                    jobs: Sequence[Process | SubmittedJob] = launcher.start(
                        [each.run for each in new], [each.gpus for each in new]
                    )
                    for each, job in zip(new, jobs, strict=True):
                        each.job = job
                        active.append(each)
                        log(f"{each.label} {job.label} (log {each.run.log})")
                time.sleep(POLL_SECONDS)
                for each in active[:]:
                    status = each.job.poll()
                    if launcher.streams:
                        each.stream()
                    if status is not None:
                        active.remove(each)
                        free.append(each.gpus)
                        each.finish(status)
                        log(f"{each.label} {describe_outcome(each.run)}")
                if not launcher.streams and time.monotonic() - reported > progress_seconds:
                    reported = time.monotonic()
                    report_progress(active, log)
        finally:
            launcher.stop([each.job for each in active])
    for each in active:
        each.run.status, each.run.seconds = launcher.interrupted, each.seconds()
    return stop.signal


def report_progress(active: Sequence[ActiveRun], log: Callable[[str], None]) -> None:
    """Log the state of each run whose state has changed."""
    for each in active:
        progress = each.job.progress()
        if progress and progress != each.progress:
            each.progress = progress
            log(f"{each.label} {progress}")


def describe_outcome(run: Run) -> str:
    """Return ``done in 1:02:03, bbox/AP 38.91``, or the status and the reason."""
    from virtex.engine.progress import duration  # imports torch, which jobs do not need

    if run.status == DONE:
        assert run.seconds is not None and run.record is not None
        return f"done in {duration(run.seconds)}, {format_score(run.record)}"
    first = run.reason.partition("\n")[0]
    return f"{run.status}: {first}" if first else run.status


def failure_reason(status: int, log: Path, start: int) -> str:
    """Return how a command exited, and the last error in its log.

    Args:
        start: byte offset in the log at which this attempt begins.
    """
    how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
    lines = []
    if log.exists():
        with open(log, "rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
        lines = [line for line in text.splitlines()[1:] if line.strip()]  # without the heading
    errors = [match[1] for line in lines if (match := ERROR_LINE.fullmatch(line))]
    last = errors[-1:] or lines[-1:]
    return f"{how}: {last[0]}" if last else how
