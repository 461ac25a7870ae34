"""Names and layouts of Swin transformers' tensors in other projects, translated to timm's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from virtex.backbones.registry import (
    DIALECTS,
    Derived,
    Dialect,
    UnsupportedArchitectureError,
)
from virtex.backbones.swin import MAX_WINDOW, PATCH_SIZE
from virtex.backbones.vit_names import (
    Rules,
    Tensors,
    derive_hf_eva,
    fuse_qkv,
    renaming,
    split_qkv_bias,
)

_COORDINATES = re.compile(r"layers\.(\d+)\.blocks\.\d+\.attn\.relative_coords_table")
_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."

# tensors that only pretraining uses, heads, buffers, and output norms of detectors
_OFFICIAL: Rules = (
    (r"mask_token|masked_embed|head\..+|norm[012]\..+", None),
    (r".*\.(?:relative_position_index|attn_mask)", None),
    (r"norm3\.(.+)", r"norm.\1"),
)

_MMPRETRAIN: Rules = (
    *_OFFICIAL,
    (r"patch_embed\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"stages\.(\d+\.blocks\.\d+\.attn)\.w_msa\.(.+)", r"layers.\1.\2"),
    (r"stages\.(\d+\.blocks\.\d+)\.ffn\.layers\.0\.0\.(.+)", r"layers.\1.mlp.fc1.\2"),
    (r"stages\.(\d+\.blocks\.\d+)\.ffn\.layers\.1\.(.+)", r"layers.\1.mlp.fc2.\2"),
    (r"stages\.(.+)", r"layers.\1"),
)

# names of attention and MLP in brackets: since version 5, which saves the older ones
_HF: Rules = (
    (r"embeddings\.mask_token|(?:classifier|decoder|pooler)\..+", None),
    (r".*\.relative_position_index", None),
    (r"embeddings\.position_embeddings", r"absolute_pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(.+)", r"patch_embed.norm.\1"),
    (r"layernorm\.(.+)", r"norm.\1"),
    (_BLOCK + r"layernorm_before\.(.+)", r"layers.\1.blocks.\2.norm1.\3"),
    (_BLOCK + r"layernorm_after\.(.+)", r"layers.\1.blocks.\2.norm2.\3"),
    (_BLOCK + r"attention\.(?:self\.(q)uery|(q)_proj)\.(.+)", r"layers.\1.blocks.\2.attn.q.\5"),
    (_BLOCK + r"attention\.(?:self\.(k)ey|(k)_proj)\.(.+)", r"layers.\1.blocks.\2.attn.k.\5"),
    (_BLOCK + r"attention\.(?:self\.(v)alue|(v)_proj)\.(.+)", r"layers.\1.blocks.\2.attn.v.\5"),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.+)", r"layers.\1.blocks.\2.attn.proj.\3"),
    (
        _BLOCK + r"attention\.self\.continuous_position_bias_mlp\.(.+)",
        r"layers.\1.blocks.\2.attn.cpb_mlp.\3",
    ),
    (
        _BLOCK + r"attention\.(?:self|relative_position_bias)\.(.+)",
        r"layers.\1.blocks.\2.attn.\3",
    ),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(.+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"encoder\.layers\.(.+)", r"layers.\1"),
)


def _torchvision_rules() -> Rules:
    """Return the rules of ``features``: patch embedding, then stages and patch merging in turn."""
    yield (r"head\..+|.*\.relative_position_index", None)
    yield (r"features\.0\.0\.(.+)", r"patch_embed.proj.\1")
    yield (r"features\.0\.2\.(.+)", r"patch_embed.norm.\1")
    for stage in range(4):
        block, new = rf"features\.{2 * stage + 1}\.(\d+)\.", rf"layers.{stage}.blocks.\1."
        yield (block + r"mlp\.0\.(.+)", new + r"mlp.fc1.\2")
        yield (block + r"mlp\.3\.(.+)", new + r"mlp.fc2.\2")
        yield (block + r"(.+)", new + r"\2")
        yield (rf"features\.{2 * stage + 2}\.(.+)", rf"layers.{stage + 1}.downsample.\1")


def merging_last(rules: Rules) -> Callable[[str], str | None]:
    """Rename, and move patch merging from the end of each stage to the start of the next."""
    rename = renaming(rules)

    def translate(name: str) -> str | None:
        new = rename(name)
        match = re.fullmatch(r"layers\.(\d+)\.(downsample\..+)", new or "")
        return f"layers.{int(match[1]) + 1}.{match[2]}" if match else new

    return translate


def derive_unfolded(tensors: Tensors, *kinds: str) -> dict[str, Derived]:
    """Convert patch merging from the channel order of ``nn.Unfold``.

    Args:
        kinds: the tensors whose last dimension are the channels of 2x2 tokens.
    """
    return {
        name: Derived(tuple(tensor.shape), {name: tensor}, from_unfolded)
        for name, tensor in tensors.items()
        if name.endswith(tuple(f".downsample.{kind}" for kind in kinds))
        and tensor.shape[-1:]
        and tensor.shape[-1] % 4 == 0
    }


def from_unfolded(tensor: Tensor) -> Tensor:
    """Reorder the last dimension from (channel, row, column) to (column, row, channel)."""
    return tensor.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)


def derive_hf(tensors: Tensors) -> dict[str, Derived]:
    """Fuse the projections of queries, keys and values; keys have no bias in version 2."""
    is_v2 = any(name.endswith(".attn.logit_scale") for name in tensors)
    return derive_hf_eva(tensors) if is_v2 else fuse_qkv(tensors)


def derive_torchvision(tensors: Tensors) -> dict[str, Derived]:
    """Split the bias in version 2, whose forward pass sets that of the keys to 0."""
    is_v2 = any(name.endswith(".attn.logit_scale") for name in tensors)
    return split_qkv_bias(tensors) if is_v2 else {}


def read_coordinates(tensors: Tensors) -> dict[str, Any]:
    """Return the fields that version 2's buffers of coordinates show, if every stage has one.

    A table (1, 2 window - 1, 2 window - 1, 2) contains sign(x) log2(1 + |x|) / 3 of
    x = 8 distance / (pretrained window - 1) (``swin_transformer_v2.py`` of the official project).

    Raises:
        UnsupportedArchitectureError: a table is not of this kind.
    """
    windows: dict[int, int] = {}
    pretrained: dict[int, int] = {}
    for name, table in tensors.items():
        match = _COORDINATES.fullmatch(name)
        if match is None or int(match[1]) in windows:
            continue
        shape = tuple(table.shape)
        if len(shape) != 4 or shape[1] != shape[2] or shape[1] % 2 == 0:
            raise UnsupportedArchitectureError(
                f"{name} has shape {shape}, which is not that of a square window"
            )
        stage, window = int(match[1]), (shape[1] + 1) // 2
        windows[stage], pretrained[stage] = window, _pretrained_window(name, table, window)
    stages = range(len(windows))
    if not windows or sorted(windows) != list(stages):
        return {}
    return {
        "windows": tuple(windows[stage] for stage in stages),
        "pretrained_windows": tuple(pretrained[stage] for stage in stages),
        "image_size": windows[stages[-1]] * PATCH_SIZE * 2 ** stages[-1],
    }


def _pretrained_window(name: str, table: Any, window: int) -> int:
    if window < 2 or (isinstance(table, Tensor) and table.is_meta):
        return 0
    largest = float(table[0, -1, -1, 0])  # of the distance window - 1
    for size in range(2, MAX_WINDOW + 1):
        expected = math.log2(1 + 8 * (window - 1) / (size - 1)) / 3
        if math.isclose(largest, expected, rel_tol=5e-3):  # bfloat16
            return size
    raise UnsupportedArchitectureError(
        f"{name} should contain coordinates up to about 1 to 3, found {largest:g}; the file is "
        "damaged or of a variant that is not supported"
    )


def _derive_mmpretrain(tensors: Tensors) -> dict[str, Derived]:
    return derive_unfolded(tensors, "reduction.weight", "norm.weight", "norm.bias")


def _derive_mmpretrain_v2(tensors: Tensors) -> dict[str, Derived]:
    return derive_unfolded(tensors, "reduction.weight")  # its norm follows the reduction


DIALECTS["swin"] = Dialect(merging_last(_OFFICIAL), fields=read_coordinates)
DIALECTS["hf_swin"] = Dialect(merging_last(_HF), derive_hf, read_coordinates)
DIALECTS["torchvision_swin"] = Dialect(
    renaming(_torchvision_rules()), derive_torchvision, read_coordinates
)
# version 1 has patch merging at the end of stages, version 2 at the start
DIALECTS["mmpretrain_swin"] = Dialect(
    merging_last(_MMPRETRAIN), _derive_mmpretrain, read_coordinates
)
DIALECTS["mmpretrain_swin_v2"] = Dialect(
    renaming(_MMPRETRAIN), _derive_mmpretrain_v2, read_coordinates
)
