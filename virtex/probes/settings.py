"""The settings in the YAML files of the probes' protocols.

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
from virtex.protocols import Protocol
from virtex.records import Deviation

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


def load_settings(
    protocol: Protocol, overrides: Sequence[Any] = ()
) -> tuple[CfgNode, list[Deviation]]:
    """Return the settings of a run, checked and frozen, and their deviations from the protocol.

    Args:
        overrides: ``KEY VALUE KEY VALUE …``, values as text or as they are.

    Raises:
        UserError: an unknown key, a value of the wrong type or one that cannot work.
    """
    known = default_settings(protocol.config)
    packaged = {**known, **read_settings(protocol.config, known)}
    chosen = {**packaged, **read_overrides(overrides, known)}
    settings = as_node(chosen)
    check_choices(settings, {key: rule for key, rule in CHOICES.items() if key in known})
    check_limits(settings, {key: rule for key, rule in LIMITS.items() if key in known})
    check_crops(settings.DATA)
    if "OPTIM" in settings:
        check_no_decay(settings)
        check_steps(settings.OPTIM)
    settings.freeze()
    deviations = [
        Deviation(key, packaged[key], value, "override")
        for key, value in leaves(settings)
        if value != packaged[key]
    ]
    return settings, deviations


def default_settings(path: Path) -> dict[str, Any]:
    """Return dotted key -> value of a YAML file; the values, and so the types, of its base win."""
    tree = read_yaml(path)
    base = tree.pop(BASE_KEY, None)
    defaults = default_settings(path.parent / base) if base else {}
    return defaults | {k: v for k, v in leaves(CfgNode(tree)) if k not in defaults}


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
