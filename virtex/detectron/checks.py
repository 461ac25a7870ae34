"""What Detectron2's settings must be, so that a run does not fail late."""

import math
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg

from virtex.config.reading import shown
from virtex.detectron.keys import get_key, walk
from virtex.errors import UserError
from virtex.quoting import quoted

# Settings that the tool's own flags decide.
FLAGS = {
    "OUTPUT_DIR": "--output-dir",
    "SEED": "--seed",
    "MODEL.DEVICE": "--num-gpus",
    "MODEL.WEIGHTS": "--checkpoint",
}
POSITIVE_KEYS = ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.BASE_LR")
# The samplers of Detectron2 that a run can be resumed with.
SEEDED_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
KINDS = {bool: "bool", int: "number", float: "number", str: "text", type(None): "nothing"}


def kinds_of(value: Any) -> set[str]:
    """What a setting, or the items of a list, are."""
    if isinstance(value, list | tuple):
        return {kind for item in value for kind in kinds_of(item)}
    return {KINDS.get(type(value), "something else")}


def check_sound(cfg: CfgNode) -> None:
    """Lists hold what Detectron2's own do; numbers are finite; only what was empty is.

    Raises:
        UserError: naming the key.
    """
    check_kinds(cfg)
    check_positive(cfg)
    check_finite(cfg)


def check_kinds(cfg: CfgNode) -> None:
    defaults = get_cfg()
    for key, value in walk(cfg):
        wanted = kinds_of(get_key(defaults, key))
        if wanted not in (set(), {"nothing"}) and not kinds_of(value) <= wanted:
            raise UserError(f"{key} is {shown(value)}; it must be {' or '.join(sorted(wanted))}")


def check_finite(cfg: CfgNode) -> None:
    for key, value in walk(cfg):
        for number in numbers_in(value):
            if not abs(number) < 2**63:
                raise UserError(f"{key} is {shown(value)}; it must be finite and below 2**63")


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if type(value) in (int, float) else []


def check_positive(cfg: CfgNode) -> None:
    for key in POSITIVE_KEYS:
        value = get_key(cfg, key)
        if not 0 < value < math.inf:
            raise UserError(f"{key} is {value}; it must be a positive number")


def check_values(cfg: CfgNode, overridden: Sequence[str], device: str) -> None:
    """Refuse what would fail later, or be ignored.

    Raises:
        UserError: naming the key.
    """
    for key, flag in FLAGS.items():
        if key in overridden:
            raise UserError(f"{key} is decided by {flag}; leave the override out")
    check_sound(cfg)
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise UserError("DATALOADER.NUM_WORKERS must not be negative")
    if cfg.SOLVER.AMP.ENABLED and device == "cpu":
        raise UserError("SOLVER.AMP.ENABLED needs a GPU; leave it out on the CPU")
    if cfg.DATALOADER.SAMPLER_TRAIN not in SEEDED_SAMPLERS:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN is {quoted(cfg.DATALOADER.SAMPLER_TRAIN)}; it can be "
            + " or ".join(SEEDED_SAMPLERS)
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError("MODEL.KEYPOINT_ON: keypoints are not scored here; set it to False")
