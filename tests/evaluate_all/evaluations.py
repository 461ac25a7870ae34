"""Short evaluations of small networks by the tool itself, and what they say and leave."""

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

TOOL = Path(evaluate_all.__file__)
SMALL = " ".join(f"{key} {value}" for key, value in CROPS.items())

# a linear probe that is long enough to be ended in its middle, even by someone slow
INTERRUPTIBLE = "--log-every 1 --checkpoint-every 3 " + " ".join(
    f'{key} "{value}"' for key, value in (TRAINED | {"OPTIM.NUM_EPOCHS": 16.0}).items()
)
EARLY = "iter: 4  "  # what it says soon


def write_checkpoint(path, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), path)


@dataclass
class Evaluation:
    """An evaluation, and what came of it.

    Attributes:
        arguments: of the task's tool.
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
        return [sys.executable, str(TOOL), *self.argv]


def in_this_process(evaluation, *more):
    """``evaluation`` with its exit status and what it said."""
    evaluation.more += more
    printed, errors = Terminal(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        evaluation.status = status_of(evaluation.argv)
    evaluation.printed, evaluation.errors = printed.text(), errors.getvalue()
    assert "Traceback" not in evaluation.errors
    return evaluation


class Terminal(io.TextIOWrapper):
    """Takes text and bytes, in their order."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self):
        return self.buffer.getvalue().decode()


def status_of(argv):
    try:
        run_tool(evaluate_all.main, evaluate_all.build_parser(), argv)
    except SystemExit as left:
        return left.code


def refused(capsys, argv):
    """The sentence with which the tool declines."""
    capsys.readouterr()
    assert status_of(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.partition("error: ")[2].strip()


def records_in(out):
    """Path below ``out`` -> record."""
    return {
        path.parent.relative_to(out).as_posix(): json.loads(path.read_text())
        for path in sorted(out.rglob("result.json"))
    }


def times_of(out):
    """Path -> time of change of everything that runs have left."""
    return {
        path: path.stat().st_mtime_ns
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(("leaderboard", ".evaluate_all"))
    }
