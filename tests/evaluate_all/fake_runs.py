"""Runs that execute a small program instead of a task's command."""

import json
import sys
import time
from pathlib import Path

from virtex.evaluate_all.plan import Run
from virtex.tasks import get_task

# Writes start, visible GPUs and threads to the given file, waits until so many runs have started,
# and writes the end to another file
NOTE = """
import glob, json, os, sys, time
print("started")
start = time.time()  # before the file exists, which ends the runs that wait for it
with open(sys.argv[1], "w") as file:
    json.dump([start, os.environ.get("CUDA_VISIBLE_DEVICES"),
               os.environ.get("OMP_NUM_THREADS")], file)
while len(glob.glob(os.path.dirname(sys.argv[1]) + "/note_?")) < int(sys.argv[2]):
    time.sleep(0.01)
with open(sys.argv[1] + ".end", "w") as file:
    json.dump(time.time(), file)
"""

# Ignores SIGTERM and has a child process; writes the ids of both
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


class FakeRun(Run):
    @property
    def command(self):
        return (sys.executable, "-c", *self.base)


def fake_runs(folder, program, count=1, parallel=1):
    """Runs of a program that is given the path of a note and the number of parallel runs."""
    return [
        FakeRun(
            f"run {i}",
            "a.pth",
            get_task("voc07_svm"),
            0,
            folder / f"run_{i}",
            folder / "logs" / f"{i}.log",
            (program, str(folder / f"note_{i}"), str(parallel)),
            (),
        )
        for i in range(count)
    ]


def read_notes(folder, count):
    """Start, GPUs, threads and end of each run."""
    texts = [(folder / f"note_{i}").read_text() for i in range(count)]
    ends = [(folder / f"note_{i}.end").read_text() for i in range(count)]
    return [(*json.loads(a), json.loads(b)) for a, b in zip(texts, ends, strict=True)]


def count_parallel(notes):
    """The largest number of runs at the same time."""
    return max(sum(other[0] <= start < other[3] for other in notes) for start, *_ in notes)


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
