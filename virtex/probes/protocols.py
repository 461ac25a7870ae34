"""The packaged protocols of the probes, and the settings in their YAML files.

The packaged file of a task's kind says which settings there are and of which type; a toy file, or
``KEY VALUE`` pairs, can only change their values. Nothing in a file can run.
"""

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from virtex import config
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
    settings, changed = config.load_settings(protocol.config, overrides)
    return settings, [Deviation(*change, "override") for change in changed]
