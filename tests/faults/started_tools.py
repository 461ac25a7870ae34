"""The tools as processes of their own, which start at once: a server has imported their libraries.

What such a process does, is sent and leaves is that of a command; only its start is shorter.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtex.cli import run_tool

TOOLS = "virtex.eval_tools"
PRETRAIN, TRANSFER = "virtex.pretrain", f"{TOOLS}.detectron2_transfer"
LINEAR, SVM = f"{TOOLS}.imagenet_linear", f"{TOOLS}.voc07_svm"
INATURALIST, CAPTIONING = f"{TOOLS}.inaturalist_finetune", f"{TOOLS}.coco_captioning"
EVALUATE_ALL = f"{TOOLS}.evaluate_all"

PATIENCE = 240  # seconds; nothing here takes as long, even where others use the processor
LOOK = 0.002
GATE = "WAIT_FOR_FILE"  # in the environment: it begins when this file is there

# What tools import within ``main``: most of a short run's time.
HEAVY = (
    *("virtex.pretrain", "virtex.pretraining.run", "virtex.engine.loop", "virtex.optim"),
    *(
        "virtex.pretraining.models.build",
        "torch.utils.tensorboard",
        "virtex.tasks",
        "sklearn.svm",
    ),
    *("virtex.detectron.transfer", "virtex.captioning.evaluator", "virtex.leaderboard.page"),
    *("virtex.leaderboard.plot", "tests.faults.started_tools"),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(HEAVY))


@dataclass
class Started:
    """A tool that has been started.

    Attributes:
        folder: holds what it prints, in ``said`` and ``errors``.
        commands: it has subcommands.
    """

    module: str
    argv: Sequence
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    commands: bool = False

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        self.process = CONTEXT.Process(
            target=_in_process,
            args=(self.module, list(map(str, self.argv)), str(self.folder)),
            kwargs={
                "environment": {**os.environ, **self.environment},
                "commands": self.commands,
            },
            daemon=False,
        )
        self.process.start()

    @property
    def said(self) -> str:
        return _text(self.folder / "said")

    @property
    def errors(self) -> str:
        return _text(self.folder / "errors")

    def runs(self) -> bool:
        return self.process.is_alive()

    def until(self, arrived, what="it"):
        """Wait for ``arrived()``, which comes while it runs."""
        end = time.monotonic() + PATIENCE
        while not arrived():
            assert self.runs(), f"{what} did not come; {self.process.exitcode}: {self.tail()}"
            assert time.monotonic() < end, f"{what} does not come: {self.tail()}"
            time.sleep(LOOK)
        return self

    def says(self, text):
        return self.until(lambda: text in self.said or text in self.errors, repr(text))

    def ends(self, within=PATIENCE) -> int:
        """Its exit status, below 0 the signal that ended it."""
        self.process.join(within)
        assert not self.runs(), f"it hangs: {self.tail()}"
        return self.process.exitcode

    def ended_well(self):
        assert self.ends() == 0, self.tail()
        return self

    def send(self, number):
        os.kill(self.process.pid, number)

    def pause(self):
        """Unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGSTOP)

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGCONT)

    def kill(self):
        """-9, to it alone."""
        self.send(signal.SIGKILL)
        assert self.ends() == -signal.SIGKILL

    def clean_up(self):
        """End it and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE)

    def sentence(self) -> str:
        """The one sentence with which it ends."""
        assert "Traceback" not in self.said + self.errors, self.tail()
        found = [line for line in self.errors.splitlines() if "error" in line.partition(": ")[0]]
        found += [line for line in self.errors.splitlines() if ": error: " in line]
        found = list(dict.fromkeys(found))
        assert len(found) == 1, self.tail()
        assert self.errors.rstrip().splitlines()[-1] == found[0], self.tail()
        return found[0].partition("error")[2].partition(": ")[2]

    def refuses(self) -> str:
        """The sentence of exit status 2."""
        assert self.ends() == 2, f"{self.process.exitcode}: {self.tail()}"
        return self.sentence()

    def tail(self):
        return f"{self.module}\n{self.said[-2000:]}\n{self.errors[-4000:]}"


def _text(path):
    return path.read_text(errors="replace") if path.exists() else ""


def _in_process(module, argv, folder, environment, commands):
    os.environ.clear()
    os.environ.update(environment)
    prints_to(Path(folder, "said"), Path(folder, "errors"))
    # what a program's own start would have made
    multiprocessing.set_start_method(None, force=True)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    tool = tool_of(module)
    while GATE in environment and not os.path.exists(environment[GATE]):
        time.sleep(LOOK / 10)
    run_tool(tool.main, tool.build_parser(), argv)


def prints_to(stdout, stderr):
    """In a session of its own, so that all that this process starts can be ended with it."""
    os.setsid()
    for number, path in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND), number)


def tool_of(module):
    """The module, and its name as that of this process."""
    tool = importlib.import_module(module)
    sys.argv = [tool.__file__]
    return tool


def worker_processes(started):
    """The numbers of the processes that a tool has started, the oldest first."""
    path = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
    return [int(number) for number in _text(path).split()]
