"""The packaged protocols of the probes, and the settings in their YAML files.

The packaged file of a task's kind says which settings there are and of which type; a toy file, or
``KEY VALUE`` pairs, can only change their values. Nothing in a file can run.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import BASE_KEY, CfgNode

from virtex.config import leaves
from virtex.config.checks import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    Limit,
    check_choices,
    check_limits,
    check_no_decay,
)
from virtex.config.reading import read_overrides, read_settings, read_yaml
from virtex.errors import UserError
from virtex.protocols import Protocol, choose_protocol
from virtex.records import Deviation
from virtex.resources import resource_path

CONFIG_FOLDER = resource_path("configs/downstream")

VOC07_IMAGES = {"voc_2007_trainval": 5011, "voc_2007_test": 4952}
IMAGENET_IMAGES = {"imagenet_train": 1281167, "imagenet_val": 50000}
CAPTIONING_IMAGES = {"coco_captions_val2017": 5000}
INATURALIST_IMAGES = {"inaturalist_2018_train": 437513, "inaturalist_2018_val": 24426}


def packaged(
    task: str, name: str, file: str, metric: str, images: dict[str, int] | None = None
) -> Protocol:
    return Protocol(task, name, "1", CONFIG_FOLDER / f"{file}.yaml", images or {}, metric)


# task -> short name -> protocol; the first of a task is its default
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "voc07_svm": {
        "paper": packaged("voc07_svm", "paper", "voc07_svm", "mAP", VOC07_IMAGES),
        "toy": packaged("voc07_svm", "toy", "toy/voc07_svm", "mAP"),
    },
    "imagenet_linear": {
        "paper": packaged("imagenet_linear", "paper", "imagenet_linear", "top1", IMAGENET_IMAGES),
        "cached": packaged("imagenet_linear", "cached", "imagenet_cached", "top1", IMAGENET_IMAGES),
        "toy": packaged("imagenet_linear", "toy", "toy/imagenet_linear", "top1"),
        "toy-cached": packaged("imagenet_linear", "toy-cached", "toy/imagenet_cached", "top1"),
    },
    "imagenet_knn": {
        "k20": packaged("imagenet_knn", "k20", "imagenet_knn", "top1", IMAGENET_IMAGES),
        "toy": packaged("imagenet_knn", "toy", "toy/imagenet_knn", "top1"),
    },
    "inaturalist": {
        "paper": packaged(
            "inaturalist", "paper", "inaturalist_finetune", "top1", INATURALIST_IMAGES
        ),
        "toy": packaged("inaturalist", "toy", "toy/inaturalist_finetune", "top1"),
    },
    "coco_captioning": {
        "paper": packaged(
            "coco_captioning", "paper", "coco_captioning", "CIDEr", CAPTIONING_IMAGES
        ),
        "toy": packaged("coco_captioning", "toy", "toy/coco_captioning", "CIDEr"),
    },
    "imagenet_semi_supervised": {
        "20-epochs": packaged("imagenet_semi_supervised", "20-epochs", "semi_supervised",
                              "top1", {"imagenet_val": 50000}),
        "toy": packaged("imagenet_semi_supervised", "toy", "toy/semi_supervised", "top1"),
    },
}  # fmt: skip

CHOICES: dict[str, tuple[str, ...]] = {
    "MODEL.DECODER.NAME": ("beam_search", "nucleus_sampling"),
    "AMP_DTYPE": ("auto", "bfloat16", "float16"),
    "OPTIM.OPTIMIZER_NAME": ("sgd", "adamw"),
    "OPTIM.LR_DECAY_NAME": ("none", "linear", "cosine", "multistep"),
}
WHOLE_POSITIVE = Limit("a whole number above 0", lambda value: type(value) is int and value > 0)
LIMITS: dict[str, Limit] = {
    "DATA.IMAGE_RESIZE_SIZE": POSITIVE,
    "DATA.IMAGE_CROP_SIZE": POSITIVE,
    "DATA.AUGMENTATIONS": NOT_NEGATIVE,
    "DATA.CROP_SCALE": SHARE_ABOVE_0,
    "SVM.COSTS": POSITIVE,
    "SVM.FOLDS": Limit("2 or more", lambda value: value >= 2),
    "SVM.POSITIVE_WEIGHT": POSITIVE,
    "LOW_SHOT.SAMPLES": POSITIVE,
    "LOW_SHOT.COST": POSITIVE,
    "KNN.NEIGHBORS": WHOLE_POSITIVE,
    "KNN.TEMPERATURE": POSITIVE,
    "PROBE.LRS": POSITIVE,
    "PROBE.WEIGHT_DECAYS": NOT_NEGATIVE,
    "PROBE.MOMENTUM": SHARE_BELOW_1,
    "PROBE.BATCH_SIZE": POSITIVE,
    "PROBE.NUM_EPOCHS": POSITIVE,
    "PROBE.HELD_OUT": Limit("more than 0 and less than 1", lambda value: 0 < value < 1),
    "MODEL.DECODER.BEAM_SIZE": WHOLE_POSITIVE,
    "MODEL.DECODER.PER_NODE_BEAM_SIZE": WHOLE_POSITIVE,
    "MODEL.DECODER.NUCLEUS_SIZE": SHARE_ABOVE_0,
    "MODEL.DECODER.MAX_DECODING_STEPS": WHOLE_POSITIVE,
    "OPTIM.SGD_MOMENTUM": SHARE_BELOW_1,
    "OPTIM.WEIGHT_DECAY": NOT_NEGATIVE,
    "OPTIM.CLIP_GRAD_NORM": NOT_NEGATIVE,
    "OPTIM.BATCH_SIZE": POSITIVE,
    "OPTIM.CNN_LR": NOT_NEGATIVE,
    "OPTIM.LR": NOT_NEGATIVE,
    "OPTIM.NUM_EPOCHS": POSITIVE,
    "OPTIM.WARMUP_EPOCHS": NOT_NEGATIVE,
    "OPTIM.LR_GAMMA": NOT_NEGATIVE,
}


def packaged_protocol(task: str, name: str | None = None) -> Protocol:
    """The protocol of a task by its short name; the task's default for None.

    Raises:
        UserError: the task has no protocol of that name.
    """
    return choose_protocol(PROTOCOLS[task], task, name)


def load_settings(
    protocol: Protocol, overrides: Sequence[Any] = ()
) -> tuple[CfgNode, list[Deviation]]:
    """The settings of a run, checked and frozen, and those that differ from the protocol's.

    Args:
        overrides: ``KEY VALUE KEY VALUE …``, values as text or as they are.

    Raises:
        UserError: an unknown key, a value of the wrong type or one that cannot work.
    """
    # a file's kind is its name: toy/NAME.yaml has the settings of NAME.yaml
    known = all_settings(CONFIG_FOLDER / protocol.config.name)
    packaged_ones = {**known, **read_settings(protocol.config, known)}
    chosen = {**packaged_ones, **read_overrides(overrides, known)}
    settings = as_node(chosen)
    check_choices(settings, {key: rule for key, rule in CHOICES.items() if key in known})
    check_limits(settings, {key: rule for key, rule in LIMITS.items() if key in known})
    check_crops(settings.DATA)
    if "OPTIM" in settings:
        check_no_decay(settings)
        check_steps(settings.OPTIM)
    settings.freeze()
    deviations = [
        Deviation(key, packaged_ones[key], value, "override")
        for key, value in leaves(settings)
        if value != packaged_ones[key]
    ]
    return settings, deviations


def all_settings(path: Path) -> dict[str, Any]:
    """Every setting of a packaged file and of those it is based on: dotted key -> value."""
    tree = read_yaml(path)
    base = tree.pop(BASE_KEY, None)
    return {**(all_settings(path.parent / base) if base else {}), **dict(leaves(CfgNode(tree)))}


def as_node(settings: dict[str, Any]) -> CfgNode:
    """Dotted keys as a tree."""
    node = CfgNode()
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = node
        for section in sections:
            place = place.setdefault(section, CfgNode())
        place[name] = value
    return node


def check_crops(data: CfgNode) -> None:
    if data.IMAGE_CROP_SIZE > data.IMAGE_RESIZE_SIZE:
        raise UserError(
            f"DATA.IMAGE_CROP_SIZE is {data.IMAGE_CROP_SIZE}; it cannot be more than "
            f"DATA.IMAGE_RESIZE_SIZE, {data.IMAGE_RESIZE_SIZE}"
        )
    scale = data.get("CROP_SCALE", [1.0, 1.0])
    if len(scale) != 2 or scale[0] > scale[1]:
        raise UserError(f"DATA.CROP_SCALE is {scale}; it must be two shares, ascending")


def check_steps(optim: CfgNode) -> None:
    steps = optim.LR_STEP_EPOCHS
    numbers = all(type(step) in (int, float) and step > 0 for step in steps)
    if not numbers or any(a >= b for a, b in itertools.pairwise(steps)):
        raise UserError(f"OPTIM.LR_STEP_EPOCHS is {steps}; it must be ascending numbers above 0")
    if optim.LR_DECAY_NAME != "multistep":
        return
    if not steps:
        raise UserError("OPTIM.LR_STEP_EPOCHS is empty; multistep needs numbers of epochs there")
    if steps[-1] >= optim.NUM_EPOCHS:
        raise UserError(
            f"OPTIM.LR_STEP_EPOCHS is {steps}, not all below OPTIM.NUM_EPOCHS, {optim.NUM_EPOCHS}; "
            "the learning rate would not fall that often: give steps that fit the length"
        )
