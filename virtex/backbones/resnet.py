"""ResNet, wide ResNet and ResNeXt as torchvision builds them, under torchvision's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from virtex.backbones.registry import (
    BATCH_COUNTER,
    Arch,
    Family,
    Shapes,
    UnsupportedArchitectureError,
    expected_shapes,
    register_family,
)

STAGES = ("stem", "res2", "res3", "res4", "res5")
# (kind of block, depth) -> blocks of res2 … res5; He et al., arXiv 1512.03385, table 1.
BLOCKS_PER_STAGE = {
    ("basic", 18): (2, 2, 2, 2),
    ("basic", 34): (3, 4, 6, 3),
    ("bottleneck", 50): (3, 4, 6, 3),
    ("bottleneck", 101): (3, 4, 23, 3),
    ("bottleneck", 152): (3, 8, 36, 3),
}
BLOCK_CLASSES = {"basic": BasicBlock, "bottleneck": Bottleneck}
MAX_WIDTH = 4096  # channels of a bottleneck in res2; the widest published, ResNeXt-101 32x48d: 1536

_IN_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
# The first ResNet in a name: wide, ResNeXt, depth, letters of a variant, groups, width of a group
_STATED_NAME = re.compile(
    r"(wide_?)?resne(x?)t(?:[-_]?(\d+))?([a-z]\w*)?(?:_(\d+)x(\d+)d)?", re.IGNORECASE
)
_ONLY_PLAIN = (
    "only plain ResNets are recognized; if timm has this network, specify --format timm:NAME"
)
_IN_BACKBONE = re.compile(r"(?:conv1|bn1|stem|layer\d+|res\d+)\..+")


@dataclass(frozen=True)
class ResNetArch(Arch):
    """The architecture of a ResNet, detected from tensor shapes.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        block: ``"basic"`` or ``"bottleneck"``.
        width_per_group: channels of a group in the 3x3 convolution of res2 (64 in ResNet-50,
            128 in wide ResNet-50-2, 4 in ResNeXt-50 32x4d).
        groups: groups of the 3x3 convolutions.
        stem: ``"standard"``: one 7x7 convolution of 64 channels, stride 2, then max pooling.
        stride_in_1x1: whether a bottleneck's stride is in its first 1x1 convolution (as in the
            original MSRA models) and not in its 3x3 one (as in torchvision). Shapes do
            not show it; the format defines it.
    """

    family: str = field(default="resnet", init=False)
    depth: int
    block: str
    width_per_group: int = 64
    groups: int = 1
    stem: str = "standard"
    stride_in_1x1: bool = False

    @property
    def name(self) -> str:
        """Return torchvision's name, or one in its style for networks torchvision does not have."""
        if self.groups > 1:
            return f"resnext{self.depth}_{self.groups}x{self.width_per_group}d"
        if self.width_per_group != 64:
            return f"wide_resnet{self.depth}_{self.width_per_group / 64:g}"
        return f"resnet{self.depth}"


