"""One measurement in a process of its own, and a sweep of them."""

import gc
import json
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scale.py"
SAMPLED = 0.004  # seconds between two looks at a process's memory
ENOUGH = 1.5  # seconds after which a measurement is not repeated
MOST = 5  # repetitions
PREPARE = "prepare"


@dataclass(frozen=True)
class Part:
    """One thing that is measured.

    Attributes:
        ready: ``ready(folder, size)`` imports and opens what is needed and returns what is timed.
        largest: size beyond which it would take too long or too much, as a reference may.
        judged: it is ours, and must not grow faster than allowed.
    """

    ready: Callable[[Path, int], Callable[[], object]]
    largest: int | None = None
    judged: bool = True


@dataclass(frozen=True)
class Subject:
    """What grows, and what is done with it.

    Attributes:
        what: a sentence for the table.
        unit: of the sizes.
        quick: sizes so small that they only tell that it runs.
        prepare: ``prepare(folder, size)`` makes the input, once for all parts.
    """

    what: str
    unit: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    prepare: Callable[[Path, int], None]
    parts: dict[str, Part]


@dataclass(frozen=True)
class Measured:
    """
    Attributes:
        processor: seconds of all threads on a core; a busy machine does not change them much.
        own: bytes of memory that the work took beside what there was before; None: not known.
        resident: the same with pages of mapped files.
    """

    part: str
    size: int
    seconds: float
    processor: float
    own: int | None = None
    resident: int | None = None


def sweep(name: str, subject: Subject, sizes: Sequence[int], folder: Path) -> list[Measured]:
    """Every part at every size, each in a process of its own."""
    found = []
    for size in sizes:
        place = folder / str(size)
        place.mkdir()
        in_process(name, PREPARE, size, place)
        for part in parts_at(subject, size):
            found.append(Measured(part, size, *in_process(name, part, size, place)))
            told = f"  {name} {part} {size}: {found[-1].seconds:.3f} s"
            print(told, file=sys.stderr, flush=True)
        shutil.rmtree(place)
    return found


def measured_here(
    name: str, subject: Subject, sizes: Sequence[int], folder: Path
) -> list[Measured]:
    """The same in this process, where memory cannot be told."""
    found = []
    for size in sizes:
        place = folder / str(size)
        place.mkdir()
        subject.prepare(place, size)
        for part in parts_at(subject, size):
            work = subject.parts[part].ready(place, size)
            found.append(Measured(part, size, *timed(work)))
    return found


def parts_at(subject: Subject, size: int) -> list[str]:
    return [
        name for name, part in subject.parts.items() if part.largest is None or size <= part.largest
    ]


def in_process(name: str, part: str, size: int, folder: Path) -> tuple[float, float, int, int]:
    """Seconds, those on a core, own and resident memory of ``run_one`` in a new process."""
    command = [sys.executable, str(SCRIPT), "--one", name, part, str(size), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if part != PREPARE and process.stdout.readline() != "ready\n":
        sys.exit(f"{' '.join(command)} failed")
    before, stop, peak = own_memory(process.pid), threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(SAMPLED):
            peak[0] = max(peak[0], own_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        last = process.stdout.readline()  # of the first run: what follows are repetitions
    finally:
        stop.set()
        watcher.join()
    last = process.stdout.read() or last
    if process.wait():
        sys.exit(f"{' '.join(command)} failed")
    if part == PREPARE:
        return 0.0, 0.0, 0, 0
    told = json.loads(last)
    return told["seconds"], told["processor"], max(peak[0] - before, 0), told["resident"]


def own_memory(process: int) -> int:
    """Resident bytes of a process that belong to no file; 0 once it is gone."""
    try:
        with open(f"/proc/{process}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return sum(1024 * int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        return 0


def run_one(subject: Subject, part: str, size: int, folder: Path) -> None:
    """What a process of its own does; it tells the one that started it by lines on stdout."""
    told, sys.stdout = sys.stdout, sys.stderr
    if part == PREPARE:
        subject.prepare(folder, size)
        return
    ready = subject.parts[part].ready
    work = ready(folder, size)
    gc.collect()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", file=told, flush=True)
    time.sleep(2 * SAMPLED)  # until the memory before has been read
    taken = [timed(work)]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    print("done", file=told, flush=True)
    del work
    while sum(seconds for seconds, _ in taken) < ENOUGH and len(taken) < MOST:
        taken.append(timed(ready(folder, size)))
    seconds, processor = map(statistics.median, zip(*taken, strict=True))
    told_of = {"seconds": seconds, "processor": processor, "resident": 1024 * resident}
    print(json.dumps(told_of), file=told, flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of this process on a core."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]
