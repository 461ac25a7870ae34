"""ConvNeXt and ConvNeXt V2 as timm builds them, under timm's names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from virtex.backbones.registry import Arch, Shapes, UnsupportedArchitectureError, register_family
from virtex.backbones.timm_models import TimmFamily, reject_extra_tensors
from virtex.text import escape

if TYPE_CHECKING:
    from torch import Tensor, nn

_IN_BLOCK = re.compile(r"stages\.([0-3])\.blocks\.(\d+)\.(.+)")
_IN_BACKBONE = re.compile(r"(?:stem|stages|norm_pre|head\.norm)\..+")
# (depths, width of the first stage) -> size; the widths double from stage to stage
_SIZES: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "atto",
    ((2, 2, 6, 2), 48): "femto",
    ((2, 2, 6, 2), 64): "pico",
    ((2, 2, 8, 2), 80): "nano",
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
    ((3, 3, 27, 3), 256): "xlarge",
    ((3, 3, 27, 3), 352): "huge",
    ((3, 4, 30, 3), 384): "xxlarge",
}
# timm's activation layer -> its name
_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}


@dataclass(frozen=True)
class ConvNeXtArch(Arch):
    """The architecture of a ConvNeXt with patches of 4 pixels and kernels of 7x7.

    Attributes:
        depths, widths: number of blocks and of channels of the four stages.
        grn: whether the blocks have global response normalization, as those of V2.
        layer_scale: whether the blocks have it, as those of V1.
        conv_mlp: whether the MLPs' weights are those of 1x1 convolutions, (outputs, inputs, 1, 1).
        final_norm: ``"head.norm"`` after average pooling, ``"norm_pre"`` before it (one model of
            timm), or ``"none"`` (FCMAE's encoder).
        norm_eps, activation: not shown by tensor shapes; the format or the file defines them.
    """

    family: str = field(default="convnext", init=False)
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    grn: bool = False
    layer_scale: bool = True
    conv_mlp: bool = False
    final_norm: str = "head.norm"
    norm_eps: float = 1e-6
    activation: str = "gelu"

    @property
    def name(self) -> str:
        """Return timm's name, or one by depths and widths."""
        doubled = tuple(self.widths[0] << stage for stage in range(4))
        size = _SIZES.get((self.depths, self.widths[0])) if self.widths == doubled else None
        if size is None:
            size = "_".join(
                f"{n}x{width}" for n, width in zip(self.depths, self.widths, strict=True)
            )
        head = "_hnf" if self.final_norm == "norm_pre" else ""
        return f"convnext{'v2' if self.grn else ''}_{size}{head}"


class ConvNeXtFamily(TimmFamily):
    """ConvNeXt and ConvNeXt V2; four feature maps, the outputs of the stages without a norm.

    ``"avg"`` is the last map as its published classifiers take it: averaged, then normalized by
    the final norm layer (the other way around with ``norm_pre``).
    """

    name = "convnext"
    default_arch = ConvNeXtArch((3, 3, 9, 3), (96, 192, 384, 768))
    anchor_key = "stages.0.blocks.0.conv_dw.weight"
    generic_formats = False
    format_fields = ("norm_eps", "activation")
    size_fields = ("depths", "widths", "grn", "final_norm")
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.pyramid:convert_fpn",
        "MAP": "virtex.detectron.last_map:convert_map",
    }

    def detect(self, tensors: Mapping[str, Any]) -> ConvNeXtArch | None:
        return detect_convnext(tensors)

    def build(self, arch: ConvNeXtArch) -> nn.Module:
        return build_convnext(arch)

    def features(self, network: Any, images: Tensor) -> dict[str, Tensor]:
        maps = network.forward_intermediates(images, intermediates_only=True)
        return {f"stage{number}": found for number, found in enumerate(maps, 1)}

    def represent(self, network: Any, images: Tensor, name: str) -> Tensor:
        assert name == "avg", name
        return network.forward_head(network.forward_features(images), pre_logits=True)

    def strides(self, arch: ConvNeXtArch) -> dict[str, int]:
        return {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}

    def channels(self, arch: ConvNeXtArch) -> dict[str, int]:
        return {f"stage{number}": width for number, width in enumerate(arch.widths, 1)}

    def get_stage(self, name: str) -> str:
        match = re.match(r"stages\.(\d)", name)
        return f"stage{int(match[1]) + 1}" if match else "stem" if "stem" in name else "norm"

    def layer_id(self, arch: ConvNeXtArch, name: str) -> int:
        """Return the group of facebookresearch/ConvNeXt's optim_factory.py.

        These are the stem, the first stage, the second stage, three blocks of the third stage
        each, the fourth stage, and the final norm. The convolution before a stage counts as its
        first block.
        """
        if name.startswith("stem."):
            return 0
        last = 3 + (arch.depths[2] + 2) // 3
        if match := re.match(r"stages\.(\d)(?:\.blocks\.(\d+))?", name):
            stage, block = int(match[1]), int(match[2] or 0)
            return (1, 2, 3 + block // 3, last)[stage]
        return last + 1

    def input_size_requirement(self, arch: ConvNeXtArch, height: int, width: int) -> str | None:
        return "at least 32x32 pixels" if min(height, width) < 32 else None

    def read_fields(self, network: Any) -> dict[str, Any]:
        activation = type(network.stages[0].blocks[0].mlp.act).__name__
        return {"norm_eps": network.stem[-1].eps, "activation": _ACTIVATIONS[activation]}

    def explain_unsupported(self, shapes: Shapes) -> str | None:
        if any(re.search(r"(?:^|\.)blocks\.0\.dwconv\.weight$", name) for name in shapes):
            return (
                "this is an isotropic ConvNeXt, of one stage at stride 16; only those of four "
                "stages are supported"
            )
        return None


def detect_convnext(tensors: Mapping[str, Any]) -> ConvNeXtArch | None:
    """Return the architecture of a state_dict in timm's names, see ``Family.detect``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    blocks = [match for match in map(_IN_BLOCK.fullmatch, shapes) if match]
    if not any(match[3].startswith("conv_dw.") for match in blocks):
        return None
    depths = tuple(
        1 + max((int(match[2]) for match in blocks if match[1] == stage), default=-1)
        for stage in "0123"
    )
    kernels = {n: shape[2:] for n, shape in shapes.items() if n.endswith(".conv_dw.weight")}
    kernel, stem = _typical(kernels, ".*", (7, 7)), shapes.get("stem.0.weight", (0, 3, 4, 4))[2:]
    # (expected, found, whether it is so)
    for expected, found, supported in (
        (
            "four stages of blocks",
            f"depths {depths}",
            min(depths) > 0 and max(depths) < len(shapes),
        ),
        ("depthwise convolutions of 7x7", f"kernels {kernel}", kernel == (7, 7)),
        ("a stem of one 4x4 convolution", f"kernel {stem}", stem == (4, 4)),
        ("layer norm", "norm layers without bias", any(m[3] == "norm.bias" for m in blocks)),
    ):
        if not supported:
            raise UnsupportedArchitectureError(
                f"expected a ConvNeXt with {expected}, found {found}; use another checkpoint"
            )
    final_norm = next(
        (n for n in ("head.norm", "norm_pre") if f"{n}.weight" in shapes or f"{n}.bias" in shapes),
        "",
    )
    has_grn = any(match[3].startswith("mlp.grn.") for match in blocks)
    arch = ConvNeXtArch(
        depths=depths,
        widths=tuple(_width(shapes, stage) for stage in range(4)),
        grn=has_grn,
        layer_scale=any(match[3] == "gamma" for match in blocks),
        conv_mlp=len(_typical(shapes, r"stages\..\.blocks\.\d+\.mlp\.fc1\.weight", ())) == 4,
        # of networks without one, only FCMAE's encoder is complete
        final_norm=final_norm or ("none" if has_grn else "head.norm"),
        norm_eps=1e-5 if depths == (3, 4, 30, 3) else 1e-6,  # timm's and open_clip's xxlarge
    )
    reject_extra_tensors(shapes, arch, _IN_BACKBONE)
    return arch


def _width(shapes: Shapes, stage: int) -> int:
    vectors = rf"stages\.{stage}\.blocks\.\d+\.(?:norm\.weight|norm\.bias|conv_dw\.bias|gamma)"
    return _typical(shapes, vectors, (0,))[0]


def _typical(shapes: Shapes, pattern: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that most matching tensors have, so that one odd tensor is reported."""
    found = Counter(shape for name, shape in shapes.items() if re.fullmatch(pattern, name))
    return found.most_common(1)[0][0] if found else default


def build_convnext(arch: ConvNeXtArch) -> nn.Module:
    """Return timm's network of this architecture, randomly initialized, without classifier."""
    from timm.models.convnext import ConvNeXt
    from torch import nn

    if arch.activation not in _ACTIVATIONS.values():
        raise UnsupportedArchitectureError(
            f"expected an activation of {', '.join(_ACTIVATIONS.values())}, found "
            f"{escape(arch.activation)}"
        )
    network = ConvNeXt(
        num_classes=0,
        depths=arch.depths,
        dims=arch.widths,
        use_grn=arch.grn,
        ls_init_value=1e-6 if arch.layer_scale else None,
        conv_mlp=arch.conv_mlp,
        head_norm_first=arch.final_norm == "norm_pre",
        norm_eps=arch.norm_eps,
        act_layer=arch.activation,
    )
    if arch.final_norm == "none":
        network.head.norm = nn.Identity()
    return network


register_family(ConvNeXtFamily())
