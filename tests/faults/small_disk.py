"""A disk of any size for tools to run out of, which nobody else sees."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.disk_server import PAGE

ROOT = Path(__file__).resolve().parents[2]
LARGE = 1 << 29  # bytes, more than any run here writes
LIMIT = 120  # seconds, of a run that takes a few
# root may make a mount namespace; others may where the kernel lets them make a user namespace
WAYS = (("unshare", "-m"), ("unshare", "-Urm"))


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: negative for a signal, None where it hung.
        errors: what it said on standard error.
        changes: pages in use, what was changed, and the file's name, in order.
    """

    status: int | None
    seconds: float
    printed: str
    errors: str
    changes: list[tuple[int, str, str]]

    @property
    def openings(self) -> int:
        """How often a file was opened to be written."""
        return sum(event == "open" for _, event, _ in self.changes)


class SmallDisk:
    """A tmpfs in a mount namespace of its own, and the process that runs tools there."""

    def __init__(self, way: tuple[str, ...]):
        self.scratch = tempfile.TemporaryDirectory(prefix="virtex-disk-")
        self.place = Path(self.scratch.name, "disk")
        self.mounted = False
        self.process = subprocess.Popen(
            [*way, sys.executable, "-m", "tests.faults.disk_server"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.process.stdout.readline()

    @property
    def seen(self) -> Path:
        """The disk, for this process to look at."""
        return Path(f"/proc/{self.process.pid}/root{self.place}")

    def ask(self, what: str, **more: object) -> dict:
        print(
            json.dumps({"do": what, "place": str(self.place), **more}),
            file=self.process.stdin,
            flush=True,
        )
        return json.loads(self.process.stdout.readline())

    def do(self, what: str, **more: object) -> None:
        failed = self.ask(what, **more)["failed"]
        assert not failed, failed

    def mount(self, pages: int = LARGE // PAGE, files: int = 0) -> None:
        """An empty disk in the place of the last; 0 files: without a limit."""
        if self.mounted:
            self.do("unmount")
        self.do("mount", pages=pages, files=files)
        self.mounted = True

    def enlarge(self) -> None:
        """Room for everything, and it can be written."""
        self.do("enlarge", pages=LARGE // PAGE)

    def lock(self) -> None:
        self.do("lock")

    def run(self, module: str, argv: list[str], commands: bool = False, **more: object) -> Outcome:
        """
        Args:
            environment: of the run, beside this process's.
            fill_at, spare: the opening at which somebody else fills the disk, and what is left.
            longest: bytes that a file may have.
            stdout: the file that standard output goes to.
        """
        names = {name: Path(self.scratch.name, name) for name in ("stdout", "stderr", "notes")}
        for path in names.values():
            path.unlink(missing_ok=True)
        asked = {"environment": {}, "limit": LIMIT, "spare": 0} | more
        asked = {name: str(path) for name, path in names.items()} | asked
        found = self.ask("run", module=module, argv=argv, commands=commands, **asked)
        names["stdout"].touch()
        printed, errors, notes = (path.read_text(errors="replace") for path in names.values())
        changes = [tuple(json.loads(line)) for line in notes.splitlines()]
        return Outcome(found["status"], found["seconds"], printed, errors, changes)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.scratch.cleanup()


@functools.cache
def small_disk() -> SmallDisk:
    """One for all tests of a process.

    Skips the test where this user may not mount anything.
    """
    reasons = []
    for way in WAYS:
        tried = subprocess.run(
            [*way, "sh", "-c", "mount -t tmpfs -o size=4k virtex /mnt"],
            capture_output=True,
            text=True,
        )
        if tried.returncode == 0:
            disk = SmallDisk(way)
            atexit.register(disk.close)
            return disk
        reasons.append(tried.stderr.strip())
    pytest.skip(f"a small disk cannot be mounted here: {'; '.join(reasons)}")
