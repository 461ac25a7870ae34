"""A full or read-only disk: one error message, complete files, and a run that can be resumed.

The disk is a tmpfs in a mount namespace of its own.
"""

import functools
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.files import incomplete
from tests.faults.processes import ERROR
from tests.faults.runs import RUNS, result_of, undisturbed
from tests.selection import whole_only

# root may make a mount namespace; others may where the kernel allows user namespaces
NAMESPACES = (("unshare", "-m"), ("unshare", "-Urm"))
MB = 1 << 20


@functools.cache
def namespace():
    for command in NAMESPACES:
        probe = [*command, "sh", "-c", "mount -t tmpfs -o size=4k none /mnt"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return command
    pytest.skip("tmpfs cannot be mounted")


class Disk:
    """A shell in a namespace with a tmpfs, which runs one tool on it."""

    def __init__(self, kind, folder):
        self.run, self.folder = RUNS[kind], folder / "disk"
        self.folder.mkdir()
        self.shell = subprocess.Popen(
            [*namespace(), "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.do(f"mount -t tmpfs -o size=2g none {self.folder}")

    def do(self, command):
        """Run a command; return its exit status and what it printed."""
        print(
            f"{command} 2>&1; status=$?; echo; echo status $status",
            file=self.shell.stdin,
            flush=True,
        )
        lines = []
        while not (line := self.shell.stdout.readline()).startswith("status "):
            assert line, lines
            lines.append(line)
        return int(line.split()[1]), "".join(lines)

    def tool(self, *flags):
        words = self.run.arguments(self.folder / "out", *flags)
        command = shlex.join(map(str, (sys.executable, "-m", self.run.module, *words)))
        return self.do(f"VIRTEX_FEATURE_CACHE={self.folder}/features {command}")

    @property
    def seen(self):
        """The disk as seen from outside of the namespace."""
        return Path(f"/proc/{self.shell.pid}/root{self.folder}")

    def close(self):
        self.shell.stdin.close()
        self.shell.wait()


@pytest.fixture
def disk(kind, tmp_path):
    made = Disk(kind, tmp_path)
    yield made
    made.close()


def assert_reported(disk, status, printed):
    assert status == 2, printed[-4000:]
    assert "Traceback" not in printed, printed[-4000:]
    (message,) = set(ERROR.findall(printed))
    assert str(disk.folder) in message
    assert incomplete(disk.seen) == []


@pytest.mark.parametrize(
    ("kind", "megabytes"),
    whole_only(("svm", 0.02), ("pretraining", 0.02), ("pretraining", 60), ("transfer", 60)),
)
def test_run_on_a_full_disk_resumes_with_more_room(disk, kind, megabytes):
    disk.do(f"mount -o remount,size={int(megabytes * MB)} {disk.folder}")
    assert_reported(disk, *disk.tool())
    disk.do(f"mount -o remount,size=2g {disk.folder}")
    status, printed = disk.tool("--resume")
    assert status == 0, printed[-4000:]
    assert result_of(RUNS[kind], disk.seen / "out") == undisturbed(kind)


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["svm", "pretraining"])
def test_read_only_disk_is_reported(disk, kind):
    disk.do(f"mount -o remount,ro {disk.folder}")
    assert_reported(disk, *disk.tool())
    assert list(disk.seen.iterdir()) == []