class ResNetFamily(Family):
    """ResNet, wide ResNet and ResNeXt; feature maps ``res2`` … ``res5``."""

    name = "resnet"
    default_arch = ResNetArch(50, "bottleneck")
    anchor_key = "layer1.0.conv1.weight"
    format_fields = ("stride_in_1x1",)
    fixed_settings: ClassVar = {
        "strides": (1, 2, 2, 2),
        "dilations": (1, 1, 1, 1),
        "res5_dilation": 1,
        "max_pool": True,
        "norm_eps": 1e-5,
        "activation": "relu",
        "anti_aliasing": "none",
    }
    torchvision_options = ("zero_init_residual",)
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.resnet:convert_fpn",
        "C4": "virtex.detectron.resnet:convert_c4",
        "DC5": "virtex.detectron.resnet:convert_dc5",
        "MAP": "virtex.detectron.last_map:convert_map",
    }

    def detect(self, tensors: Mapping[str, Any]) -> ResNetArch | None:
        return detect_resnet(tensors)

    def build(self, arch: ResNetArch) -> ResNet:
        return build_resnet(arch)

    def features(self, network: ResNet, images: Tensor) -> dict[str, Tensor]:
        return resnet_features(network, images)

    def strides(self, arch: ResNetArch) -> dict[str, int]:
        return {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

    def channels(self, arch: ResNetArch) -> dict[str, int]:
        expansion = BLOCK_CLASSES[arch.block].expansion
        return {f"res{n + 2}": 64 * 2**n * expansion for n in range(4)}

    def get_stage(self, name: str) -> str:
        match = re.match(r"layer([1-4])\.", name)
        return f"res{int(match[1]) + 1}" if match else "stem"

    def layer_id(self, arch: ResNetArch, name: str) -> int:
        """Return 0 for the stem, then one layer per residual block."""
        match = _IN_BLOCK.fullmatch(name)
        if match is None:
            return 0
        stage, block = int(match[1]) - 1, int(match[2])
        return 1 + sum(BLOCKS_PER_STAGE[arch.block, arch.depth][:stage]) + block

    def has_weight_decay(self, name: str, ndim: int) -> bool:
        """See ``Family``. All parameters, as in VirTex, MoCo and the training of ResNets."""
        return True

    def contradicts(self, arch: ResNetArch, stated: str) -> str | None:
        """See ``Family``. timm's variants, such as resnetaa50, share a plain ResNet's tensors."""
        found = _STATED_NAME.search(stated)
        if found is None:
            return None
        wide, x, depth, variant, groups, width = found.groups()
        if variant:
            return "a variant; only plain ResNets are supported"
        if depth is None:
            return None
        is_same = (
            int(depth) == arch.depth
            and bool(x) == (arch.groups > 1)
            and bool(wide) == (arch.groups == 1 and arch.width_per_group != 64)
            and (groups is None or (int(groups), int(width)) == (arch.groups, arch.width_per_group))
        )
        return None if is_same else "another architecture"

    def remove_head(self, network: ResNet) -> None:
        network.fc = nn.Identity()

    def explain_unsupported(self, shapes: Shapes) -> str | None:
        return next(
            (
                f"this is {variant.reason}; {_ONLY_PLAIN}"
                for variant in UNSUPPORTED_VARIANTS
                if variant.matches_anywhere and variant.matches(shapes)
            ),
            None,
        )


def build_resnet(arch: ResNetArch) -> ResNet:
    """Return a randomly initialized network of this architecture; ``fc`` is an ``nn.Identity``.

    Its forward takes images (batch, 3, height, width) and returns pooled features
    (batch, 512) for basic blocks, (batch, 2048) for bottlenecks.

    Raises:
        ValueError: no ResNet has this depth with this kind of block, or the blocks are basic
            and not of width 64 in one group (torchvision's own limit).
    """
    blocks = BLOCKS_PER_STAGE.get((arch.block, arch.depth))
    if blocks is None:
        known = ", ".join(f"{kind} {depth}" for kind, depth in BLOCKS_PER_STAGE)
        raise ValueError(f"no ResNet of {arch.block} blocks and depth {arch.depth}; known: {known}")
    model = ResNet(
        BLOCK_CLASSES[arch.block],
        list(blocks),
        groups=arch.groups,
        width_per_group=arch.width_per_group,
    )
    model.fc = nn.Identity()
    if arch.stride_in_1x1 and arch.block == "bottleneck":
        for stage in (model.layer2, model.layer3, model.layer4):
            first = stage[0]
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return model


def resnet_features(model: ResNet, x: Tensor) -> dict[str, Tensor]:
    """Return the feature maps of the four stages.

    Args:
        model: as returned by ``build_resnet``.
        x: normalized images (batch, 3, height, width).

    Returns:
        ``res2`` … ``res5``: (batch, channels, height / s, width / s), rounded up, for s = 4, 8,
        16, 32; channels 64, 128, 256, 512 for basic blocks, four times as many for bottlenecks.
    """
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    for name, stage in zip(STAGES[1:], stages, strict=True):
        x = stage(x)
        features[name] = x
    return features


class SpatialResNet50(ResNet):
    """ResNet-50 with torchvision's parameter names that returns res5 instead of pooled features."""

    def __init__(self, **kwargs: Any):
        super().__init__(Bottleneck, list(BLOCKS_PER_STAGE["bottleneck", 50]), **kwargs)
        self.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, 3, height, width) to (batch, 2048, height / 32, width / 32)."""
        return resnet_features(self, x)["res5"]


def detect_resnet(tensors: Mapping[str, Any]) -> ResNetArch | None:
    """Return the architecture of a state_dict, see ``Family.detect``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    blocks = [(int(m[1]), int(m[2]), m[3]) for m in map(_IN_BLOCK.fullmatch, shapes) if m]
    if len({stage for stage, _, part in blocks if re.match(r"conv\d\.", part)}) < 2:
        return None
    for variant in UNSUPPORTED_VARIANTS:
        if variant.matches(shapes):
            reason = variant.reason.format(conv1=shapes.get("conv1.weight"))
            raise UnsupportedArchitectureError(f"this is {reason}; {_ONLY_PLAIN}")
    block = "bottleneck" if any(part == "conv3.weight" for _, _, part in blocks) else "basic"
    width_per_group, groups = _width_and_groups(shapes) if block == "bottleneck" else (64, 1)
    arch = ResNetArch(_depth(block, blocks), block, width_per_group, groups)
    _reject_extra_tensors(shapes, arch)
    return arch


