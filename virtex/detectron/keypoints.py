"""Keypoints of detection datasets, and checks for detectors with ``MODEL.KEYPOINT_ON``.

A dataset has keypoints if its metadata has ``keypoint_names``, as Detectron2 requires; its objects
are then checked for them when it is read.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

from virtex.config.overrides import invalid_value
from virtex.data.annotations import COCO_KEYPOINTS
from virtex.errors import UserError
from virtex.text import short_repr

# Metadata of COCO's person keypoints.
COCO_PERSON: dict[str, Any] = {
    "keypoint_names": COCO_PERSON_KEYPOINT_NAMES,
    "keypoint_flip_map": COCO_PERSON_KEYPOINT_FLIP_MAP,
    "keypoint_connection_rules": KEYPOINT_CONNECTION_RULES,
}


def count_keypoints(name: str) -> int:
    """Return the number of keypoints per object in a registered set, 0 if it has none.

    Raises:
        UserError: the names in its metadata are not valid.
    """
    names = MetadataCatalog.get(name).get("keypoint_names") or ()
    if not all(isinstance(item, str) for item in names) or len({*names}) < len(names):
        raise UserError(
            f"the keypoint_names in the metadata of dataset {name} must be unique strings, not "
            f"{short_repr(names)}",
            code="data.keypoints",
        )
    return len(names)


def validate_keypoints(cfg: CfgNode, sets: Sequence[str]) -> None:
    """Check detector and registered datasets for ``MODEL.KEYPOINT_ON``, without reading data.

    Args:
        sets: the datasets that the run reads. Training sets that it does not read get the metadata
            of the first one, because Detectron2 looks up that of all training sets.

    Raises:
        UserError: the detector has no keypoint head, a dataset has no keypoints, those of two
            datasets differ, or sigmas are missing.
    """
    if not cfg.MODEL.KEYPOINT_ON:
        return
    heads = cfg.MODEL.ROI_HEADS.NAME
    is_standard = heads not in ROI_HEADS_REGISTRY or issubclass(
        ROI_HEADS_REGISTRY.get(heads), StandardROIHeads
    )
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or not is_standard:
        raise invalid_value(
            "MODEL.KEYPOINT_ON must be False for detectors without a keypoint head: set "
            "MODEL.META_ARCHITECTURE GeneralizedRCNN and MODEL.ROI_HEADS.NAME StandardROIHeads, "
            f"not {cfg.MODEL.META_ARCHITECTURE} and {heads}"
        )
    for name in sets:
        validate_set(name, sets[0])
    validate_sigmas(cfg.TEST.KEYPOINT_OKS_SIGMAS, count_keypoints(sets[0]))
    known = MetadataCatalog.get(sets[0])
    for metadata in (MetadataCatalog.get(name) for name in cfg.DATASETS.TRAIN):
        if not metadata.get("keypoint_names"):
            metadata.set(
                keypoint_names=known.keypoint_names, keypoint_flip_map=known.keypoint_flip_map
            )


def validate_set(name: str, first: str) -> None:
    """Check that a set has keypoints, the same as the set ``first``."""
    metadata, other = MetadataCatalog.get(name), MetadataCatalog.get(first)
    if not count_keypoints(name):
        raise UserError(
            f"MODEL.KEYPOINT_ON requires datasets with keypoints, but {name} has none; use --task "
            "coco_keypoints, or set keypoint_names and keypoint_flip_map in the metadata of your "
            "own dataset",
            code="data.keypoints",
        )
    pairs = metadata.get("keypoint_flip_map")
    if not is_flip_map(pairs, metadata.keypoint_names):
        raise UserError(
            f"the keypoint_flip_map in the metadata of dataset {name} must be a list of pairs of "
            f"its keypoint_names, such as (left_eye, right_eye), not {short_repr(pairs)}",
            code="data.keypoints",
        )
    for key in ("keypoint_names", "keypoint_flip_map"):
        if metadata.get(key) != other.get(key):
            raise UserError(
                f"{first} and {name} must have the same {key}, in the same order",
                code="data.keypoints",
            )


def is_flip_map(pairs: Any, names: Sequence[str]) -> bool:
    """Return whether ``pairs`` is a list of disjoint pairs of ``names``."""
    if not isinstance(pairs, list | tuple):
        return False
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return False
    flat = [name for pair in pairs for name in pair]
    return all(name in names for name in flat) and len({*flat}) == len(flat)


def validate_sigmas(sigmas: Sequence[Any], number: int) -> None:
    """Check the standard deviations of OKS; if there are none, COCO's for persons are used.

    Args:
        number: of keypoints per object.
    """
    if not sigmas and number == COCO_KEYPOINTS:
        return
    are_positive = all(type(value) in (int, float) and value > 0 for value in sigmas)
    if len(sigmas) != number or not are_positive:
        raise invalid_value(
            f"TEST.KEYPOINT_OKS_SIGMAS must be {number} positive numbers, one for each keypoint of "
            f"the datasets, not {short_repr(list(sigmas))}"
        )
