"""Classification of ImageNet or any image folder: linear probes, k-NN, few labels."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import IMAGENET
from virtex.errors import UserError
from virtex.tasks.registry import Task, build_protocols, register_task

if TYPE_CHECKING:
    from virtex.data.image_sets import ImageSet
    from virtex.evaluator import Evaluator
    from virtex.protocols import Protocol
    from virtex.runner import Evaluation, Job

IMAGES = {"imagenet_train": 1281167, "imagenet_val": 50000}


def build_evaluator(job: Evaluation) -> Evaluator:
    """Build the evaluator that matches the settings of the protocol."""
    from virtex.tasks.jobs import build_extractor, build_training_options

    if "KNN" in job.settings:
        from virtex.probes.knn import NearestNeighbors

        extractor = build_extractor(job)
        return NearestNeighbors(*read_images(job.args), job.settings, extractor)
    if "PROBE" in job.settings:
        from virtex.probes.cached_probe import CachedLinearProbe

        extractor, images = build_extractor(job), read_images(job.args)
        return CachedLinearProbe(*images, job.settings, extractor, job.folder, job.args.seed)
    from virtex.probes.classifier_training import ClassifierTraining

    options = build_training_options(job)
    return ClassifierTraining(*read_images(job.args), job.settings, options)


def plan(args: argparse.Namespace) -> list[Job]:
    """Plan ``imagenet_linear``: a linear probe, on cached features or not, or k-NN."""
    from virtex.tasks.jobs import plan_probe

    task = IMAGENET_KNN if args.knn else IMAGENET_LINEAR
    protocol = for_data_set(task.protocol(args.protocol), args)
    job = plan_probe(args, task, build_evaluator, protocol)
    if args.skip_bad_images and "OPTIM" not in job.settings:
        raise UserError(
            f"--skip-bad-images applies to training on images, but protocol {protocol.name} needs "
            "the features of all images; restore the images instead",
            "arguments.conflict",
        )
    return [job]


def plan_fractions(args: argparse.Namespace) -> list[Job]:
    """Plan fine-tuning on class-balanced fractions of the labels, one job per fraction."""
    return [plan_fraction(args, fraction) for fraction in sorted(set(args.fraction))]


def plan_fraction(args: argparse.Namespace, fraction: float) -> Job:
    from virtex.tasks.jobs import count_processes, plan_probe

    if fraction > 1:
        raise UserError(
            f"--fraction must be at most 1, not {fraction:g}; use 0.01 for 1 percent",
            "arguments.invalid",
        )
    protocol = for_data_set(IMAGENET_SEMI_SUPERVISED.protocol(args.protocol), args)
    job = plan_probe(
        args,
        IMAGENET_SEMI_SUPERVISED,
        build_fraction_evaluator,
        replace(protocol, name=f"{protocol.name}-fraction-{fraction:g}"),
        folder=Path(args.output_dir, f"fraction_{fraction:g}"),
        options={"fraction": fraction},
    )
    job.options |= count_processes(job.settings)
    return job


def build_fraction_evaluator(job: Evaluation) -> Evaluator:
    from virtex.data.image_sets import balanced_fraction
    from virtex.probes.classifier_training import ClassifierTraining
    from virtex.records import Deviation
    from virtex.tasks.jobs import build_training_options

    fraction, options = job.options["fraction"], build_training_options(job)
    full, val = read_images(job.args)
    train = full.subset(balanced_fraction(full.labels, fraction, job.args.seed))
    training = ClassifierTraining(train, val, job.settings, options)
    used = len(train) / len(full)
    if abs(used / fraction - 1) > 0.1:
        training.report.notes.append(
            f"at least one image per class is used: {len(train)} of {len(full)} images, "
            f"{used:.4g} of them"
        )
    published = IMAGES.get(full.name) if job.protocol.images else None
    if published not in (None, len(full)):
        key = f"{full.name}: images before subsampling"
        training.report.deviations.append(Deviation(key, published, len(full), "data"))
    return training


def for_data_set(protocol: Protocol, args: argparse.Namespace) -> Protocol:
    """Return the protocol, for a task named after ``--image-folder`` if that is given.

    A folder named imagenet is expected to contain ImageNet.
    """
    name = data_set_name(args)
    if name == "imagenet":
        return protocol
    task = protocol.task.replace("imagenet", name, 1)
    return replace(protocol, task=task, images={})


def data_set_name(args: argparse.Namespace) -> str:
    """Return ``imagenet``, or the name of the folder of ``--image-folder``."""
    return Path(args.image_folder).resolve().name if args.image_folder else "imagenet"


def read_images(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Read the training and validation sets of ImageNet or of ``--image-folder``."""
    from virtex.data.image_folders import read_image_folder

    if args.image_folder:
        return read_image_folder(Path(args.image_folder), data_set_name(args))
    return read_image_folder(Path(args.data_root, "imagenet"), "imagenet")


def read_data(data_root: Path) -> None:
    """Read and check both splits."""
    from virtex.data.image_folders import read_image_folder

    read_image_folder(data_root / "imagenet", "imagenet")


IMAGENET_LINEAR = register_task(
    Task(
        name="imagenet_linear",
        title="ImageNet linear probe",
        layout=IMAGENET,
        protocols=build_protocols(
            "imagenet_linear",
            "top1",
            IMAGES,
            {
                "paper": "imagenet_linear",
                "cached": "imagenet_cached",
                "toy": "toy/imagenet_linear",
                "toy-cached": "toy/imagenet_cached",
            },
            version="2",  # 1: all images were resized with bilinear antialiasing
        ),
        plan=plan,
        command="imagenet_linear",
        read_data=read_data,
        is_default=True,
    )
)
IMAGENET_KNN = register_task(
    Task(
        name="imagenet_knn",
        title="ImageNet k-NN",
        layout=IMAGENET,
        protocols=build_protocols(
            "imagenet_knn",
            "top1",
            IMAGES,
            {"k20": "imagenet_knn", "toy": "toy/imagenet_knn"},
            version="2",  # 1: all images were resized with bilinear antialiasing
        ),
        plan=plan,
        command="imagenet_linear",
        arguments=("--knn",),
        read_data=read_data,
        seeded_by=(),
    )
)
IMAGENET_SEMI_SUPERVISED = register_task(
    Task(
        name="imagenet_semi_supervised",
        title="ImageNet with few labels",
        layout=IMAGENET,
        protocols=build_protocols(
            "imagenet_semi_supervised",
            "top1",
            {"imagenet_val": 50000},
            {"20-epochs": "semi_supervised", "toy": "toy/semi_supervised"},
        ),
        plan=plan_fractions,
        command="inaturalist_finetune",
        arguments=("--fraction",),
        has_single_record=False,
        read_data=read_data,
    )
)
