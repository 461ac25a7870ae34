"""Swin transformers, versions 1 and 2, as timm builds them and under timm's names.

timm's names are those of the official files, except that patch merging belongs to the stage that
follows: ``layers.1.downsample`` is the official ``layers.0.downsample``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from virtex.backbones.registry import (
    Arch,
    Shapes,
    UnsupportedArchitectureError,
    register_family,
)
from virtex.backbones.timm_models import TimmFamily, reject_extra_tensors
from virtex.text import escape

if TYPE_CHECKING:
    from torch import Tensor, nn

PATCH_SIZE = 4
MAX_WINDOW = 32  # a network has a table of MAX_WINDOW ** 4 indices per block; published: up to 24
MAX_DEPTH = 128  # of a stage; published: up to 42

_IN_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)")
# except buffers that the network computes from its architecture
_IN_BACKBONE = re.compile(
    r"(?!.*\.(?:relative_position_index|relative_coords_table|attn_mask)$)"
    r"(?:layers|patch_embed|norm)\..+"
)
_KNOWN_BY = re.compile(
    r"attn\.(?:relative_position_bias_table|logit_scale|cpb_mlp\..+)|spatial_mlp\..+"
)
# Tensors of networks that timm's classes do not build
_UNSUPPORTED = {
    r"absolute_pos_embed": "absolute position embeddings",
    r".+\._moe_layer\..+": "a mixture of experts (Swin-MoE)",
    r".+\.spatial_mlp\..+": "spatial MLPs instead of attention (SwinMLP)",
}
_SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}
# AutoFormerV2's, by depths and windows
_S3_SIZES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((2, 2, 6, 2), (7, 7, 14, 7)): "tiny",
    ((2, 2, 18, 2), (14, 14, 14, 7)): "small",
    ((2, 2, 30, 2), (7, 7, 14, 7)): "base",
}


@dataclass(frozen=True)
class SwinArch(Arch):
    """The architecture of a Swin transformer.

    ``windows`` and ``pretrained_windows`` may be given as one number for all stages.

    Attributes:
        embed_dim: width of the first stage; each stage doubles it.
        depths, heads: of every stage.
        version: 1, or 2 (normalization after the layers, cosine attention, relative position bias
            by a network on coordinates).
        mlp_ratio: hidden width of the MLPs, relative to the stage's width.
        windows: side of the attention windows in every stage, in tokens. In version 1, the
            tables of relative position bias show it. In version 2 it is the size with which the
            network was built, at most the feature map of a pretraining image; empty if unknown.
        pretrained_windows: of version 2: the windows by which the coordinates of the position
            bias are divided, if the network was fine-tuned with larger ones; 0 if equal.
        image_size: side of the images for which ``windows`` was chosen, in pixels.
        norm_eps: epsilon of all LayerNorms.
    """

    family: str = field(default="swin", init=False)
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    version: int = 1
    mlp_ratio: float = 4.0
    windows: tuple[int, ...] = ()
    pretrained_windows: tuple[int, ...] = 0  # type: ignore[assignment]  # see __post_init__
    image_size: int = 224
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Expand numbers to tuples.

        Raises:
            UnsupportedArchitectureError: a size, which a config may state, is not valid.
        """
        windows = self._per_stage("windows", 1) if self.windows != () else ()
        pretrained = self._per_stage("pretrained_windows", 0)
        size = self.image_size
        if type(size) is not int or not 32 <= size <= 8192:
            raise UnsupportedArchitectureError(
                f"expected an image size in pixels, found {escape(str(size), 50)}"
            )
        if self.version == 2 and windows:
            maps = (size // (PATCH_SIZE * 2**stage) for stage in range(len(windows)))
            windows = tuple(max(1, min(pair)) for pair in zip(windows, maps, strict=True))
            pretrained = tuple(
                0 if old == new else old for old, new in zip(pretrained, windows, strict=True)
            )
        object.__setattr__(self, "windows", windows)
        object.__setattr__(self, "pretrained_windows", pretrained)

    def _per_stage(self, name: str, lowest: int) -> tuple[int, ...]:
        value = getattr(self, name)
        sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * len(self.depths)
        valid = all(type(size) is int and lowest <= size <= MAX_WINDOW for size in sizes)
        if not valid or len(sizes) != len(self.depths):
            raise UnsupportedArchitectureError(
                f"expected {name.replace('_', ' ')} of at most {MAX_WINDOW} tokens for "
                f"{len(self.depths)} stages, found {escape(str(value), 50)}"
            )
        return sizes

    @property
    def window_tables(self) -> tuple[int, ...]:
        """Return the windows that tensors show: those of version 1."""
        return self.windows if self.version == 1 else ()

    @property
    def name(self) -> str:
        """Return a name in timm's style, such as ``swin_tiny_patch4_window7_224``."""
        size = _SIZES.get((self.embed_dim, self.depths))
        size = size or f"{'-'.join(map(str, self.depths))}x{self.embed_dim}"
        if not self.windows:
            return f"swinv2_{size}"
        if self.embed_dim == 96 and (self.depths, self.windows) in _S3_SIZES:
            return f"swin_s3_{_S3_SIZES[self.depths, self.windows]}_{self.image_size}"
        # the window of the last stage may be smaller
        window = "-".join(map(str, dict.fromkeys(self.windows[:-1] or self.windows)))
        if self.version == 1:
            return f"swin_{size}_patch4_window{window}_{self.image_size}"
        old = self.pretrained_windows
        if not old[0]:
            return f"swinv2_{size}_window{window}_{self.image_size}"
        old_size = (old[-1] or self.windows[-1]) * PATCH_SIZE * 2 ** (len(old) - 1)
        return f"swinv2_{size}_window{old[0]}to{window}_{old_size}to{self.image_size}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the number of channels of every stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))


class SwinFamily(TimmFamily):
    """Swin transformers; one feature map per stage.

    The maps of all stages but the last are the raw outputs of their blocks. The last is normalized
    by the network's final norm, so that its mean is what timm's classifier sees. Detectors
    usually have a norm layer of their own on each raw output.

    Images may have any size. They are padded to multiples of the patch size, and feature maps to
    multiples of the window, as in the official detectors. Windows are not shifted where the
    feature map is not larger than one, as in the official classifiers.
    """

    name = "swin"
    default_arch = SwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24), windows=(7, 7, 7, 7))
    anchor_key = "layers.0.blocks.0.norm1.weight"
    generic_formats = False
    format_fields = ("windows", "pretrained_windows", "image_size", "norm_eps")
    size_fields = ("version", "embed_dim", "depths", "heads", "window_tables")
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.pyramid:convert_fpn",
        "MAP": "virtex.detectron.last_map:convert_map",
    }
    fixed_settings = {"activation": "gelu"}  # noqa: RUF012

    def detect(self, tensors: Mapping[str, Any]) -> SwinArch | None:
        return detect_swin(tensors)

    def build(self, arch: SwinArch) -> nn.Module:
        return build_swin(arch)

    def features(self, network: Any, images: Tensor) -> dict[str, Tensor]:
        maps = network.forward_intermediates(images, norm=True, intermediates_only=True)
        return {f"stage{i}": features for i, features in enumerate(maps, start=1)}

    def strides(self, arch: SwinArch) -> dict[str, int]:
        return {f"stage{i + 1}": PATCH_SIZE * 2**i for i in range(len(arch.depths))}

    def channels(self, arch: SwinArch) -> dict[str, int]:
        return {f"stage{i}": width for i, width in enumerate(arch.widths, start=1)}

    def get_stage(self, name: str) -> str:
        parts = name.split(".")
        return f"stage{int(parts[1]) + 1}" if parts[0] == "layers" else parts[0]

    def layer_id(self, arch: SwinArch, name: str) -> int:
        """Return 0 for the patch embedding, then one layer per block, then the final norm.

        Patch merging has the number of the block before it, as in ``optimizer.py`` of SimMIM.
        """
        parts = name.split(".")
        if parts[0] == "norm":
            return sum(arch.depths) + 1
        if parts[0] != "layers":
            return 0
        before = sum(arch.depths[: int(parts[1])])
        return before + 1 + int(parts[3]) if parts[2] == "blocks" else before

    def read_fields(self, network: Any) -> dict[str, Any]:
        blocks = [layer.blocks[0] for layer in network.layers]
        pretrained = (getattr(b.attn, "pretrained_window_size", (0, 0)) for b in blocks)
        return {
            "windows": tuple(block.window_size[0] for block in blocks),
            "pretrained_windows": tuple(size[0] for size in pretrained),
            "image_size": network.patch_embed.img_size[0],
            "norm_eps": network.norm.eps,
        }


