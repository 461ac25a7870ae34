"""Which network a state_dict belongs to, read off names and shapes alone.

Families are a registry: ``register_family`` adds one beside the built-in ``"resnet"``. What is
close to a ResNet and yet another network is refused with its reason (``REFUSALS``), so that a
checkpoint is never squeezed into a network that computes something else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from virtex.backbones.resnet import BLOCKS_PER_STAGE, build_resnet, resnet_features
from virtex.checkpoints.backbone import Arch, Backbone, CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


class ArchitectureError(CheckpointError):
    """The tensors belong to a network that no registered family can build."""


@dataclass(frozen=True)
class Family:
    """A kind of network that checkpoints may hold.

    Attributes:
        name: key in ``FAMILIES``, and ``Arch.family``.
        read: (state_dict, stride_in_1x1) -> ``Arch``; ``None`` if the names are not this
            family's; raises ``ArchitectureError`` if they are and the network still is not.
            It sees every tensor under the checkpoint's prefix, with a format's names.
        build: ``Arch`` -> network whose ``state_dict`` has exactly the backbone's names.
        features: (network, images (batch, 3, height, width)) -> feature maps by stage.
    """

    name: str
    read: Callable[[Mapping[str, Any], bool], Arch | None]
    build: Callable[[Arch], nn.Module]
    features: Callable[[Any, Tensor], dict[str, Tensor]]


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Add a family; raises ``ValueError`` if its name is taken."""
    if family.name in FAMILIES:
        raise ValueError(f"a family named {family.name!r} is registered already")
    FAMILIES[family.name] = family
    return family


def read_arch(state_dict: Mapping[str, Any], stride_in_1x1: bool = False) -> Arch | None:
    """The architecture according to the first family that knows it; ``None`` if none does.

    Raises:
        ArchitectureError: a family recognizes its names, none can build the network.
    """
    refusal = None
    for family in FAMILIES.values():
        try:
            arch = family.read(state_dict, stride_in_1x1)
        except ArchitectureError as error:
            refusal = refusal or error
            continue
        if arch is not None:
            return arch
    if refusal is not None:
        raise refusal
    return None


@lru_cache(maxsize=32)
def expected_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor a backbone must have.

    ``num_batches_tracked`` is not among them: it is absent from files written with frozen
    batch norm, and no forward pass reads it.
    """
    with torch.device("meta"):
        network = FAMILIES[arch.family].build(arch)
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }


def build_network(backbone: Backbone) -> nn.Module:
    """The network of ``backbone`` with its weights, in training mode, float32, on the CPU."""
    network = FAMILIES[backbone.arch.family].build(backbone.arch)
    network.load_state_dict(backbone.state_dict, strict=True)
    return network


@dataclass(frozen=True)
class Refusal:
    """A network that is not a plain ResNet: how its shapes show it, and the reason given.

    ``reason`` may hold ``{conv1}``, the shape of the first convolution. An ``unmistakable``
    one is known by its names wherever they stand, without any of a ResNet's names around it.
    """

    name: str
    found_in: Callable[[Shapes], bool]
    reason: str
    unmistakable: bool = False


def refusal_reason(shapes: Shapes, unmistakable: bool = False) -> str | None:
    """Why these tensors are no plain ResNet, or ``None`` if nothing speaks against it.

    ``unmistakable`` asks the refusals of that kind alone.
    """
    for refusal in REFUSALS:
        if (refusal.unmistakable or not unmistakable) and refusal.found_in(shapes):
            return refusal.reason.format(conv1=shapes.get("conv1.weight"))
    return None


def _has_segment(*segments: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(not set(segments).isdisjoint(name.split(".")) for name in shapes)


def _has_name(*names: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name in shapes for name in names)


def _first_convolution(differs: Callable[[tuple[int, ...]], bool]) -> Callable[[Shapes], bool]:
    """Whether there is a 4-dimensional ``conv1.weight`` that ``differs``."""
    return lambda shapes: (
        len(shapes.get("conv1.weight", ())) == 4 and differs(shapes["conv1.weight"])
    )


def _has_no_running_statistics(shapes: Shapes) -> bool:
    caffe2_group_norm = any(name.endswith("_gn_s") for name in shapes)
    norms = any(re.fullmatch(r"layer\d\.\d+\.bn\d\.weight", name) for name in shapes)
    statistics = any(name.endswith(".running_mean") for name in shapes)
    return caffe2_group_norm or (norms and not statistics)


HAIKU_REASON = (
    "a JAX (Haiku) network, such as DeepMind's BYOL: its padding is TensorFlow's SAME, which at "
    "stride 2 samples other pixels than a torchvision ResNet does, so its weights cannot be "
    "loaded as one"
)

REFUSALS: tuple[Refusal, ...] = (
    Refusal("haiku", lambda shapes: any("/~/" in name for name in shapes), HAIKU_REASON, True),
    Refusal(
        "clip",
        _has_segment("attnpool"),
        "CLIP's modified ResNet: its stem has three convolutions, its strides are average "
        "pools and an attention pool ends it",
        unmistakable=True,
    ),
    Refusal(
        "vision_transformer",
        _has_segment("cls_token", "class_token", "class_embedding", "patch_embed", "pos_embed"),
        "a vision transformer",
        unmistakable=True,
    ),
    Refusal(
        "deep_stem",
        _has_name("conv1.0.weight", "stem.0.weight", "stem.conv2.weight", "conv2.weight"),
        "a ResNet with a deep stem (three 3x3 convolutions, as in resnet50d)",
    ),
    Refusal(
        "input_channels",
        _first_convolution(lambda shape: shape[1] != 3),
        "a network whose first convolution, of shape {conv1}, does not take the 3 channels of "
        "an image (CMC's halves take one and two channels of Lab)",
    ),
    Refusal(
        "small_stem",
        _first_convolution(lambda shape: shape[2:] != (7, 7)),
        "a network whose first convolution, of shape {conv1}, is not 7x7 (such as the stem for "
        "32x32 images)",
    ),
    Refusal(
        "widened",
        _first_convolution(lambda shape: shape[0] != 64),
        "a network whose first convolution, of shape {conv1}, does not have 64 filters (such as "
        "the x2 and x4 networks of SimCLR and SwAV, widened in every layer)",
    ),
    Refusal(
        "group_norm",
        _has_no_running_statistics,
        "a network whose norm layers have no running statistics (such as group norm)",
    ),
)

WIDEST = 4096  # channels of a bottleneck in res2; the widest published (ResNeXt-101 32x48d): 1536
_IN_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
_IN_BACKBONE = re.compile(r"(?:conv1|bn1|stem|layer\d+|res\d+)\..+")


def read_resnet_arch(state_dict: Mapping[str, Any], stride_in_1x1: bool) -> Arch | None:
    """The ResNet these tensors belong to, even if some of them are missing.

    Args:
        state_dict: torchvision names -> tensors or arrays (only their shapes are read);
            names outside the backbone (``fc.weight``) do not matter.
        stride_in_1x1: where a bottleneck has its stride; not to be seen in the shapes.

    Returns:
        The architecture; ``None`` if the names are not a ResNet's.

    Raises:
        ArchitectureError: a relative of ResNet, with the reason why it is not a plain one.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    blocks = [(int(m[1]), int(m[2]), m[3]) for m in map(_IN_BLOCK.fullmatch, shapes) if m]
    if len({stage for stage, _, part in blocks if re.match(r"conv\d\.", part)}) < 2:
        return None
    reason = refusal_reason(shapes)
    if reason is not None:
        raise ArchitectureError(f"this is {reason}; only plain ResNets can be loaded")
    block = "bottleneck" if any(part == "conv3.weight" for _, _, part in blocks) else "basic"
    width_per_group, groups = _width_and_groups(shapes) if block == "bottleneck" else (64, 1)
    arch = Arch(
        family="resnet",
        depth=_depth(block, blocks),
        block=block,
        width_per_group=width_per_group,
        groups=groups,
        stride_in_1x1=stride_in_1x1,
    )
    _refuse_extra_tensors(shapes, arch)
    return arch


