"""Small programs in the place of tools, and what they were given."""

import json
import time
from pathlib import Path

from virtex.evaluate_all.plan import Entry, Run
from virtex.evaluate_all.tasks import TASKS

TASK = TASKS["voc07_svm"]
NOTE = """
import json, os, sys, time
print("no news")
with open(sys.argv[1], "w") as file:
    json.dump([time.time(), os.environ.get("CUDA_VISIBLE_DEVICES"),
               os.environ.get("OMP_NUM_THREADS")], file)
time.sleep(0.5)
with open(sys.argv[1] + ".end", "w") as file:
    json.dump(time.time(), file)
"""

# A tool with a process of its own, which both write their number; and would not end by themselves.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def entries_of(folder, tool, number=1):
    """Runs of a program that is given a file to write."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / TASK.tool).write_text(tool)
    return [
        Entry(
            Run(
                f"run {place}", "a.pth", TASK, 0, folder / f"run_{place}",
                folder / "logs" / f"{place}.log", tools, (str(folder / f"note_{place}"),), (),
            )
        )
        for place in range(number)
    ]  # fmt: skip


def notes_in(folder, number):
    """What each run was given, with the time of its end."""
    texts = [(folder / f"note_{place}").read_text() for place in range(number)]
    ends = [(folder / f"note_{place}.end").read_text() for place in range(number)]
    return [(*json.loads(a), json.loads(b)) for a, b in zip(texts, ends, strict=True)]


def at_the_same_time(notes):
    """The most runs at one time."""
    return max(
        sum(other[0] <= start < other[3] for other in notes) for start, *_ in notes
    )  # fmt: skip


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds, what, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)
