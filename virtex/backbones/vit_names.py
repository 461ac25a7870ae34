"""Names and layouts of vision transformers' tensors in other projects, translated to timm's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from virtex.backbones.registry import DIALECTS, Derived, Dialect

Rules = Iterable[tuple[str, str | None]]
Tensors = Mapping[str, Any]


def renaming(rules: Rules) -> Callable[[str], str | None]:
    """Return a function that applies the first rule whose pattern matches a whole name.

    Args:
        rules: (regular expression, replacement or ``None`` to ignore such tensors). Names that no
            pattern matches are kept.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def translate(name: str) -> str | None:
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(name):
                return None if replacement is None else match.expand(replacement)
        return name

    return translate


def concatenate(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def fuse_qkv(tensors: Tensors, zero_key_bias: bool = False) -> dict[str, Derived]:
    """Concatenate ``attn.q``, ``attn.k`` and ``attn.v``, translated names, to ``attn.qkv``.

    Args:
        zero_key_bias: whether keys have no bias, which a bias of 0 equals.
    """
    derived = {}
    for name, query in tensors.items():
        match = re.fullmatch(r"(.*\battn)\.q\.(weight|bias)", name)
        if match is None:
            continue
        attention, kind = match.groups()
        used = "qv" if zero_key_bias and kind == "bias" else "qkv"
        parts = {key: tensors.get(key) for key in (f"{attention}.{part}.{kind}" for part in used)}
        if any(value is None or value.shape != query.shape for value in parts.values()):
            continue
        shape = (3 * query.shape[0], *query.shape[1:])
        compute = concatenate if used == "qkv" else _with_zero_key_bias
        derived[f"{attention}.qkv.{kind}"] = Derived(shape, parts, compute)
    return derived


def _with_zero_key_bias(query: Tensor, value: Tensor) -> Tensor:
    return torch.cat([query, torch.zeros_like(query), value])


def renamed(tensors: Tensors, rules: Mapping[str, str]) -> dict[str, Derived]:
    """Return the tensors whose names end with one of the keys, with the value instead."""
    derived = {}
    for name, tensor in tensors.items():
        for old, new in rules.items():
            if name.endswith(old):
                shape = tuple(tensor.shape)
                derived[name.removesuffix(old) + new] = Derived(shape, {name: tensor}, _same)
    return derived


def _same(tensor: Tensor) -> Tensor:
    return tensor


def reshaped(name: str, tensor: Any, shape: tuple[int, ...]) -> dict[str, Derived]:
    """Return a tensor under its own name in another shape of as many elements."""
    return {name: Derived(shape, {name: tensor}, lambda stored: stored.reshape(shape))}


# Official projects in timm's style --------------------------------------------------------------

# tensors that only pretraining uses, and buffers
_NOT_BACKBONE: Rules = (
    (r"(mask_token|masked_embed|lm_head\..+|head\..+|head_dist\..+|pre_logits\..+)", None),
    (r"rope_embed\.periods", r"rope_embed.periods"),  # see official_fields
    (r"(decoder.*|cls_pt_.+|local_cls_norm\..+|rope.*|.*\.rope\..+|.*\.bias_mask)", None),
    (r"(.*relative_position_index|.*\.attn_mask|projectors\..+|position_ids)", None),
)
_OFFICIAL: Rules = (
    *_NOT_BACKBONE,
    # SwiGLU: DINOv2's and EVA's packed w12, DINOv3's and EVA's separate gate w1
    (r"(.+\.mlp)\.w12\.(.+)", r"\1.fc1.\2"),
    (r"(.+\.mlp)\.w1\.(.+)", r"\1.fc1_g.\2"),
    (r"(.+\.mlp)\.w2\.(.+)", r"\1.fc1_x.\2"),
    (r"(.+\.mlp)\.w3\.(.+)", r"\1.fc2.\2"),
    (r"(.+\.mlp)\.ffn_ln\.(.+)", r"\1.norm.\2"),
    (r"(.+\.attn)\.inner_attn_ln\.(.+)", r"\1.norm.\2"),
)
_rename_official = renaming(_OFFICIAL)


def translate_official(name: str) -> str | None:
    # DINOv2's blocks may be in chunks; their second number counts over all chunks
    return _rename_official(
        re.sub(r"^blocks\.\d+\.(?=\d+\.(?:norm|attn|mlp|ls)\d?\.)", "blocks.", name)
    )


def derive_official(tensors: Tensors) -> dict[str, Derived]:
    """Convert the layouts in which the official files differ from timm's."""
    names = [name for name in tensors if name.startswith("blocks.")]
    if "storage_tokens" in tensors:  # DINOv3
        new = {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2", "storage_tokens": "reg_token"}
        return renamed(tensors, new) | split_qkv_bias(tensors)
    if "register_tokens" in tensors:
        return _separate_registers(tensors)
    if any(name.endswith(".attn.qkv.bias") for name in names):  # DeiT III, iBOT
        return renamed(tensors, {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"})
    if any(".attn.q_proj." in name for name in names):  # EVA-02 B and L
        new = {".attn.q_bias": ".attn.q_proj.bias", ".attn.v_bias": ".attn.v_proj.bias"}
        return renamed(tensors, new)
    return {}


def official_fields(tensors: Tensors) -> dict[str, Any]:
    """Return the heads by the periods of DINOv3's rotary positions: a quarter of a head's width."""
    periods, token = tensors.get("rope_embed.periods"), tensors.get("cls_token")
    if periods is None or token is None or not periods.shape or not periods.shape[0]:
        return {}
    return {"heads": token.shape[-1] // (4 * periods.shape[0])}


def split_qkv_bias(tensors: Tensors) -> dict[str, Derived]:
    """Split DINOv3's bias; a mask sets that of the keys, stored as NaN or any number, to 0."""
    derived = {}
    for name, bias in tensors.items():
        if name.endswith(".attn.qkv.bias") and len(bias.shape) == 1:
            width, attention = bias.shape[0] // 3, name.removesuffix(".qkv.bias")
            for part, first in (("q_bias", 0), ("v_bias", 2 * width)):
                derived[f"{attention}.{part}"] = Derived(
                    (width,), {name: bias}, lambda b, first=first, width=width: b[first:][:width]
                )
    return derived


def _separate_registers(tensors: Tensors) -> dict[str, Derived]:
    """Convert DINOv2 with registers: timm has no positions of tokens other than patches.

    The position of the class token is added to the token; registers have none.
    """
    derived = renamed(tensors, {"register_tokens": "reg_token"})
    token, positions = tensors.get("cls_token"), tensors.get("pos_embed")
    if token is None or positions is None or len(positions.shape) != 3:
        return derived
    _, count, width = positions.shape
    if count < 2 or tuple(token.shape) != (1, 1, width):
        return derived
    both = {"cls_token": token, "pos_embed": positions}
    return derived | {
        "cls_token": Derived((1, 1, width), both, lambda cls, pos: cls + pos[:, :1]),
        "pos_embed": Derived(
            (1, count - 1, width), {"pos_embed": positions}, lambda pos: pos[:, 1:]
        ),
    }


def derive_vitdet(tensors: Tensors) -> dict[str, Derived]:
    """Remove the position of the class token, which ViTDet has not, but its pretraining had."""
    positions = tensors.get("pos_embed")
    if positions is None or len(positions.shape) != 3 or positions.shape[1] < 2:
        return {}
    _, count, width = positions.shape
    if math.isqrt(count - 1) ** 2 != count - 1:
        return {}
    shape = (1, count - 1, width)
    return {"pos_embed": Derived(shape, {"pos_embed": positions}, lambda pos: pos[:, 1:])}


# CLIP and torchvision ---------------------------------------------------------------------------

_CLIP: Rules = (
    (r"proj|attn_pool\..+|ln_pool\..+", None),
    (r"class_embedding", r"cls_token"),
    (r"positional_embedding", r"pos_embed"),
    (r"conv1\.weight", r"patch_embed.proj.weight"),
    (r"ln_pre\.(.+)", r"norm_pre.\1"),
    (r"ln_post\.(.+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"transformer\.resblocks\.(\d+\..+)", r"blocks.\1"),
)


def derive_clip(tensors: Tensors) -> dict[str, Derived]:
    """Add the leading dimensions that timm's tokens and positions have."""
    derived: dict[str, Derived] = {}
    for name, ndim in (("cls_token", 1), ("pos_embed", 2)):
        tensor = tensors.get(name)
        if tensor is not None and len(tensor.shape) == ndim:
            derived |= reshaped(name, tensor, (1,) * (3 - ndim) + tuple(tensor.shape))
    return derived


_TORCHVISION: Rules = (
    (r"heads\..+", None),
    (r"class_token", r"cls_token"),
    (r"conv_proj\.(.+)", r"patch_embed.proj.\1"),
    (r"encoder\.pos_embedding", r"pos_embed"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(weight|bias)",
        r"blocks.\1.attn.qkv.\2",
    ),
    (
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.+)",
        r"blocks.\1.attn.proj.\2",
    ),
    # linear_1 and linear_2 in files before version 2 of its MLPBlock
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+\..+)", r"blocks.\1"),
)

# Hugging Face -----------------------------------------------------------------------------------

_HF_EMBEDDINGS: Rules = (
    (
        r"(?:pooler|classifier|head|visual_projection)\..+|embeddings\.(?:mask_token|position_ids)",
        None,
    ),
    (r"embeddings\.cls_token", r"cls_token"),
    (r"embeddings\.register_tokens", r"register_tokens"),
    (r"embeddings\.position_embeddings", r"pos_embed"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)", r"patch_embed.proj.\1"),
)
_HF_LAYER: Rules = (
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(q)uery\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(k)ey\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(v)alue\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+\..+)", r"blocks.\1"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_HF_BEIT: Rules = (
    (r"pooler\.layernorm\.(.+)", r"fc_norm.\1"),
    (r".*relative_position_index", None),
    (
        r"encoder\.relative_position_bias\.relative_position_bias_table",
        r"rel_pos_bias.relative_position_bias_table",
    ),
    (
        r"encoder\.layer\.(\d+)\.attention\.attention\.relative_position_bias\.(.+)",
        r"blocks.\1.attn.\2",
    ),
    (r"encoder\.layer\.(\d+)\.lambda_([12])", r"blocks.\1.gamma_\2"),
)
_HF_DINOV3: Rules = (
    *_HF_EMBEDDINGS,
    (r"rope_embeddings\..+", None),
    (r"(?:model\.)?layer\.(\d+)\.attention\.([qkv])_proj\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.o_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"(?:model\.)?layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.gate_proj\.(.+)", r"blocks.\1.mlp.fc1_g.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.up_proj\.(.+)", r"blocks.\1.mlp.fc1_x.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.down_proj\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"(?:model\.)?layer\.(\d+\..+)", r"blocks.\1"),
)
_HF_CLIP: Rules = (
    (r"embeddings\.position_ids|head\.probe|head\..+", None),
    (r"embeddings\.class_embedding", r"cls_token"),
    (r"embeddings\.position_embedding\.weight", r"pos_embed"),
    (r"embeddings\.patch_embedding\.(.+)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(.+)", r"norm_pre.\1"),  # their spelling
    (r"post_layernorm\.(.+)", r"norm.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+\..+)", r"blocks.\1"),
)
# SigLIP's attention pooling is timm's attn_pool
_HF_SIGLIP: Rules = (
    (r"head\.probe", r"attn_pool.latent"),
    (r"head\.layernorm\.(.+)", r"attn_pool.norm.\1"),
    (r"head\.mlp\.(.+)", r"attn_pool.mlp.\1"),
    (r"head\.attention\.out_proj\.(.+)", r"attn_pool.proj.\1"),
    (r"head\.attention\.in_proj_(weight|bias)", r"attn_pool.in_proj.\1"),
    *_HF_CLIP,
)


def derive_hf(tensors: Tensors) -> dict[str, Derived]:
    """Fuse the projections of queries, keys and values."""
    separated = _separate_registers(tensors) if "register_tokens" in tensors else {}
    return fuse_qkv(tensors) | separated


def derive_hf_eva(tensors: Tensors) -> dict[str, Derived]:
    """Fuse projections whose keys have no bias, as BEiT's and DINOv3's."""
    new = {
        ".attn.q.bias": ".attn.q_bias",
        ".attn.v.bias": ".attn.v_bias",
        "register_tokens": "reg_token",
    }
    if not any(".mlp.fc1_g." in name for name in tensors):  # an MLP without gate
        new |= {f".mlp.fc1_x.{kind}": f".mlp.fc1.{kind}" for kind in ("weight", "bias")}
    fused = fuse_qkv({name: t for name, t in tensors.items() if not name.endswith(".bias")})
    return fused | renamed(tensors, new)


def derive_hf_clip(tensors: Tensors) -> dict[str, Derived]:
    """Fuse the projections, add leading dimensions, and split SigLIP's pooling."""
    derived = fuse_qkv(tensors) | derive_clip(tensors)
    for kind in ("weight", "bias"):
        stored = tensors.get(f"attn_pool.in_proj.{kind}")
        if stored is not None and stored.shape and stored.shape[0] % 3 == 0:
            rows, rest = stored.shape[0] // 3, tuple(stored.shape[1:])
            parts = {f"attn_pool.in_proj.{kind}": stored}
            derived[f"attn_pool.q.{kind}"] = Derived(
                (rows, *rest), parts, lambda t, rows=rows: t[:rows]
            )
            derived[f"attn_pool.kv.{kind}"] = Derived(
                (2 * rows, *rest), parts, lambda t, rows=rows: t[rows:]
            )
    return derived


# MMPretrain, JAX --------------------------------------------------------------------------------

_MMPRETRAIN: Rules = (
    (r"(?:head|mask_token)\b.*", None),
    (r"patch_embed\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"pre_norm\.(.+)", r"norm_pre.\1"),
    (r"ln1\.(.+)", r"norm.\1"),
    (r"ln2\.(.+)", r"fc_norm.\1"),
    (r"layers\.(\d+)\.ln([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.attn\.gamma1\.weight", r"blocks.\1.ls1.gamma"),
    (r"layers\.(\d+)\.ffn\.gamma2\.weight", r"blocks.\1.ls2.gamma"),
    (r"layers\.(\d+)\.ffn\.(?:layers\.0\.0|w12)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.(?:layers\.1|w3)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+\..+)", r"blocks.\1"),
)

# Flax modules, "/" replaced by "."; big_vision numbers attention and MLP from 0, and its blocks may
# be stacked to one with a leading axis of layers (its option scan), whose number is "*" here
_FLAX_BLOCK = r"Transformer\.encoderblock_(\d+|\*)\."
_FLAX: Rules = (
    (r"(?:head|pre_logits)\..+", None),
    (r"cls", r"cls_token"),
    (r"(?:Transformer\.(?:posembed_input\.)?)?pos_embedding", r"pos_embed"),
    (r"embedding\.(.+)", r"patch_embed.proj.\1"),
    (r"Transformer\.encoder_norm\.(.+)", r"norm.\1"),
    (_FLAX_BLOCK + r"LayerNorm_0\.(.+)", r"blocks.\1.norm1.\2"),
    (_FLAX_BLOCK + r"LayerNorm_[12]\.(.+)", r"blocks.\1.norm2.\2"),
    (_FLAX_BLOCK + r"MultiHeadDotProductAttention_\d\.(q)uery\.(.+)", r"blocks.\1.attn.\2.\3"),
    (_FLAX_BLOCK + r"MultiHeadDotProductAttention_\d\.(k)ey\.(.+)", r"blocks.\1.attn.\2.\3"),
    (_FLAX_BLOCK + r"MultiHeadDotProductAttention_\d\.(v)alue\.(.+)", r"blocks.\1.attn.\2.\3"),
    (_FLAX_BLOCK + r"MultiHeadDotProductAttention_\d\.out\.(.+)", r"blocks.\1.attn.proj.\2"),
    (_FLAX_BLOCK + r"MlpBlock_\d\.Dense_0\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (_FLAX_BLOCK + r"MlpBlock_\d\.Dense_1\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"MAPHead_0\.probe", r"attn_pool.latent"),
    (r"MAPHead_0\.LayerNorm_0\.(.+)", r"attn_pool.norm.\1"),
    (r"MAPHead_0\.MlpBlock_0\.Dense_0\.(.+)", r"attn_pool.mlp.fc1.\1"),
    (r"MAPHead_0\.MlpBlock_0\.Dense_1\.(.+)", r"attn_pool.mlp.fc2.\1"),
    (r"MAPHead_0\.MultiHeadDotProductAttention_0\.(q)uery\.(.+)", r"attn_pool.q.\2"),
    (r"MAPHead_0\.MultiHeadDotProductAttention_0\.(k)ey\.(.+)", r"attn_pool.k.\2"),
    (r"MAPHead_0\.MultiHeadDotProductAttention_0\.(v)alue\.(.+)", r"attn_pool.v.\2"),
    (r"MAPHead_0\.MultiHeadDotProductAttention_0\.out\.(.+)", r"attn_pool.proj.\1"),
)
_rename_flax = renaming(_FLAX)
_MAX_LAYERS = 256  # of stacked blocks


def translate_flax(name: str) -> str | None:
    name = name.removeprefix("params/").removeprefix("img/").replace("/", ".")
    return _rename_flax(name.replace(".encoderblock.", ".encoderblock_*."))


def flax_layout(
    name: str, shape: tuple[int, ...]
) -> tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]:
    """Return the name, shape and conversion of a Flax tensor: kernels are (inputs, outputs)."""
    module, _, leaf = name.rpartition(".")
    if leaf == "scale":
        return f"{module}.weight", shape, _same
    if leaf == "kernel":
        return f"{module}.weight", *_flax_kernel(module, shape)
    if leaf == "bias" and len(shape) == 2:  # (heads, head width)
        return name, (shape[0] * shape[1],), lambda t: t.flatten()
    return name, shape, _same


def _flax_kernel(
    module: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Callable[[Tensor], Tensor]]:
    if len(shape) == 4:  # (height, width, inputs, outputs)
        return (shape[3], shape[2], *shape[:2]), lambda t: t.permute(3, 2, 0, 1)
    if len(shape) == 3 and module.endswith((".q", ".k", ".v")):  # (inputs, heads, head width)
        return (shape[1] * shape[2], shape[0]), lambda t: t.flatten(1).T
    if len(shape) == 3:  # (heads, head width, outputs)
        return (shape[2], shape[0] * shape[1]), lambda t: t.flatten(0, 1).T
    return shape[::-1], lambda t: t.permute(*reversed(range(t.ndim)))


def derive_flax(tensors: Tensors) -> dict[str, Derived]:
    """Convert every tensor to PyTorch's layout, and fuse the projections."""
    converted: dict[str, Derived] = {}
    for name, tensor in tensors.items():
        is_stack = ".*." in name and tensor.shape and tensor.shape[0] <= _MAX_LAYERS
        for n, stored in enumerate(tensor if is_stack else [tensor]):
            new, shape, compute = flax_layout(name, tuple(stored.shape))
            converted[new.replace("*", str(n))] = Derived(shape, {name: stored}, compute)
    for name in list(converted):
        # attention pooling has keys and values only in one
        match = re.fullmatch(r"(.+\.attn|attn_pool)\.(?:q|k)\.(\w+)", name)
        if match is None:
            continue
        module, kind = match.groups()
        fused = "kv" if module == "attn_pool" else "qkv"
        parts = [converted.get(f"{module}.{letter}.{kind}") for letter in fused]
        first = parts[0]
        if first is None or any(part is None or part.shape != first.shape for part in parts):
            continue
        for letter in fused:
            del converted[f"{module}.{letter}.{kind}"]
        converted[f"{module}.{fused}.{kind}"] = Derived(
            (len(fused) * first.shape[0], *first.shape[1:]),
            {key: value for part in parts if part for key, value in part.parts.items()},
            lambda *stored, parts=parts: torch.cat(
                [part.compute(t) for part, t in zip(parts, stored, strict=True)]
            ),
        )
    return converted


def flax_fields(tensors: Tensors) -> dict[str, Any]:
    """Return the heads that the kernels of queries show, (…, inputs, heads, head width)."""
    shapes = (tensor.shape for name, tensor in tensors.items() if name.endswith(".attn.q.kernel"))
    return next(({"heads": shape[-2]} for shape in shapes if len(shape) >= 3), {})


DIALECTS["vit"] = Dialect(translate_official, derive_official, official_fields)
# This package's detectors keep the tokens and final norm, which ViTDet drops.
_VITDET: Rules = ((r"cls_token|reg_token|norm\.(weight|bias)", None), *_NOT_BACKBONE)
DIALECTS["vitdet"] = Dialect(renaming(_VITDET), derive_vitdet)
DIALECTS["clip"] = Dialect(renaming(_CLIP), derive_clip)
DIALECTS["torchvision_vit"] = Dialect(renaming(_TORCHVISION))
DIALECTS["hf_vit"] = Dialect(renaming([*_HF_EMBEDDINGS, *_HF_LAYER]), derive_hf)
DIALECTS["hf_beit"] = Dialect(renaming([*_HF_BEIT, *_HF_EMBEDDINGS, *_HF_LAYER]), derive_hf_eva)
DIALECTS["hf_dinov3"] = Dialect(renaming(_HF_DINOV3), derive_hf_eva)
DIALECTS["hf_clip"] = Dialect(renaming(_HF_CLIP), derive_hf_clip)
DIALECTS["hf_siglip"] = Dialect(renaming(_HF_SIGLIP), derive_hf_clip)
DIALECTS["mmpretrain_vit"] = Dialect(renaming(_MMPRETRAIN))
DIALECTS["flax_vit"] = Dialect(translate_flax, derive_flax, flax_fields)
