"""Names of a ResNet's tensors in other projects, translated to torchvision's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from virtex.backbones.registry import DIALECTS, Derived, Dialect

BATCH_NORM_EPS = 1e-5  # torchvision's BatchNorm2d, and Detectron2's FrozenBatchNorm2d

_DETECTRON2 = re.compile(r"(?:stem|res([2-5])\.(\d+))\.(conv(\d)|shortcut)(\.norm)?\.(\w+)")
_DETECTRON2_OTHER = re.compile(r"(?:stem|res([2-5])\.(\d+))\.(.+)")
_CAFFE2 = re.compile(
    r"(?:(conv1)|(res_conv1)|res([2-5])_(\d+)_branch(1|2a|2b|2c))(_bn)?_([a-z]+|running_mean|running_var)"
)
_SEQUENTIAL = re.compile(r"([014567])\.(.+)")

_BRANCHES = {"2a": ("conv1", "bn1"), "2b": ("conv2", "bn2"), "2c": ("conv3", "bn3")}
_BRANCHES["1"] = ("downsample.0", "downsample.1")
# Detectron's names; riv is the variance, as detectron2/checkpoint/c2_model_loading.py maps it.
_CAFFE2_BLOBS = {
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
# nn.Sequential(*resnet.children()): conv1, bn1, relu, maxpool, layer1 … layer4, avgpool
_CHILDREN = {"0": "conv1", "1": "bn1"} | {str(3 + n): f"layer{n}" for n in range(1, 5)}


def from_detectron2(name: str) -> str | None:
    """Translate ``res2.0.conv2.norm.weight`` to ``layer1.0.bn2.weight``."""
    match = _DETECTRON2.fullmatch(name)
    if match is None:
        other = _DETECTRON2_OTHER.fullmatch(name)
        if other is None:
            return None
        return f"layer{int(other[1]) - 1}.{other[2]}.{other[3]}" if other[1] else name
    stage, block, layer, number, norm, leaf = match.groups()
    part = (
        ("downsample.1" if norm else "downsample.0")
        if layer == "shortcut"
        else (f"bn{number}" if norm else f"conv{number}")
    )
    if stage:
        return f"layer{int(stage) - 1}.{block}.{part}.{leaf}"
    return f"{part}.{leaf}" if number == "1" else name


def from_detectron2_fpn(name: str) -> str | None:
    """Translate ``backbone.bottom_up.res2.0.conv2.norm.weight`` to ``layer1.0.bn2.weight``."""
    prefix = "backbone.bottom_up."
    return from_detectron2(name.removeprefix(prefix)) if name.startswith(prefix) else None


def from_detectron2_c4(name: str) -> str | None:
    """Translate ``backbone.res4.…`` and ``roi_heads.res5.…`` (of DC5: ``backbone.res5.…``)."""
    for prefix, kept in (("backbone.", ""), ("roi_heads.res5.", "res5.")):
        if name.startswith(prefix):
            return from_detectron2(kept + name.removeprefix(prefix))
    return None


def from_caffe2(name: str) -> str | None:
    """Translate ``res2_0_branch2b_bn_s`` to ``layer1.0.bn2.weight``."""
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return None
    conv1, stem_norm, stage, block, branch, bn, blob = match.groups()
    is_norm = bool(bn or stem_norm)
    if conv1 and not is_norm:
        # The MSRA models have a conv1_b before their batch norm; Detectron2 ignores it too.
        return "conv1.weight" if blob == "w" else None
    leaf = _CAFFE2_BLOBS.get(blob) if is_norm else {"w": "weight", "b": "bias"}.get(blob)
    if leaf is None:
        return None
    if conv1 or stem_norm:
        return f"bn1.{leaf}"
    return f"layer{int(stage) - 1}.{block}.{_BRANCHES[branch][is_norm]}.{leaf}"


def from_sequential(name: str) -> str | None:
    """Translate ``4.0.bn2.weight`` to ``layer1.0.bn2.weight``."""
    match = _SEQUENTIAL.fullmatch(name)
    return f"{_CHILDREN[match[1]]}.{match[2]}" if match else None


def derive_affine_statistics(tensors: Mapping[str, Any]) -> dict[str, Derived]:
    """Return running statistics for batch norm that was folded into a scale and a shift.

    Caffe2's files contain ``y = scale * x + shift``, which a mean of 0 and a variance of 1 - eps
    reproduce exactly. A file that has some statistics must have all of them.

    Returns:
        Statistics by torchvision name, in the shape of their scales; empty if the file has some.
    """
    if any(name.endswith(".running_mean") for name in tensors):
        return {}
    filled = {}
    for name, scale in tensors.items():
        layer, _, leaf = name.rpartition(".")
        part = layer.rpartition(".")[2]
        if leaf == "weight" and (part.startswith("bn") or layer.endswith("downsample.1")):
            for statistic, value in (("running_mean", 0.0), ("running_var", 1 - BATCH_NORM_EPS)):
                shape = tuple(scale.shape)
                filled[f"{layer}.{statistic}"] = Derived(
                    shape, {}, partial(torch.full, shape, value, dtype=torch.float32)
                )
    return filled


DIALECTS["detectron2_backbone"] = Dialect(from_detectron2)
DIALECTS["detectron2_fpn"] = Dialect(from_detectron2_fpn)
DIALECTS["detectron2_c4"] = Dialect(from_detectron2_c4)
DIALECTS["caffe2"] = Dialect(from_caffe2, derive_affine_statistics)
DIALECTS["sequential"] = Dialect(from_sequential)
