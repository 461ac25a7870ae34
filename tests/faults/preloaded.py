"""Tools as processes that are there at once: forked off one that has imported everything.

Most of a short run's life is the start of Python and torch, where a kill tests nothing. A tool
that is started here is a process of its own like any other, in a session of its own; it takes up
after the imports. As a program, ``python -m tests.faults.preloaded``, it is that which forks.
"""

import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# What the tools import within ``main``.
HEAVY = (
    *("virtex.pretraining_run", "virtex.training.loop", "virtex.evaluation.tasks"),
    *("virtex.detectron.transfer", "virtex.leaderboard.page", "virtex.leaderboard.plot"),
    *("virtex.optim", "virtex.models.build", "torch.utils.tensorboard"),
)


class Preloaded:
    """Starts tools one after the other; ``close`` ends it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.preloaded"]
        self.forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert json.loads(self.forker.stdout.readline()) == "ready"

    def start(
        self, module: str, argv: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> "Forked":
        wanted = [module, list(argv), dict(environment), str(log)]
        self.forker.stdin.write(json.dumps(wanted).encode() + b"\n")
        self.forker.stdin.flush()
        return Forked(json.loads(self.forker.stdout.readline()), self.forker.stdout)

    def close(self) -> None:
        self.forker.stdin.close()
        self.forker.wait()


class Forked:
    """A process of a tool, as ``subprocess.Popen`` shows one."""

    def __init__(self, pid: int, said):
        self.pid, self.said, self.returncode = pid, said, None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.said], [], [], 0)[0]:
            self.returncode = json.loads(self.said.readline())
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = json.loads(self.said.readline())
        return self.returncode


def serve() -> None:
    """Fork for each line of standard input, and tell the process's number and how it ended."""
    for name in HEAVY:
        importlib.import_module(name)
    tell("ready")
    for line in iter(sys.stdin.buffer.readline, b""):
        pid = os.fork()
        if not pid:
            become(*json.loads(line))
        tell(pid)
        tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def tell(something: str | int) -> None:
    print(json.dumps(something), flush=True)


def become(module: str, argv: list[str], environment: dict[str, str], log: str) -> None:
    """The new process is the tool from here on."""
    from virtex.tool import run_tool

    os.setsid()
    with open(os.devnull) as nothing, open(log, "ab") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    tool = importlib.import_module(module)
    run_tool(tool.main, tool.build_parser(), argv)


if __name__ == "__main__":
    serve()
