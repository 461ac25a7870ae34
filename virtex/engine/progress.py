"""Progress of a run: log, metrics.json, TensorBoard, estimated time."""

import glob
import json
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from virtex.engine.distributed import rank
from virtex.errors import set_error_path
from virtex.files import open_append, read_json_lines, record_file, replace_file

logger = logging.getLogger(__name__)

LOG_FORMAT = logging.Formatter("[%(asctime)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
LOG_PERIOD = 30  # seconds
METRICS = "metrics.json"  # one JSON object per line, as Detectron2 writes it


class Stopwatch:
    """Measure the seconds of training, over all sessions of a resumed run."""

    def __init__(self) -> None:
        self.before = 0.0
        self.started: float | None = None

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.before, self.started = self.seconds(), None

    def seconds(self) -> float:
        return self.before + (time.perf_counter() - self.started if self.started else 0.0)

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.before = state["seconds"]


def truncate_metrics(metrics_file: Path, iteration: int) -> None:
    """Remove the lines from ``iteration`` on, which a resumed run writes again."""
    if not metrics_file.is_file():
        return
    kept = [
        line
        for line, numbers in read_metrics(metrics_file)
        if numbers["iteration"] < iteration and line.endswith(b"\n")
    ]
    replace_file(metrics_file, lambda file: file.writelines(kept))


def validation_at(metrics_file: Path, iteration: int) -> dict[str, float]:
    """Read the validation metrics of an iteration; empty if there are none."""
    for numbers in lines_at(metrics_file, iteration):
        if any(key.startswith("val/") for key in numbers):
            return numbers
    return {}


def lines_at(metrics_file: Path, iteration: int) -> list[dict[str, float]]:
    """Read the lines of an iteration from metrics.json."""
    if not metrics_file.is_file():
        return []
    found = [numbers for _, numbers in read_metrics(metrics_file)]
    return [numbers for numbers in found if numbers.pop("iteration") == iteration]


def read_metrics(metrics_file: Path) -> list[tuple[bytes, dict[str, float]]]:
    """Return each line of metrics.json and its numbers, without lines that are not of that kind."""
    return [
        (line, numbers)
        for line, numbers in read_json_lines(metrics_file)
        if isinstance(numbers, dict)
        and all(type(value) in (int, float) for value in numbers.values())
        and "iteration" in numbers
    ]


class LogFile(logging.FileHandler):
    """A log file that raises OSError, for which ``logging`` prints a traceback at every line."""

    def _open(self) -> Any:
        return open_append(Path(self.baseFilename))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


def log_to(logger: logging.Logger, folder: Path | None = None) -> None:
    """Log to the terminal (main process only) and, with ``folder``, to ``log.txt`` in it.

    Other processes write ``log.txt.rank1``, …
    """
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)] if rank() == 0 else []
    if folder is not None:
        handlers.append(LogFile(folder / f"log.txt{f'.rank{rank()}' if rank() else ''}"))
    for handler in handlers:
        handler.setFormatter(LOG_FORMAT)
        logger.addHandler(handler)


class MetricsWriter:
    """Write numbers and text to metrics.json and TensorBoard, in the main process."""

    def __init__(self, folder: Path, start: int):
        """
        Args:
            start: completed iterations; later lines are removed.
        """
        from torch.utils.tensorboard import SummaryWriter

        truncate_metrics(folder / METRICS, start + 1)
        self.folder = folder
        self.file = open_append(folder / METRICS)
        with set_error_path(folder):
            self.board = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
        record_events(folder)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        with set_error_path(self.folder / METRICS):
            self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
            self.file.flush()
        with set_error_path(self.folder):
            for name, value in values.items():
                self.board.add_scalar(name, value, iteration)
            self.board.flush()

    def text(self, iteration: int, name: str, content: str) -> None:
        with set_error_path(self.folder):
            self.board.add_text(name, content, iteration)
            self.board.flush()

    def close(self) -> None:
        for part in (self.file, self.board):
            with suppress(OSError):  # already raised by the write
                part.close()


def record_events(folder: Path) -> None:
    """Add the files of TensorBoard that this process has created to the manifest."""
    own = glob.escape(f"{socket.gethostname()}.{os.getpid()}")
    for path in folder.glob(f"events.out.tfevents.*.{own}.*"):
        record_file(path)


class Pace:
    """Measure seconds per iteration since the last measurement, and the estimated time left."""

    def __init__(self, iteration: int, last: int):
        self.iteration, self.last, self.start = iteration, last, time.perf_counter()
        self.waited = 0.0  # seconds spent waiting for data

    def measure(self, iteration: int) -> dict[str, float]:
        """Return ``seconds`` and ``data_seconds`` per iteration and ``eta`` seconds; restart."""
        now, done = time.perf_counter(), max(iteration - self.iteration, 1)
        seconds = (now - self.start) / done
        measured = {
            "seconds": seconds,
            "data_seconds": self.waited / done,
            "eta": seconds * (self.last - iteration),
        }
        self.iteration, self.start, self.waited = iteration, now, 0.0
        return measured


class LoggedProgress:
    """A progress bar for log files: one line every ``LOG_PERIOD`` seconds."""

    def __init__(self, total: int, unit: str, description: str):
        self.total, self.unit, self.description, self.done = total, unit, description, 0
        self.start = self.logged = time.perf_counter()

    def __enter__(self) -> "LoggedProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, number: int) -> None:
        self.done += number
        now = time.perf_counter()
        if now - self.logged < LOG_PERIOD:
            return
        self.logged, rate = now, self.done / (now - self.start)
        logger.info(
            "%s: %d/%d %s, %.1f/s, eta: %s",
            self.description,
            self.done,
            self.total,
            self.unit,
            rate,
            duration((self.total - self.done) / max(rate, 1e-9)),
        )


def progress_bar(total: int, unit: str, description: str) -> "tqdm | LoggedProgress":
    """Show progress in the main process: a bar in a terminal, otherwise log lines."""
    if rank() or sys.stderr.isatty():
        return tqdm(total=total, unit=unit, desc=description, disable=rank() > 0)
    return LoggedProgress(total, unit, description)


def duration(seconds: float) -> str:
    """Format seconds as ``2:03:04``."""
    return str(timedelta(seconds=round(seconds)))
