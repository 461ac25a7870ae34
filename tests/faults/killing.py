"""Processes that are killed at a moment of their life."""

import contextlib
import os
import random
import signal
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.faults.left_behind import JOURNALS
from tests.faults.small_runs import Run

LOOK = 0.002  # seconds between two looks at the process
NEVER, COUNTED = 10**9, 10**8  # changes; the second is not met either, but counts them
MARK = "VIRTEX_TESTS_KILL"  # in the environment of a tool and all it starts
ORPHANED = 20.0  # seconds after which whoever lost its parent must have ended
HANGS = 600.0


@dataclass(frozen=True)
class Kill:
    """When and how a process is killed.

    Attributes:
        moment: share of an undisturbed life.
        change: or so soon as this share of an undisturbed life's changes is seen.
        workers: it has others load its images.
        alone: whatever it has started lives on.
    """

    moment: float
    change: bool
    workers: bool
    alone: bool


def kills(seed: str, count: int) -> list[Kill]:
    """Moments spread evenly over the life in random order, half of them at changes."""
    draw = random.Random(seed)
    shares = [(number + draw.random()) / count for number in range(count)]
    draw.shuffle(shares)
    return [
        Kill(
            share,
            change=number % 2 == 1,
            workers=number % 3 == 1,
            alone=number % 2 == 0 or number % 3 == 1,
        )
        for number, share in enumerate(shares)
    ]


class Watched:
    """A run, and how long it has lived.

    Attributes:
        changes: how often something was seen to change beside its output.
    """

    def __init__(self, run: Run, out: Path, *flags: str, **settings: object):
        self.place, self.mark, self.changes = out.parent, uuid.uuid4().hex, 0
        self.place.mkdir(exist_ok=True)
        self.started = run.start(out, *flags, environment={MARK: self.mark}, **settings)
        self.born = time.monotonic()

    def age(self) -> float:
        return time.monotonic() - self.born

    def lives_until(self, seconds: float, changes: float = NEVER) -> bool:
        """Wait until it is so old or has changed so much; whether it still runs then."""
        before = state_of(self.place)
        while self.started.runs():
            if changes < NEVER:
                now = state_of(self.place)
                self.changes, before = self.changes + (now != before), now
            if self.age() >= seconds or self.changes >= changes:
                return self.started.runs()
            time.sleep(LOOK)
        return False

    def whole_life(self) -> tuple[float, int]:
        """Its seconds and changes."""
        assert not self.lives_until(HANGS, COUNTED), f"it hangs: {self.started.tail()}"
        self.started.ended_well()
        return self.age(), self.changes

    def is_killed(self, alone: bool) -> bool:
        """It alone, or with its whole group; whether it had not ended just before."""
        pid = self.started.process.pid
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(pid, signal.SIGKILL)
        self.killed = time.monotonic()
        return self.started.ends() == -signal.SIGKILL

    def orphans_end(self) -> bool:
        """Whether nothing that it started lives on for long."""
        while orphans := processes_with(self.mark, self.started.process.pid):
            if time.monotonic() - self.killed > ORPHANED:
                for pid in orphans:
                    os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(0.1)
        return True


def state_of(place: Path) -> set[tuple[str, int, int]]:
    """Every file but journals, with its size and the time it was changed."""
    found, folders = set(), [str(place)]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                if JOURNALS.fullmatch(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    seen = entry.stat()
                    found.add((entry.path, seen.st_size, seen.st_mtime_ns))
        except OSError:  # it has just gone
            continue
    return found


def processes_with(mark: str, session: int) -> list[int]:
    """The processes that live, with this mark in the environment they began with or of a session.

    One that was forked off keeps the environment of its parent's beginning.
    """
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # behind the name, in brackets, come state, parent, group, session
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is nobody's business here
            continue
        if status[0] not in "ZX" and (marked or int(status[3]) == session):
            found.append(int(folder.name))
    return found
