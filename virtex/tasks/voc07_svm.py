"""VOC07 classification: one linear SVM per class on frozen features."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import VOC07_CLASSIFICATION
from virtex.tasks.registry import Task, build_protocols, register_task

if TYPE_CHECKING:
    from virtex.evaluator import Evaluator
    from virtex.runner import Evaluation, Job


def build_evaluator(job: Evaluation) -> Evaluator:
    from virtex.probes.svm import Voc07Svm
    from virtex.tasks.jobs import build_extractor

    args = job.args
    return Voc07Svm(
        Path(args.data_root),
        job.settings,
        build_extractor(job),
        args.solver,
        args.ap,
        args.low_shot,
        args.seed,
    )


def plan(args: argparse.Namespace) -> list[Job]:
    """Plan one job; another average precision and low-shot are separate protocols."""
    from virtex.tasks.jobs import plan_probe

    protocol = VOC07_SVM.protocol(args.protocol)
    parts = [protocol.name]
    if args.low_shot:
        # no publication specifies the number of samples and the cost used here
        parts = ["toy"] if protocol.name == "toy" else []
        parts.append("-".join(["low-shot", *map(str, args.low_shot)]))
        protocol = replace(protocol, primary_metric=f"{max(args.low_shot)}-shot/mAP")
    if args.ap != "sklearn":
        parts.append(args.ap)
    protocol = replace(protocol, name="-".join(parts))
    options = {"solver": args.solver, "low_shot": list(args.low_shot)}
    return [plan_probe(args, VOC07_SVM, build_evaluator, protocol, options=options)]


def read_data(data_root: Path) -> None:
    """Read and check both splits."""
    from virtex.data.voc import read_voc07

    for split in ("trainval", "test"):
        read_voc07(data_root, split)


VOC07_SVM = register_task(
    Task(
        name="voc07_svm",
        title="VOC07 classification",
        layout=VOC07_CLASSIFICATION,
        protocols=build_protocols(
            "voc07_svm",
            "mAP",
            {"voc_2007_trainval": 5011, "voc_2007_test": 4952},
            {"paper": "voc07_svm", "toy": "toy/voc07_svm"},
            version="2",  # 1: all images were resized with bilinear antialiasing
        ),
        plan=plan,
        command="voc07_svm",
        read_data=read_data,
        is_default=True,
        seeded_by=("--low-shot",),
    )
)
