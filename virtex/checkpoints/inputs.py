"""Determine the input that a network expects: channel order, normalization, scale.

The first available source is used: the file's own ``virtex_backbone`` entry, written by this
package's training; for Detectron2's detectors, the ``config.yaml`` next to the file; otherwise the
checkpoint's format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from virtex.backbones.registry import Arch, get_family
from virtex.checkpoints.backbone import Backbone, CheckpointError, InputSpec
from virtex.config.yaml_files import read_yaml
from virtex.errors import UserError
from virtex.text import escape

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
    """Return the entry that this package's training adds to its checkpoints, by its key.

    It contains the input and the fields of the architecture that tensor shapes do not determine.
    """
    fields = get_family(backbone.arch).format_fields
    entry = {"input": asdict(backbone.input)}
    return {ENTRY: entry | {name: getattr(backbone.arch, name) for name in fields}}


def read_input(
    default: InputSpec, arch: Arch, content: Any, config: Path | None
) -> tuple[InputSpec, Arch, list[str]]:
    """Return the input and the complete architecture of a checkpoint.

    Args:
        default: the format's input.
        arch: the detected architecture, with the ``format_fields`` of the format.
        content: the content of the file, possibly with a ``virtex_backbone`` entry.
        config: where Detectron2 writes its config; ``None`` for other formats.

    Returns:
        (input, architecture, notes on assumptions).

    Raises:
        CheckpointError: the entry or the config exists and is invalid.
    """
    entry = content.get(ENTRY) if isinstance(content, Mapping) else None
    if entry is not None:
        return *_from_entry(entry, arch), []
    if config is None:
        return default, arch, []
    if config.is_file():
        return _from_config(default, arch, config)
    note = (
        "no config.yaml next to the file: Detectron2's defaults are assumed "
        "(BGR, mean 103.53 116.28 123.675, std 1, STRIDE_IN_1X1 True)"
    )
    return default, arch, [note]


def _from_entry(entry: Any, arch: Arch) -> tuple[InputSpec, Arch]:
    names = get_family(arch).format_fields
    try:
        if not isinstance(entry, Mapping):
            raise TypeError(f"it is of type {type(entry).__name__}")
        spec = _validated_input(**entry["input"])
        return spec, _with_fields(arch, {name: entry[name] for name in names})
    except (KeyError, TypeError, ValueError) as error:
        fields = ", ".join(["{channel_order, mean, std, scale}", *names])
        raise CheckpointError(
            f'expected input = {fields} in the entry "{ENTRY}" of the checkpoint, found another: '
            f"{escape(_one_line(error), 300)}",
            code="checkpoint.invalid_input_spec",
        ) from error


def _from_config(default: InputSpec, arch: Arch, config: Path) -> tuple[InputSpec, Arch, list[str]]:
    try:
        tree = read_yaml(config)
    except UserError as error:
        raise CheckpointError(
            f"{config} next to the checkpoint should define its input, but is not plain YAML; "
            f"fix it or move it away ({_one_line(error)})",
            code="checkpoint.invalid_input_spec",
        ) from error
    stated: dict[str, Any] = {}
    missing = []
    for name, keys in _CONFIG_KEYS.items():
        value: Any = tree
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            missing.append(".".join(keys))
        else:
            stated[name] = value
    try:
        spec = _validated_input(
            stated.get("channel_order", default.channel_order),
            stated.get("mean", default.mean),
            stated.get("std", default.std),
            255.0,
        )
        fields = {k: v for k, v in stated.items() if k in get_family(arch).format_fields}
        arch = _with_fields(arch, fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{config} next to the checkpoint: {error}", code="checkpoint.invalid_input_spec"
        ) from error
    notes = [f"input and stride from {config.name} next to the file"]
    if missing:
        notes.append(
            f"{config.name} has no {', '.join(missing)}: Detectron2's defaults are assumed"
        )
    return spec, arch, notes


def _validated_input(channel_order: Any, mean: Any, std: Any, scale: Any = 1.0) -> InputSpec:
    """Return an ``InputSpec`` of plain floats; raise ``ValueError`` or ``TypeError``."""
    if not isinstance(channel_order, str) or channel_order not in ("RGB", "BGR"):
        raise ValueError("the channel order should be RGB or BGR")
    for numbers in (mean, std):
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            raise ValueError("mean and std should be three numbers each")
    if not all(map(_is_number, (*mean, *std, scale))) or not all(n > 0 for n in (*std, scale)):
        raise ValueError("mean, std and scale should be numbers, std and scale above zero")
    one, two, three, *stds = map(float, (*mean, *std))
    return InputSpec(channel_order, (one, two, three), (stds[0], stds[1], stds[2]), float(scale))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _with_fields(arch: Arch, fields: Mapping[str, Any]) -> Arch:
    for name, value in fields.items():
        if type(value) is not type(getattr(arch, name)):
            raise ValueError(f"{name} should be a {type(getattr(arch, name)).__name__}")
    return replace(arch, **fields)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
