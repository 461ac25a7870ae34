"""What a network expects of an image, from the first that says it.

The file's own ``virtex_backbone`` entry, written by this project's training; for Detectron2's
detectors the ``config.yaml`` beside the file; else what the format's project always uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virtex.checkpoints.backbone import Backbone, CheckpointError, InputSpec
from virtex.config.yaml_files import read_yaml
from virtex.errors import UserError
from virtex.quoting import quoted

IMAGENET_RGB = InputSpec("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0)
UNNORMALIZED_RGB = InputSpec("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
# detectron2/config/defaults.py; the MSRA models have the std folded into their first layer.
CAFFE_BGR = InputSpec("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 255.0)
# PIXEL_STD of Detectron2's X-101-32x8d configs
CAFFE_BGR_WITH_STD = InputSpec("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), 255.0)

ENTRY = "virtex_backbone"
_CONFIG_KEYS = {
    "channel_order": ("INPUT", "FORMAT"),
    "mean": ("MODEL", "PIXEL_MEAN"),
    "std": ("MODEL", "PIXEL_STD"),
    "stride_in_1x1": ("MODEL", "RESNETS", "STRIDE_IN_1X1"),
}


def saved_input(backbone: Backbone) -> dict[str, Any]:
    """The entry that a training of this project adds to its checkpoints, by its key.

    The tensors do not tell it.
    """
    said = {"input": asdict(backbone.input), "stride_in_1x1": backbone.arch.stride_in_1x1}
    return {ENTRY: said}


def read_input(
    default: tuple[InputSpec, bool], content: Any, config: Path | None
) -> tuple[InputSpec, bool, list[str]]:
    """Input and place of the stride of a checkpoint.

    Args:
        default: what its format says: (input, stride_in_1x1).
        content: what the file holds, a ``virtex_backbone`` entry perhaps among it.
        config: where Detectron2 would have left its config; ``None`` for other formats.

    Returns:
        (input, stride_in_1x1, notes on what had to be assumed).

    Raises:
        CheckpointError: the entry or the config is there and makes no sense.
    """
    entry = content.get(ENTRY) if isinstance(content, Mapping) else None
    if entry is not None:
        return *_from_entry(entry), []
    if config is None:
        return *default, []
    if config.is_file():
        return _from_config(default, config)
    note = (
        "the file does not say its input and no config.yaml lies beside it: Detectron2's "
        "defaults are assumed (BGR, mean 103.53 116.28 123.675, std 1, STRIDE_IN_1X1 True)"
    )
    return *default, [note]


def _from_entry(entry: Any) -> tuple[InputSpec, bool]:
    try:
        if not isinstance(entry, Mapping):
            raise TypeError(f"it is of type {type(entry).__name__}")
        return _checked(**entry["input"]), _truth(entry["stride_in_1x1"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'the entry "{ENTRY}" should hold {{"input": {{channel_order, mean, std, scale}}, '
            f'"stride_in_1x1": …}}; it does not: {quoted(_one_line(error), 300)}'
        ) from error


def _from_config(
    default: tuple[InputSpec, bool], config: Path
) -> tuple[InputSpec, bool, list[str]]:
    try:
        tree = read_yaml(config)
    except UserError as error:
        raise CheckpointError(
            f"{config} beside the checkpoint should say its input, but is not plain YAML: "
            f"fix it or move it away ({_one_line(error)})"
        ) from error
    said: dict[str, Any] = {}
    silent = []
    for name, keys in _CONFIG_KEYS.items():
        value: Any = tree
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            silent.append(".".join(keys))
        else:
            said[name] = value
    spec, stride_in_1x1 = default
    try:
        spec = _checked(
            said.get("channel_order", spec.channel_order),
            said.get("mean", spec.mean),
            said.get("std", spec.std),
            255.0,
        )
        stride_in_1x1 = _truth(said.get("stride_in_1x1", stride_in_1x1))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config} beside the checkpoint: {error}") from error
    notes = [f"input and stride as {config.name} beside the file says"]
    if silent:
        notes.append(f"{config.name} is silent on {', '.join(silent)}: Detectron2's defaults")
    return spec, stride_in_1x1, notes


def _checked(channel_order: Any, mean: Any, std: Any, scale: Any = 1.0) -> InputSpec:
    """An ``InputSpec`` of plain floats; raises ``ValueError`` or ``TypeError`` if it is none."""
    if not isinstance(channel_order, str) or channel_order not in ("RGB", "BGR"):
        raise ValueError("the color order is neither RGB nor BGR")
    for numbers in (mean, std):
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            raise ValueError("mean and std should be three numbers each")
    if not all(map(_is_number, (*mean, *std, scale))) or not all(n > 0 for n in (*std, scale)):
        raise ValueError("mean, std and scale should be numbers, std and scale above zero")
    one, two, three, *stds = map(float, (*mean, *std))
    return InputSpec(channel_order, (one, two, three), (stds[0], stds[1], stds[2]), float(scale))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("the stride is in the 1x1 convolution or not: True or False")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