def _depth(block: str, blocks: list[tuple[int, int, str]]) -> int:
    """The depth whose stages have as many blocks; a stage that is wholly absent may be any."""
    found = tuple(
        max((b + 1 for s, b, _ in blocks if s == stage), default=0) for stage in range(1, 5)
    )
    for (kind, depth), plan in BLOCKS_PER_STAGE.items():
        if kind == block and all(n in (0, wanted) for n, wanted in zip(found, plan, strict=True)):
            return depth
    known = "; ".join(
        f"{', '.join(map(str, plan))} ({depth})"
        for (kind, depth), plan in BLOCKS_PER_STAGE.items()
        if kind == block
    )
    raise ArchitectureError(
        f"its stages have {', '.join(map(str, found))} {block} blocks; a ResNet has {known}"
    )


def _width_and_groups(shapes: Shapes) -> tuple[int, int]:
    """Width of a group and number of groups, as most blocks have them.

    The first two convolutions of a bottleneck are (w, in, 1, 1) and (w, w / groups, 3, 3) with
    w = planes * width_per_group / 64 * groups, planes = 64, 128, 256, 512 by stage.
    """
    ratios: Counter[float] = Counter()
    groups: Counter[int] = Counter()
    for name, shape in shapes.items():
        match = _IN_BLOCK.fullmatch(name)
        if match is None or len(shape) != 4 or 0 in shape:
            continue
        if match[3] == "conv1.weight":
            ratios[shape[0] / 2 ** (int(match[1]) - 1)] += 1
        elif match[3] == "conv2.weight":
            groups[shape[0] // shape[1]] += 1
    width = ratios.most_common(1)[0][0] if ratios else 64
    n_groups = groups.most_common(1)[0][0] if groups else 1
    if n_groups < 1 or not 1 <= width <= WIDEST or width % n_groups:
        raise ArchitectureError(
            f"its bottlenecks are {width:g} channels wide in res2, in {n_groups} groups; "
            "no ResNet, wide ResNet or ResNeXt is built like that"
        )
    return int(width) // n_groups, n_groups


def _refuse_extra_tensors(shapes: Shapes, arch: Arch) -> None:
    expected = expected_shapes(arch)
    extra = [
        name
        for name in shapes
        if _IN_BACKBONE.fullmatch(name)
        and name not in expected
        and not name.endswith(".num_batches_tracked")
    ]
    if extra:
        shown = ", ".join(extra[:3]) + (", …" if len(extra) > 3 else "")
        raise ArchitectureError(
            f"{len(extra)} tensors inside its stages have no place in a plain {arch.name}: "
            f"{shown}; only plain ResNets can be loaded"
        )


register_family(Family("resnet", read_resnet_arch, build_resnet, resnet_features))
