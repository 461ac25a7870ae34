"""Tools in processes of their own, which can stop themselves at an exact point.

A fork server has imported the heavy libraries, so that a process starts fast; otherwise it behaves
like a command. ``stop_at`` names a file: the process sends itself SIGSTOP as soon as it opens that
file or renames another to it. A test then acts on a process that is known to be at that point,
however fast the machine is.
"""

import contextlib
import multiprocessing
import os
import re
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 500  # seconds; only a process that hangs takes that long
POLL = 0.005
STOP_AT = "VIRTEX_TESTS_STOP_AT"
ERROR = re.compile(r"^[\w. -]+: error: .*$", re.MULTILINE)
HEAVY = (
    *("torch.utils.tensorboard", "torchvision", "sklearn.svm", "virtex.detectron"),
    *("virtex.engine.loop", "virtex.optim", "tests.faults.processes"),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(HEAVY))


@dataclass
class Process:
    """A tool that was started.

    Attributes:
        folder: receives ``stdout`` and ``stderr``.
    """

    module: str
    argv: Sequence
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        self.process = CONTEXT.Process(
            target=_run,
            args=(self.module, list(map(str, self.argv)), str(self.folder)),
            kwargs={"environment": {**os.environ, **self.environment}},
            daemon=False,
        )
        self.process.start()

    @property
    def printed(self) -> str:
        paths = (self.folder / "stdout", self.folder / "stderr")
        return "".join(p.read_text(errors="replace") for p in paths if p.exists())

    def stopped(self):
        """Wait until the process has stopped itself."""
        return self.until(lambda: self.state() == "T", "its point to stop")

    def until(self, condition, what):
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.is_alive(), f"ended before {what}: {self.printed[-4000:]}"
            assert time.monotonic() < end, f"{what} not reached: {self.printed[-4000:]}"
            time.sleep(POLL)
        return self

    def state(self) -> str:
        """State of the process as in /proc: R, S, T, …; empty once it has ended."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return ""
        return stat.rpartition(")")[2].split()[0]

    def status(self) -> int:
        """Wait for the exit status; negative: the signal that ended it."""
        self.process.join(TIMEOUT)
        assert not self.process.is_alive(), f"hangs: {self.printed[-4000:]}"
        return self.process.exitcode

    def succeeds(self):
        assert self.status() == 0, self.printed[-6000:]
        return self

    def fails(self, code: str = "", *named: object, is_interrupted: bool = False) -> str:
        """Expect exit status 2 and one error message with the code; return the message.

        Args:
            is_interrupted: the error may have interrupted code that ignores it with a traceback.
        """
        assert self.status() == 2, self.printed[-6000:]
        assert is_interrupted or "Traceback" not in self.printed, self.printed[-6000:]
        messages = list(dict.fromkeys(ERROR.findall(self.printed)))
        assert len(messages) == 1, self.printed[-6000:]
        assert f"[{code}" in messages[0], messages[0]
        for name in named:
            assert str(name) in messages[0], messages[0]
        return messages[0]

    def send(self, number: int):
        os.kill(self.process.pid, number)

    def resume(self):
        """Continue a stopped process."""
        self.send(signal.SIGCONT)
        return self

    def kill(self):
        """Kill this process alone with SIGKILL."""
        self.send(signal.SIGKILL)
        assert self.status() == -signal.SIGKILL

    def children(self) -> list[int]:
        """Process ids of its children, the oldest first."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in path.read_text().split()]

    def clean_up(self):
        """End it and everything that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(TIMEOUT)


def torchrun_environments(processes: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each process, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]


def _run(module, argv, folder, environment):
    os.setsid()  # so that the whole group can be ended
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate((os.devnull, f"{folder}/stdout", f"{folder}/stderr")):
        os.dup2(os.open(name, os.O_CREAT | os.O_RDWR | os.O_APPEND), number)
    multiprocessing.set_start_method(None, force=True)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    sys.argv = [module, *argv]
    if STOP_AT in environment:
        _stop_self_at(environment[STOP_AT])
    runpy.run_module(module, run_name="__main__")


def _stop_self_at(name):
    own, stopped = os.getpid(), False

    def hook(event, args):
        nonlocal stopped
        if stopped or event not in ("open", "os.rename") or os.getpid() != own:
            return
        paths = args[:2] if event == "os.rename" else args[:1]
        if any(str(path).rpartition("/")[2] == name for path in paths):
            stopped = True
            os.kill(own, signal.SIGSTOP)

    sys.addaudithook(hook)
