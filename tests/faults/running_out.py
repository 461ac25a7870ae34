"""A tool runs out of room in one way; what it must do about it, and what must be left."""

import functools
import os
import re
from dataclasses import dataclass
from typing import Any

from tests.faults import left_behind
from tests.faults.disk_server import PAGE
from tests.faults.places import scratch
from tests.faults.small_disk import LARGE, Outcome, SmallDisk
from tests.faults.small_runs import ALL

UNPLANNED = re.compile(r"Traceback|Logging error|Exception (ignored )?in|Error in |core dumped")


# Smaller still, for the many times that they run.
SMALLER = {
    "pretraining": (
        ("--checkpoint-every", "2"),
        {
            **{"OPTIM.NUM_ITERATIONS": 4, "OPTIM.LOOKAHEAD.USE": False},
            **{"MODEL.VISUAL.FROZEN": True},
        },
    ),
    **{
        task: ((), {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": "(3,)"})
        for task in ("transfer", "VOC detection")
    },
}
# Of so many faults one is tried, where a run takes long.
EVERY = {"transfer": 4, "VOC detection": 4, "evaluate all": 8}


def start(disk: SmallDisk, name: str, *more: str, **asked: Any) -> Outcome:
    """A run of the table on the disk."""
    run, out = ALL[name], disk.place / "run"
    flags, settings = SMALLER.get(name, ((), {}))
    caches = {"FVCORE_CACHE": str(scratch() / "cache"), "TMPDIR": str(disk.place)}
    environment = caches | run.environment(out)
    argv = [str(word) for word in run.arguments(out, *flags, *more, **settings)]
    return disk.run(run.module, argv, run.commands, environment=environment, **asked)


@dataclass(frozen=True)
class Fault:
    """How room ends.

    Attributes:
        pages, files: all that the disk can hold; 0 files: without a limit.
        fill_at, spare: the opening of a file for writing (the first is 1) at which somebody else
            fills the disk, and the pages that are left.
        longest: bytes that a file may have.
    """

    pages: int = LARGE // PAGE
    files: int = 0
    fill_at: int | None = None
    spare: int = 0
    longest: int | None = None

    def __str__(self) -> str:
        parts = {
            f"a disk of {self.pages} pages": self.pages < LARGE // PAGE,
            f"a disk of {self.files} files": self.files > 0,
            f"{self.spare} pages left at opening {self.fill_at}": self.fill_at is not None,
            f"files of {self.longest} bytes at most": self.longest is not None,
        }
        return " and ".join(text for text, holds in parts.items() if holds)


@dataclass(frozen=True)
class Undisturbed:
    """A run with all the room it wants."""

    name: str
    content: dict[str, Any]
    outcome: Outcome
    pages: int
    files: int
    longest: int

    def openings(self) -> list[Fault]:
        """Every opening of a file, with nothing left for it, and with its first page."""
        return [
            Fault(fill_at=number, spare=spare)
            for number in range(1, self.outcome.openings + 1)
            for spare in (0, 1)
        ]

    def sizes(self) -> list[Fault]:
        """Disks that are full at the first, the middle and the last page of what is written."""
        found, most = set(), 0
        for pages in (*(pages for pages, _, _ in self.outcome.changes), self.pages):
            if pages > most:
                found |= {most, (most + pages) // 2, pages - 1}
                most = pages
        return [Fault(pages=pages) for pages in sorted(found)]

    def numbers(self) -> list[Fault]:
        """Disks on which the first file cannot be made (its root is one), the second, …"""
        # iopath puts a cache whose folder cannot be made elsewhere
        first = 2 if "FVCORE_CACHE" in ALL[self.name].caches else 1
        return [Fault(files=number) for number in range(first, self.files)]

    def lengths(self) -> list[Fault]:
        """Limits of a file's size, in which the largest does not fit."""
        return [Fault(longest=longest) for longest in (self.longest // 2, self.longest - 1)]


@functools.cache
def undisturbed(disk: SmallDisk, name: str) -> Undisturbed:
    disk.mount()
    outcome = start(disk, name)
    assert outcome.status == 0, outcome.errors
    content = left_behind.content(disk.seen)
    found = os.statvfs(disk.seen)
    longest = max(path.stat().st_size for path in left_behind.files_of(disk.seen))
    return Undisturbed(
        name,
        content,
        outcome,
        found.f_blocks - found.f_bfree,
        found.f_files - found.f_ffree,
        longest,
    )


def complaints(disk: SmallDisk, name: str, fault: Fault, counts: bool = False) -> list[str]:
    """What is wrong with how a tool meets a fault, and how it goes on with room again.

    Args:
        counts: whether the fault hits what the tool cannot do without.
    """
    reference = undisturbed(disk, name)
    disk.mount(fault.pages, fault.files)
    outcome = start(
        disk, name, fill_at=fault.fill_at, spare=fault.spare, longest=fault.longest
    )  # fmt: skip
    if outcome.status == 0:
        ignored = ["ends well all the same"] if counts else []
        return ignored + wrong_in_the_end(disk, name, reference)
    found = wrong_in_words(disk, name, outcome) + wrong_on_disk(disk)
    disk.enlarge()
    again = start(disk, name, *ALL[name].again)
    if again.status:
        return [*found, f"does not go on: {again.status}: {again.errors.strip()[-400:]}"]
    return found + wrong_in_the_end(disk, name, reference)


def wrong_in_words(disk: SmallDisk, name: str, outcome: Outcome) -> list[str]:
    said = outcome.errors.strip()
    sentences = [line for line in said.splitlines() if "error: " in line]
    checks = {
        f"status {outcome.status} after {outcome.seconds} s": outcome.status
        not in ALL[name].statuses,
        "a traceback": UNPLANNED.search(said),
        f"{len(sentences)} errors": len(sentences) != 1,
        "no path": str(disk.place) not in "".join(sentences),
        "no remedy": ";" not in "".join(sentences),
        "is not said last": not said.endswith("".join(sentences[-1:])),
    }
    found = [what for what, wrong in checks.items() if wrong]
    return [f"{', '.join(found)}: {said[-700:]}"] if found else []


def wrong_on_disk(disk: SmallDisk) -> list[str]:
    torn, unfinished = left_behind.torn(disk.seen), left_behind.unfinished(disk.seen)
    return [f"torn {name}" for name in torn] + [f"left {name}" for name in unfinished]


def wrong_in_the_end(disk: SmallDisk, name: str, reference: Undisturbed) -> list[str]:
    """After a run that says it ended well."""
    differ = left_behind.different(reference.content, left_behind.content(disk.seen))
    spared = ALL[name].spared
    return [
        f"{file} differs from an undisturbed run's"
        for file in differ
        if not (spared and file.endswith(spared))
    ] + [f"left in the end {file}" for file in left_behind.unfinished(disk.seen)]
