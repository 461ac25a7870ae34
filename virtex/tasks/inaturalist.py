"""iNaturalist 2018: fine-tuning end to end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import INATURALIST_2018
from virtex.errors import UserError
from virtex.tasks.imagenet import plan_fractions
from virtex.tasks.registry import Task, build_protocols, register_task

if TYPE_CHECKING:
    from virtex.evaluator import Evaluator
    from virtex.runner import Evaluation, Job


def build_evaluator(job: Evaluation) -> Evaluator:
    from virtex.data.inaturalist import read_inaturalist
    from virtex.probes.classifier_training import ClassifierTraining
    from virtex.tasks.jobs import build_training_options

    options = build_training_options(job)
    return ClassifierTraining(*read_inaturalist(Path(job.args.data_root)), job.settings, options)


def plan(args: argparse.Namespace) -> list[Job]:
    """Plan ``inaturalist_finetune``; with ``--fraction``, ImageNet with few labels."""
    from virtex.tasks.jobs import count_processes, plan_probe

    if args.fraction:
        return plan_fractions(args)
    if args.image_folder:
        raise UserError(
            "--image-folder requires --fraction; pass --fraction 1.0 to fine-tune on all labels",
            "arguments.conflict",
        )
    job = plan_probe(args, INATURALIST, build_evaluator)
    job.options |= count_processes(job.settings)
    return [job]


def read_data(data_root: Path) -> None:
    """Read and check both splits."""
    from virtex.data.inaturalist import read_inaturalist

    read_inaturalist(data_root)


INATURALIST = register_task(
    Task(
        name="inaturalist",
        title="iNaturalist 2018 fine-tuning",
        layout=INATURALIST_2018,
        protocols=build_protocols(
            "inaturalist",
            "top1",
            {"inaturalist_2018_train": 437513, "inaturalist_2018_val": 24426},
            {"paper": "inaturalist_finetune", "toy": "toy/inaturalist_finetune"},
            version="2",  # 1: all images were resized with bilinear antialiasing
        ),
        plan=plan,
        command="inaturalist_finetune",
        read_data=read_data,
        is_default=True,
    )
)
