"""The tasks that can be asked for, a row each, and what ``TASK[:PROTOCOL]`` chooses of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from virtex.errors import UserError
from virtex.tasks import TASKS as REGISTRY


@dataclass(frozen=True)
class Task:
    """A task and the tool that evaluates on it.

    Attributes:
        name: what the record calls it.
        tool: the script's file name.
        layout: what it needs of the data root, see ``virtex.data.layouts.LAYOUTS``.
        protocols: the module whose ``PROTOCOLS[name]`` holds its protocols, the default first.
        planner: module:function from the tool's parsed arguments to a list of
            ``virtex.runner.Plan`` (or another with its protocol and deviations).
        arguments: of the tool, beside those that all have.
        workers: the tool's flag or setting for the processes that load images.
        in_default: whether it is evaluated on where no tasks are named.
        seeded_by: arguments without one of which its result does not depend on the seed, so that
            one seed is enough; "" among them: it always does; none: it never does.
        decided: arguments of the tool that ``--arguments`` may not set, beside those of all tools.
        unsuited: module:function from the tool's parsed arguments and whether the checkpoint is
            on this machine to why the task is not for it; "" where it is for all.
    """

    name: str
    tool: str
    layout: str
    protocols: str
    planner: str
    arguments: tuple[str, ...] = ()
    workers: str = "--num-workers"
    in_default: bool = True
    seeded_by: tuple[str, ...] = ("",)
    decided: tuple[str, ...] = ()
    unsuited: str = ""

    def seeds(self, asked: Sequence[int], more: Sequence[str]) -> list[int]:
        """Those of the seeds asked for that give results of their own.

        Args:
            more: arguments that the user adds.
        """
        different = list(dict.fromkeys(asked))
        return different if {"", *more}.intersection(self.seeded_by) else different[:1]

    def protocol_names(self) -> list[str]:
        """Short names of its protocols; the first is the default."""
        return list(REGISTRY[self.name].protocols)

    def plans(self, args: Any) -> list[Any]:
        """What the tool would run for its parsed arguments."""
        return function_named(self.planner)(args)

    def why_unsuited(self, args: Any, at_hand: bool) -> str:
        """Why the task is not for the checkpoint of the parsed arguments; "" if it is.

        Args:
            at_hand: the checkpoint is on this machine and may be opened.

        Raises:
            UserError: that cannot be told.
        """
        return function_named(self.unsuited)(args, at_hand) if self.unsuited else ""


def function_named(place: str) -> Callable[..., Any]:
    """What ``module:function`` names."""
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


def detection(name: str) -> Task:
    return Task(
        name,
        "detectron2_transfer.py",
        name,
        "virtex.tasks",
        "virtex.evaluate_all.records:detection_plans",
        ("--task", name),
        "DATALOADER.NUM_WORKERS",
        decided=("weights", "config"),  # which would make it another protocol
    )


def probe(name: str, tool: str, layout: str, planner: str, *arguments: str, **more: Any) -> Task:
    return Task(name, tool, layout, "", f"virtex.tasks.{planner}:plan", arguments, **more)


ROWS = (
    detection("coco"),
    detection("lvis"),
    detection("voc"),
    probe("voc07_svm", "voc07_svm.py", "voc07_svm", "voc07_svm", seeded_by=("--low-shot",)),
    probe("imagenet_linear", "imagenet_linear.py", "imagenet", "imagenet"),
    probe("imagenet_knn", "imagenet_linear.py", "imagenet", "imagenet", "--knn",
          in_default=False, seeded_by=()),
    probe("inaturalist", "inaturalist_finetune.py", "inaturalist", "inaturalist"),
    probe("coco_captioning", "coco_captioning.py", "captioning", "coco_captioning",
          seeded_by=("--nucleus", "nucleus_sampling"),
          unsuited="virtex.captioning.captioner:unsupported_reason"),
)  # fmt: skip
TASKS = {row.name: row for row in ROWS}
DEFAULT_TASKS = [row.name for row in ROWS if row.in_default]


@dataclass(frozen=True)
class Choice:
    """A task under one of its protocols.

    Attributes:
        protocol: its short name.
        folder: the task's name, with the protocol's unless it is the default.
    """

    task: Task
    protocol: str
    folder: str


def choose_tasks(asked: Sequence[str], protocol: str | None) -> list[Choice]:
    """What ``TASK[:PROTOCOL] …`` chooses, each once.

    Args:
        protocol: of the tasks that name none; None: the default of each.

    Raises:
        UserError: there is no such task, or it has no such protocol.
    """
    chosen = []
    for text in asked:
        name, _, own = text.partition(":")
        if name not in TASKS:
            raise UserError(f"--tasks: there is no task {name!r}; there are {', '.join(TASKS)}")
        task = TASKS[name]
        names = task.protocol_names()
        wanted = own or protocol or names[0]
        if wanted not in names:
            raise UserError(f"task {name} has no protocol {wanted!r}; it has {', '.join(names)}")
        chosen.append(Choice(task, wanted, name if wanted == names[0] else f"{name}_{wanted}"))
    return list(dict.fromkeys(chosen))
