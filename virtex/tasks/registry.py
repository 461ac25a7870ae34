"""The task registry: an entry declares everything the toolkit knows about one task.

``evaluate_all``, the leaderboard, ``check_data``, the documentation's tables and ``--help`` read
it. Importing an entry is cheap: torch and the evaluation code are imported by ``plan``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.data.layouts import Layout
from virtex.errors import UserError
from virtex.protocols import Protocol, choose_protocol
from virtex.resources import resource_path

if TYPE_CHECKING:
    from virtex.evaluator import Evaluator
    from virtex.runner import Evaluation, Job

PLUGINS = "VIRTEX_TASKS"  # environment variable: Python files that register tasks


@dataclass(frozen=True)
class Task:
    """A downstream task, or a pretraining.

    Attributes:
        name: the key in records and on command lines.
        title: the displayed name, as in "COCO detection".
        layout: the required files below the data root, and their sources.
        protocols: short name -> protocol; the first is the default.
        build_evaluator: reads and checks the data of a job and returns its evaluator; sufficient
            for a task of one job without specific options.
        plan: parsed arguments of ``command`` -> the jobs to run; default: one job, evaluated by
            ``build_evaluator``. It checks the arguments but opens no data.
        command: the module in ``virtex.eval_tools`` that runs it.
        arguments: the arguments of ``command`` that select this task; default for ``probe``:
            ``--task NAME``.
        read_data: reads and checks all data below a data root, as the task does before it runs.
        is_default: whether ``evaluate_all`` runs it when no tasks are named.
        has_single_record: False if its options select several evaluations, each with a record in a
            subfolder; ``evaluate_all`` does not run such a task.
        is_evaluation: False for pretraining, which the leaderboard does not show.
        workers_option: option or setting for the number of data loading processes.
        seeded_by: arguments with which the result depends on the seed; "" stands for always, an
            empty tuple for never.
        fixed_options: options of the command that ``evaluate_all --arguments`` must not set.
        unsupported_reason: (parsed arguments, whether the checkpoint may be opened) -> why the
            task cannot evaluate the checkpoint, "" if it can.
    """

    name: str
    title: str
    layout: Layout
    protocols: Mapping[str, Protocol]
    build_evaluator: Callable[[Evaluation], Evaluator] | None = None
    plan: Callable[[argparse.Namespace], Sequence[Job]] | None = None
    command: str = "probe"
    arguments: tuple[str, ...] = ()
    read_data: Callable[[Path], Any] | None = None
    is_default: bool = False
    has_single_record: bool = True
    is_evaluation: bool = True
    workers_option: str = "--num-workers"
    seeded_by: tuple[str, ...] = ("",)
    fixed_options: tuple[str, ...] = ()
    unsupported_reason: Callable[[argparse.Namespace, bool], str] | None = None

    def __post_init__(self) -> None:
        if self.command == "probe" and not self.arguments:
            object.__setattr__(self, "arguments", ("--task", self.name))

    @property
    def default_protocol(self) -> Protocol:
        return next(iter(self.protocols.values()))

    @property
    def primary_metric(self) -> str:
        return self.default_protocol.primary_metric

    def protocol(self, name: str | None = None) -> Protocol:
        """Return a protocol by its short name; the default for ``None``.

        Raises:
            UserError: the task has no protocol with that name.
        """
        return choose_protocol(dict(self.protocols), self.name, name)

    def jobs(self, args: argparse.Namespace) -> Sequence[Job]:
        """Return the jobs that the parsed arguments of ``command`` request.

        Raises:
            UserError: the arguments are invalid.
        """
        if self.plan is not None:
            return self.plan(args)
        from virtex.tasks.jobs import plan_probe

        assert self.build_evaluator is not None  # a task has one or the other
        return [plan_probe(args, self, self.build_evaluator)]


TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task to the registry and return it.

    Raises:
        ValueError: the name is already registered.
    """
    if task.name in TASKS:
        raise ValueError(f"a task named {task.name!r} is already registered")
    TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """Return a registered task.

    Raises:
        UserError: no task has that name.
    """
    if name not in TASKS:
        raise UserError(
            f"unknown task {name!r}; choose one of {', '.join(TASKS)}", "arguments.unknown_task"
        )
    return TASKS[name]


def packaged_protocol(task: str, name: str | None = None) -> Protocol:
    """Return a protocol of a task by its short name; the task's default for ``None``.

    Raises:
        UserError: unknown task or protocol.
    """
    return get_task(task).protocol(name)


def plan_task(args: argparse.Namespace) -> Sequence[Job]:
    """Plan the task that ``args.task`` names."""
    return get_task(args.task).jobs(args)


def build_protocols(
    task: str,
    primary_metric: str,
    images: Mapping[str, int],
    configs: Mapping[str, str | Path],
    version: str = "1",
) -> dict[str, Protocol]:
    """Return the protocols of a task; those named ``toy…`` take data of any size.

    Args:
        images: dataset -> number of published images.
        configs: short name -> YAML file, or its name in ``virtex/configs/downstream`` without
            suffix; the first is the default.
        version: see ``Protocol``.
    """
    return {
        name: Protocol(
            task,
            name,
            version,
            config if isinstance(config, Path) else downstream_config(config),
            {} if name.startswith("toy") else dict(images),
            primary_metric,
        )
        for name, config in configs.items()
    }


def downstream_config(name: str) -> Path:
    """Return the packaged YAML file of a probe's settings."""
    return resource_path("configs/downstream") / f"{name}.yaml"


def load_plugins() -> None:
    """Import the Python files that ``$VIRTEX_TASKS`` lists, which register tasks.

    Raises:
        UserError: a file is missing.
    """
    for number, path in enumerate(filter(None, os.environ.get(PLUGINS, "").split(os.pathsep))):
        if not os.path.isfile(path):
            raise UserError(
                f"${PLUGINS} must list Python files, but {path} is not a file; correct it",
                "environment.plugin",
            )
        spec = importlib.util.spec_from_file_location(f"virtex_plugin_{number}", path)
        assert spec is not None and spec.loader is not None  # a path to a file always has one
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
