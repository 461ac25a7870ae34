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
from dataclasses import dataclass, field
from pathlib import Path

from virtex.tool import run_tool

TOOLS = "virtex.eval_tools"
PRETRAIN, TRANSFER = "virtex.pretrain", f"{TOOLS}.detectron2_transfer"
LINEAR, SVM = f"{TOOLS}.imagenet_linear", f"{TOOLS}.voc07_svm"
INATURALIST, CAPTIONING = f"{TOOLS}.inaturalist_finetune", f"{TOOLS}.coco_captioning"
EVALUATE_ALL = f"{TOOLS}.evaluate_all"

PATIENCE = 240  # seconds; nothing here takes as long, even where others use the processor
LOOK = 0.01
GATE = "WAIT_FOR_FILE"  # in the environment: it begins when this file is there

CONTEXT = multiprocessing.get_context("forkserver")
# of pretraining, which the quick selection runs; others take some seconds more
CONTEXT.set_forkserver_preload(
    [
        *("virtex.pretrain", "virtex.pretraining_run", "virtex.training.loop", "virtex.optim"),
        *("virtex.models.build", "torch.utils.tensorboard", "tests.faults.started_tools"),
    ]
)


@dataclass
class Started:
    """A tool that has been started.

    Attributes:
        folder: holds what it prints, in ``said`` and ``errors``.
    """

    module: str
    argv: list
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    paused: bool = False

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        self.argv = list(map(str, self.argv))
        arguments = (self.module, self.argv, str(self.folder), {**os.environ, **self.environment})
        self.process = CONTEXT.Process(target=_in_process, args=arguments, daemon=False)
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
        self.send(signal.SIGSTOP)
        self.paused = True

    def go_on(self):
        self.send(signal.SIGCONT)
        self.paused = False

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


def _in_process(module, argv, folder, environment):
    os.setsid()  # so that all it starts can be ended with it
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "said"), (2, "errors")):
        file = os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
    # what a program's own start would have made
    multiprocessing.set_start_method(None, force=True)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    sys.argv = [module]
    tool = importlib.import_module(module)
    while GATE in environment and not os.path.exists(environment[GATE]):
        time.sleep(LOOK / 10)
    run_tool(tool.main, tool.build_parser(), argv)


def worker_processes(started):
    """The numbers of the processes that a tool has started, the oldest first."""
    path = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
    return [int(number) for number in _text(path).split()]