def detect_swin(tensors: Mapping[str, Any]) -> SwinArch | None:
    """Return the architecture of a state_dict in timm's names, see ``Family.detect``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    in_blocks = [match for match in map(_IN_BLOCK.fullmatch, shapes) if match]
    if not any(_KNOWN_BY.fullmatch(match[3]) for match in in_blocks):
        return None
    for pattern, kind in _UNSUPPORTED.items():
        if any(re.fullmatch(pattern, name) for name in shapes):
            raise UnsupportedArchitectureError(
                f"this is a Swin transformer with {kind}, which is not supported; only "
                "versions 1 and 2 with relative position bias are"
            )
    depths: Counter[int] = Counter()
    for match in in_blocks:
        depths[int(match[1])] = max(depths[int(match[1])], 1 + int(match[2]))
    count = len(depths)
    if sorted(depths) != list(range(count)) or max(depths.values()) > MAX_DEPTH or count > 8:
        raise UnsupportedArchitectureError(
            f"expected a Swin transformer with blocks in every stage, found depths {dict(depths)}"
        )
    merging = filter(None, (re.match(r"layers\.(\d+)\.downsample\.", name) for name in shapes))
    if not {int(match[1]) for match in merging} <= set(range(1, count)):
        return None  # another layout, whose dialect moves it
    stages = [_typical_block(shapes, stage) for stage in range(len(depths))]
    width = (stages[0].get("norm1.weight") or stages[0].get("norm2.weight") or (0,))[0]
    if width < 1:
        raise UnsupportedArchitectureError("layers.0.blocks should have norm layers, found none")
    version = 1 if all("attn.logit_scale" not in block for block in stages) else 2
    windows = [_window(block) for block in stages] if version == 1 else []
    # a stage whose tables are all missing has the window of the others
    windows = [window or max(windows) for window in windows]
    arch = SwinArch(
        embed_dim=width,
        depths=tuple(depths[stage] for stage in range(len(depths))),
        heads=tuple(_heads(block, width * 2**stage) for stage, block in enumerate(stages)),
        version=version,
        mlp_ratio=(stages[0].get("mlp.fc1.bias") or (4 * width,))[0] / width,
        windows=tuple(windows),
        image_size=windows[-1] * PATCH_SIZE * 2 ** (len(windows) - 1) if windows else 256,
    )
    # no shape depends on the windows of version 2
    windows = windows or [8] * len(stages)
    reject_extra_tensors(shapes, replace(arch, windows=tuple(windows)), _IN_BACKBONE)
    return arch


def _typical_block(shapes: Shapes, stage: int) -> dict[str, tuple[int, ...]]:
    """Return suffix -> the shape that most blocks of a stage have, so that others are reported."""
    found: dict[str, Counter[tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _IN_BLOCK.fullmatch(name)
        if match and int(match[1]) == stage:
            found.setdefault(match[3], Counter())[shape] += 1
    return {suffix: counts.most_common(1)[0][0] for suffix, counts in found.items()}


def _heads(block: Shapes, width: int) -> int:
    """Return the heads by relative position bias, of 32 channels each without it."""
    table = block.get("attn.relative_position_bias_table", ())
    scale = block.get("attn.logit_scale") or block.get("attn.cpb_mlp.2.weight")
    heads = table[1] if len(table) == 2 else scale[0] if scale else max(1, width // 32)
    if heads < 1 or width % heads:
        raise UnsupportedArchitectureError(
            f"a width of {width} cannot be divided into {heads} heads"
        )
    return heads


def _window(block: Shapes) -> int:
    """Return the side of the window by the table of (2 side - 1)^2 distances; 0 without one.

    Raises:
        UnsupportedArchitectureError: the window is not square or too large.
    """
    table = block.get("attn.relative_position_bias_table")
    if table is None:
        return 0
    side = math.isqrt(table[0]) if table else 0
    if side**2 != (table or (0,))[0] or side % 2 == 0 or side > 2 * MAX_WINDOW:
        raise UnsupportedArchitectureError(
            f"relative_position_bias_table has shape {table}, which is not that of a square window "
            f"of at most {MAX_WINDOW} tokens"
        )
    return (side + 1) // 2


def build_swin(arch: SwinArch) -> nn.Module:
    """Return timm's network of this architecture, randomly initialized, without classifier.

    It takes images of all sizes, see ``SwinFamily``.

    Raises:
        UnsupportedArchitectureError: the windows are unknown.
    """
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from torch.nn import LayerNorm

    if not arch.windows:
        raise UnsupportedArchitectureError(
            f"the windows of a {arch.name} are unknown: its file contains no coordinates; choose "
            "a --format that states them, such as timm_swin_v2"
        )
    options: dict[str, Any] = {
        "img_size": arch.image_size,
        "patch_size": PATCH_SIZE,
        "num_classes": 0,
        "embed_dim": arch.embed_dim,
        "depths": arch.depths,
        "num_heads": arch.heads,
        "window_size": tuple((window, window) for window in arch.windows),
        "always_partition": True,  # do not reduce windows to the size of feature maps
        "strict_img_size": False,
        "mlp_ratio": arch.mlp_ratio,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "norm_layer": partial(LayerNorm, eps=arch.norm_eps),
    }
    if arch.version == 2:
        options["pretrained_window_sizes"] = arch.pretrained_windows
        network: Any = SwinTransformerV2(**options)
    else:
        network = SwinTransformer(**options)
    network.patch_embed.dynamic_img_pad = True
    for layer in network.layers:
        for block in layer.blocks:
            kind: Any = type(block)
            block.__class__ = _padding_block(kind)
            block.full_shift = block.shift_size
    return network


@lru_cache(maxsize=2)
def _padding_block(timm_block: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of timm's block that computes what the official detectors do.

    They pad a feature map to a multiple of the window and then shift it. timm shifts first, so that
    windows contain tokens of opposite edges.
    """
    from torch.nn import functional as F

    class PaddingBlock(timm_block):  # type: ignore[valid-type, misc]
        def _attn(self, x: Tensor) -> Tensor:
            """Attend in windows of x (batch, rows, columns, width)."""
            size = x.shape[1:3]
            down, right = (-n % w for n, w in zip(size, self.window_size, strict=True))
            self.shift_size = tuple(
                shift if n > window else 0
                for n, window, shift in zip(size, self.window_size, self.full_shift, strict=True)
            )
            padded = F.pad(x, (0, 0, 0, right, 0, down))
            return super()._attn(padded)[:, : size[0], : size[1]]

    return PaddingBlock


register_family(SwinFamily())
