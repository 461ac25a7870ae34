"""What each tool's command line asks for: protocol, settings, data and evaluator."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from virtex.captioning.captioner import CaptionerOptions, captioner_identity
from virtex.captioning.evaluator import Captioning
from virtex.captioning.images import find_images, read_coco_images
from virtex.data.image_folders import read_image_folder
from virtex.data.image_sets import ImageSet, balanced_fraction
from virtex.data.inaturalist import read_inaturalist
from virtex.data.layouts import require_layout
from virtex.engine.distributed import device_of, world_size
from virtex.errors import UserError
from virtex.probes.cached_probe import CachedLinearProbe
from virtex.probes.classifier_training import ClassifierTraining, TrainingOptions
from virtex.probes.knn import NearestNeighbors
from virtex.probes.protocols import IMAGENET_IMAGES, load_settings, packaged_protocol
from virtex.probes.report import Evaluator
from virtex.probes.run import Plan, extraction_of
from virtex.probes.svm import Voc07Svm
from virtex.protocols import Protocol
from virtex.records import Deviation


def voc07_svm(args: argparse.Namespace) -> list[Plan]:
    """VOC07 classification; another average precision, and low-shot, are protocols of their own."""
    protocol = packaged_protocol("voc07_svm", args.protocol)
    kinds = [protocol.name]
    if args.low_shot:
        # samples and cost are this project's choice, so that it is nobody's published protocol
        shots = ["low", "shot", *map(str, args.low_shot)]
        kinds = ["-".join([*(["toy"] if protocol.name == "toy" else []), *shots])]
        protocol = replace(protocol, primary_metric=f"{max(args.low_shot)}-shot/mAP")
    if args.ap != "sklearn":
        kinds.append(args.ap)
    protocol = replace(protocol, name="-".join(kinds))
    settings, deviations = load_settings(protocol, args.overrides)

    def evaluator() -> Evaluator:
        root = Path(args.data_root)
        require_layout(root, "voc07_svm")
        extraction = extraction_of(args)
        return Voc07Svm(root, settings, extraction, args.solver, args.ap, args.low_shot, args.seed)

    identity = {"solver": args.solver, "low shot": list(args.low_shot)}
    return [Plan(protocol, settings, deviations, Path(args.output_dir), evaluator, identity)]


def imagenet_linear(args: argparse.Namespace) -> list[Plan]:
    """A linear layer, trained with augmentation or on cached features; or nearest neighbors."""
    if args.knn:
        protocol = packaged_protocol("imagenet_knn", args.protocol)
    else:
        protocol = packaged_protocol("imagenet_linear", args.protocol)
    protocol = for_own_data(protocol, args)
    settings, deviations = load_settings(protocol, args.overrides)
    if args.skip_bad_images and "OPTIM" not in settings:
        raise UserError(
            f"--skip-bad-images is for training on images; protocol {protocol.name} needs features "
            "of all of them: restore the images"
        )
    folder = Path(args.output_dir)

    def evaluator() -> Evaluator:
        train, val = read_images(args)
        if "KNN" in settings:
            return NearestNeighbors(train, val, settings, extraction_of(args))
        if "PROBE" in settings:
            return CachedLinearProbe(train, val, settings, extraction_of(args), folder, args.seed)
        return ClassifierTraining(train, val, settings, training_options(args, folder))

    return [Plan(protocol, settings, deviations, folder, evaluator)]


def inaturalist_finetune(args: argparse.Namespace) -> list[Plan]:
    """iNaturalist end to end; or, with fractions, ImageNet's labels but for so many of them."""
    if args.image_folder and not args.fraction:
        raise UserError(
            "--image-folder belongs to --fraction; give --fraction 1.0 to fine-tune on all of it"
        )
    if args.fraction:
        return [semi_supervised(args, fraction) for fraction in sorted(set(args.fraction))]
    protocol = packaged_protocol("inaturalist", args.protocol)
    settings, deviations = load_settings(protocol, args.overrides)
    folder = Path(args.output_dir)

    def evaluator() -> Evaluator:
        require_layout(args.data_root, "inaturalist")
        train, val = read_inaturalist(Path(args.data_root))
        return ClassifierTraining(train, val, settings, training_options(args, folder))

    return [Plan(protocol, settings, deviations, folder, evaluator, processes_of(settings))]