def _depth(block: str, blocks: list[tuple[int, int, str]]) -> int:
    """Return the depth with these numbers of blocks; stages missing from the file match any."""
    found = tuple(
        max((b + 1 for s, b, _ in blocks if s == stage), default=0) for stage in range(1, 5)
    )
    for (kind, depth), plan in BLOCKS_PER_STAGE.items():
        if kind == block and all(n in (0, m) for n, m in zip(found, plan, strict=True)):
            return depth
    known = "; ".join(
        f"{', '.join(map(str, plan))} ({depth})"
        for (kind, depth), plan in BLOCKS_PER_STAGE.items()
        if kind == block
    )
    raise UnsupportedArchitectureError(
        f"expected a ResNet with stages of {known} blocks, found "
        f"{', '.join(map(str, found))} {block} blocks"
    )


def _width_and_groups(shapes: Shapes) -> tuple[int, int]:
    """Return the width of a group and the number of groups that most blocks have.

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
    if n_groups < 1 or not 1 <= width <= MAX_WIDTH or width % n_groups:
        raise UnsupportedArchitectureError(
            f"its bottlenecks have {width:g} channels in res2 in {n_groups} groups, which "
            "match no ResNet, wide ResNet or ResNeXt"
        )
    return int(width) // n_groups, n_groups


def _reject_extra_tensors(shapes: Shapes, arch: ResNetArch) -> None:
    expected = expected_shapes(arch)
    extra = [
        name
        for name in shapes
        if _IN_BACKBONE.fullmatch(name)
        and name not in expected
        and not name.endswith(f".{BATCH_COUNTER}")
    ]
    if extra:
        shown = ", ".join(extra[:3]) + (", …" if len(extra) > 3 else "")
        raise UnsupportedArchitectureError(
            f"{len(extra)} tensors inside its stages do not belong to a plain {arch.name}: "
            f"{shown}; {_ONLY_PLAIN}"
        )


@dataclass(frozen=True)
class Variant:
    """A network that resembles a ResNet but computes something else.

    Attributes:
        matches: predicate of the tensor shapes.
        reason: description; may contain ``{conv1}``, the shape of the first convolution.
        matches_anywhere: whether its names identify it under any prefix, even without names of
            a ResNet.
    """

    matches: Callable[[Shapes], bool]
    reason: str
    matches_anywhere: bool = False


def _has_segment(*segments: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(not set(segments).isdisjoint(name.split(".")) for name in shapes)


def _has_name(*names: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name in shapes for name in names)


def _has_conv1(differs: Callable[[tuple[int, ...]], bool]) -> Callable[[Shapes], bool]:
    """Return a test for a 4-dimensional ``conv1.weight`` that ``differs``."""
    return lambda shapes: (
        len(shapes.get("conv1.weight", ())) == 4 and differs(shapes["conv1.weight"])
    )


def _has_no_running_statistics(shapes: Shapes) -> bool:
    caffe2_group_norm = any(name.endswith("_gn_s") for name in shapes)
    norms = any(re.fullmatch(r"layer\d\.\d+\.bn\d\.weight", name) for name in shapes)
    statistics = any(name.endswith(".running_mean") for name in shapes)
    return caffe2_group_norm or (norms and not statistics)


UNSUPPORTED_VARIANTS: tuple[Variant, ...] = (
    Variant(
        lambda shapes: any("/~/" in name for name in shapes),
        "a JAX (Haiku) network, such as DeepMind's BYOL: its padding is TensorFlow's SAME, which "
        "at stride 2 samples different pixels than a torchvision ResNet does",
        matches_anywhere=True,
    ),
    Variant(
        _has_segment("attnpool"),
        "CLIP's modified ResNet, with a stem of three convolutions, average pooling for strides "
        "and an attention pool",
        matches_anywhere=True,
    ),
    Variant(
        _has_name("conv1.0.weight", "stem.0.weight", "stem.conv2.weight", "conv2.weight"),
        "a ResNet with a deep stem (three 3x3 convolutions, as in resnet50d)",
    ),
    Variant(
        _has_conv1(lambda shape: shape[1] != 3),
        "a network whose first convolution has shape {conv1} and not the 3 input channels of an "
        "image (CMC's halves take one and two channels of Lab)",
    ),
    Variant(
        _has_conv1(lambda shape: shape[2:] != (7, 7)),
        "a network whose first convolution has shape {conv1} and is not 7x7 (such as the stem for "
        "32x32 images)",
    ),
    Variant(
        _has_conv1(lambda shape: shape[0] != 64),
        "a network whose first convolution has shape {conv1} and not 64 filters (such as the x2 "
        "and x4 networks of SimCLR and SwAV, widened in every layer)",
    ),
    Variant(
        _has_no_running_statistics,
        "a network whose norm layers have no running statistics (such as group norm)",
    ),
)

register_family(ResNetFamily())
