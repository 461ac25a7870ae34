"""Short evaluations of small networks by the command itself, and their output."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision

from tests.eval_tools.probe_runs import CROPS, TRAINED
from virtex.cli import run_tool
from virtex.eval_tools import evaluate_all

SMALL = " ".join(f"{key} {value}" for key, value in CROPS.items())

# A linear probe of 80 iterations, to be interrupted in its middle
INTERRUPTIBLE = "--log-every 1 --checkpoint-every 3 " + " ".join(
    f'{key} "{value}"' for key, value in (TRAINED | {"OPTIM.NUM_EPOCHS": 16.0}).items()
)
EARLY = "iter: 4  "


def write_checkpoint(path, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), path)


@dataclass
class Evaluation:
    """A command line, and what came of it.

    Attributes:
        arguments: of the task's command.
    """

    checkpoints: list[str]
    data: Path
    out: Path
    task: str = "voc07_svm"
    arguments: str = SMALL
    status: int | None = None
    printed: str = ""
    errors: str = ""
    more: list[str] = field(default_factory=list)

    @property
    def argv(self):
        return [
            *("--checkpoint", *map(str, self.checkpoints), "--tasks", self.task),
            *("--protocol", "toy", "--data-root", str(self.data), "--output-dir", str(self.out)),
            *("--num-gpus", "0", "--num-workers", "0"),
            *("--arguments", self.task, self.arguments),
            *self.more,
        ]

    @property
    def command(self):
        return [sys.executable, "-m", "virtex.eval_tools.evaluate_all", *self.argv]


def evaluate(evaluation, *more):
    """Run it in this process; sets the exit status and what it printed."""
    evaluation.more += more
    printed, errors = Terminal(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        evaluation.status = exit_status(evaluation.argv)
    evaluation.printed, evaluation.errors = printed.text(), errors.getvalue()
    assert "Traceback" not in evaluation.errors
    return evaluation


class Terminal(io.TextIOWrapper):
    """Takes text and bytes, in order."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self):
        return self.buffer.getvalue().decode()


def exit_status(argv):
    try:
        run_tool(evaluate_all.main, evaluate_all.build_parser(), argv)
    except SystemExit as error:
        return error.code


def read_records(out):
    """Path below ``out`` -> record."""
    return {
        path.parent.relative_to(out).as_posix(): json.loads(path.read_text())
        for path in sorted(out.rglob("result.json"))
    }


def modification_times(out):
    """Path -> modification time of everything that runs have written."""
    return {
        path: path.stat().st_mtime_ns
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(("leaderboard", ".evaluate_all"))
    }