def coco_captioning(args: argparse.Namespace) -> list[Plan]:
    """Captions of COCO val2017, scored; or of images of one's own, which have no scores."""
    protocol = packaged_protocol("coco_captioning", args.protocol)
    if args.images:
        protocol = replace(protocol, task="captions", images={})
    settings, deviations = load_settings(protocol, [*decoding_overrides(args), *args.overrides])
    folder = Path(args.output_dir)
    options = CaptionerOptions(args.config, args.tokenizer, args.data_root, args.trust_pickle)

    def evaluator() -> Evaluator:
        images = find_images(args.images) if args.images else read_coco_images(args.data_root)
        return Captioning(
            images,
            settings,
            options,
            args.scorer,
            folder,
            torch.device(device_of(args)),
            args.seed,
            args.batch_size,
            args.num_workers,
        )

    identity = partial(captioner_identity, options=options)
    return [Plan(protocol, settings, deviations, folder, evaluator, model_identity=identity)]


def decoding_overrides(args: argparse.Namespace) -> list[str]:
    """The flags of decoding as ``KEY VALUE`` pairs.

    Raises:
        UserError: they exclude one another.
    """
    if args.nucleus is not None and args.beam_size is not None:
        raise UserError("--nucleus draws words and --beam-size searches for them; give one")
    pairs = {
        "BEAM_SIZE": args.beam_size,
        "NAME": None if args.nucleus is None else "nucleus_sampling",
        "NUCLEUS_SIZE": args.nucleus,
        "MAX_DECODING_STEPS": args.max_length,
    }
    given = [(f"MODEL.DECODER.{key}", value) for key, value in pairs.items() if value is not None]
    return [word for pair in given for word in pair]


def processes_of(settings: CfgNode) -> dict[str, int]:
    """The number of processes, where BatchNorm learns from the images of each."""
    return {} if settings.MODEL.FROZEN else {"processes": world_size()}


def semi_supervised(args: argparse.Namespace, fraction: float) -> Plan:
    """Fine-tuning on a class-balanced fraction of an image folder, in a folder of its own."""
    if fraction > 1:
        raise UserError(f"--fraction {fraction:g} is more than all; give 0.01 for 1 percent")
    protocol = packaged_protocol("imagenet_semi_supervised", args.protocol)
    protocol = for_own_data(protocol, args)
    protocol = replace(protocol, name=f"{protocol.name}-fraction-{fraction:g}")
    settings, deviations = load_settings(protocol, args.overrides)
    folder = Path(args.output_dir, f"fraction_{fraction:g}")

    def evaluator() -> Evaluator:
        whole, val = read_images(args)
        train = whole.subset(balanced_fraction(whole.labels, fraction, args.seed))
        training = ClassifierTraining(train, val, settings, training_options(args, folder))
        taken = len(train) / len(whole)
        if abs(taken / fraction - 1) > 0.1:
            training.report.notes.append(
                f"of each class at least one image is taken: {len(train)} of {len(whole)}, "
                f"{taken:.4g} of them"
            )
        expected = IMAGENET_IMAGES.get(whole.name) if protocol.images else None
        if expected not in (None, len(whole)):
            key = f"{whole.name}: images to take the fraction of"
            training.report.deviations.append(Deviation(key, expected, len(whole), "data"))
        return training

    return Plan(
        protocol,
        settings,
        deviations,
        folder,
        evaluator,
        {"fraction": fraction, **processes_of(settings)},
    )


def for_own_data(protocol: Protocol, args: argparse.Namespace) -> Protocol:
    """The protocol as a task of the data set's name where the data are not ImageNet's."""
    name = data_name(args)
    if name == "imagenet":
        return protocol
    return replace(protocol, task=protocol.task.replace("imagenet", name, 1), images={})


def data_name(args: argparse.Namespace) -> str:
    """``imagenet``, or what --image-folder is called."""
    return Path(args.image_folder).resolve().name if args.image_folder else "imagenet"


def read_images(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """ImageNet below the data root, or the image folder that is named."""
    if args.image_folder:
        return read_image_folder(Path(args.image_folder), data_name(args))
    require_layout(args.data_root, "imagenet")
    return read_image_folder(Path(args.data_root, "imagenet"), "imagenet")


def training_options(args: argparse.Namespace, folder: Path) -> TrainingOptions:
    """What the command line says of a training beside its settings."""
    return TrainingOptions(
        folder,
        torch.device(device_of(args)),
        args.seed,
        args.num_workers,
        args.checkpoint_every,
        args.log_every,
        args.resume,
        args.skip_bad_images,
    )
