"""What the detection tasks share: their command and how it is planned."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.data.layouts import Layout
from virtex.protocols import Protocol
from virtex.resources import resource_path
from virtex.tasks.registry import Task, register_task

if TYPE_CHECKING:
    from virtex.runner import Job

CONFIG_FOLDER = resource_path("detectron_configs")


def plan_detection(args: argparse.Namespace) -> Sequence[Job]:
    """Plan ``detectron2_transfer`` for its parsed arguments."""
    from types import SimpleNamespace

    from virtex.detectron.settings import build_settings
    from virtex.tasks.registry import packaged_protocol

    protocol = packaged_protocol(args.task, args.protocol)
    device = "cpu" if args.num_gpus == 0 else "cuda"
    settings = build_settings(protocol, args.overrides, 1, device) if args.overrides else None
    deviations = settings.deviations() if settings else []
    return [SimpleNamespace(protocol=protocol, deviations=deviations)]  # type: ignore[list-item]


def register_detection(
    name: str,
    title: str,
    layout: Layout,
    images: Mapping[str, int],
    configs: Mapping[str, str],
    read_data: Callable[[Path], Any],
) -> Task:
    """Register a detection task.

    The protocols' names in records are those of their YAML files.

    Args:
        images: data set, under its name in Detectron2 -> number of published images.
        configs: short name -> YAML file in ``detectron_configs`` without suffix; the first is
            the default.
    """
    return register_task(
        Task(
            name=name,
            title=title,
            layout=layout,
            protocols={
                short: Protocol(
                    name,
                    config,
                    "1",
                    Path(CONFIG_FOLDER, f"{config}.yaml"),
                    {} if short == "toy" else dict(images),
                )
                for short, config in configs.items()
            },
            plan=plan_detection,
            read_data=read_data,
            command="detectron2_transfer",
            arguments=("--task", name),
            is_default=True,
            workers_option="DATALOADER.NUM_WORKERS",
            fixed_options=("weights", "config"),  # either would make it another protocol
        )
    )
