"""Vision transformers as timm builds them, under timm's names.

Three of timm's classes cover the published ones: ``VisionTransformer`` (MAE, DINO, DINOv2, CLIP),
``Eva`` (rotary positions: EVA-02, DINOv3) and ``Beit`` (relative position bias: BEiT, SimMIM). A
fourth, ``VisionTransformerSAM``, computes ViTDet's blocks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from virtex.backbones.registry import (
    Arch,
    Shapes,
    UnsupportedArchitectureError,
    register_family,
)
from virtex.backbones.timm_models import (
    TimmFamily,
    reject_extra_tensors,
    timm_name,
    timm_network,
)
from virtex.text import escape

if TYPE_CHECKING:
    from torch import Tensor, nn

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# except buffers that the network computes from its architecture, and projections without the others
# that would be fused with them
_IN_BACKBONE = re.compile(
    r"(?!.*(?:relative_position_index|rope\.\w+|k_bias|attn\.[qkv]\.\w+|attn_pool\.[kv]\.\w+)$)"
    r"(?:blocks|patch_embed|norm|norm_pre|fc_norm|attn_pool|rel_pos_bias)\..+"
)
_PATCH_EMBEDDING = re.compile(
    r"(?:patch_embed(?:ding|dings)?|conv1|conv_proj|stem|(?:^|[./])embedding)[./]"
)
# (names, whether a patch embedding is missing, description) of networks that resemble a plain ViT
_UNSUPPORTED = tuple(
    (re.compile(rf"(?:^|[./]){pattern}"), without_patches, description)
    for pattern, without_patches, description in (
        (r"blocks\.\d+\.attn\.pool_[qkv]\.", False, "a multiscale vision transformer (MViT)"),
        (
            r"(?:blocks_token_only|cls_attn_blocks)\.",
            False,
            "a network with class attention (CaiT)",
        ),
        (r"decoder_blocks\.", True, "the decoder of a masked autoencoder without its encoder"),
        (r"(?:text_model\.|token_embedding\.|txt/)", True, "the text encoder of CLIP or SigLIP"),
        (r"word_embeddings\.", True, "a language model such as BERT"),
        (r"(?:blocks|resblocks)\.\d+\.", True, "a transformer without patch embedding"),
    )
)
# Width -> number of heads of the published models, in others of 64 channels each. Tensors rarely
# show it, and methods differ.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16, 4096: 32}
DINOV3_HEADS = {4096: 32}
SIGLIP_HEADS = {1152: 16, 1536: 16}
# How position embeddings are interpolated to another grid: all bicubic
INTERPOLATIONS = ("antialias", "plain", "offset")


@dataclass(frozen=True)
class ViTArch(Arch):
    """The architecture of a vision transformer.

    Attributes:
        implementation: timm's class: ``"VisionTransformer"``, ``"Eva"`` or ``"Beit"``, or
            ``"ViTDet"``, a detector's network with window attention.
        embed_dim, depth, mlp_dim: width, number of blocks, and hidden width of their MLPs.
        patch_size: in pixels.
        grid: patches along each side of the pretraining images; 0 without position embeddings,
            whose networks (DINOv3) have no native size.
        class_token: whether there is one.
        registers: number of register tokens.
        positions: ``"all"`` (the tokens before the patches have positions, too), ``"patches"``,
            or ``"none"``.
        relative_bias: of ``Beit``: ``"none"``, ``"shared"`` by all blocks, or ``"per_block"``.
        mlp: ``"mlp"``, ``"swiglu"`` (separate gate) or ``"swiglu_packed"``.
        qkv: ``"fused"``, or ``"separate"`` projections of ``Eva``.
        qkv_bias, qk_norm, layer_scale, pre_norm: whether the blocks, or the network, have them.
        scale_mlp, scale_attention: whether ``Eva`` has norm layers inside MLPs and attention.
        final_norm: ``"norm"`` before pooling, ``"fc_norm"`` after it, or ``"none"`` (ViTDet).
        attention_pool: whether attention pooling (SigLIP) belongs to it.
        relative_sides: of ``ViTDet``: side in patches of each block's relative positions, which is
            that of its windows, or for the blocks with global attention of the training images.
        heads, norm_eps, activation, interpolation: not shown by tensor shapes; the format or the
            file defines them. The interpolation of position embeddings to other sizes is
            bicubic: with antialiasing (timm, DINOv2 with registers), ``"plain"`` (MAE, ViTDet,
            Hugging Face), or with the ``"offset"`` of 0.1 patches of DINO and DINOv2.
    """

    family: str = field(default="vit", init=False)
    embed_dim: int
    depth: int
    patch_size: int
    grid: int
    mlp_dim: int
    implementation: str = "VisionTransformer"
    class_token: bool = True
    registers: int = 0
    positions: str = "all"
    relative_bias: str = "none"
    mlp: str = "mlp"
    qkv: str = "fused"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: bool = False
    pre_norm: bool = False
    scale_mlp: bool = False
    scale_attention: bool = False
    final_norm: str = "norm"
    attention_pool: bool = False
    relative_sides: tuple[int, ...] = ()
    heads: int = 12
    norm_eps: float = 1e-6
    activation: str = "gelu"
    interpolation: str = "antialias"

    @property
    def name(self) -> str:
        """Return a name in timm's style, by size."""
        sizes = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
        sizes |= {(1280, 32): "huge", (1408, 40): "giant", (1536, 40): "giant", (4096, 40): "7b"}
        size = sizes.get((self.embed_dim, self.depth), f"{self.depth}x{self.embed_dim}")
        kinds = {"Eva": "eva", "Beit": "beit", "ViTDet": "vitdet"}
        kind = kinds.get(self.implementation, "vit")
        registers = f"_reg{self.registers}" if self.registers else ""
        return f"{kind}_{size}_patch{self.patch_size}{registers}"

    @property
    def image_size(self) -> int:
        """Return the side of the pretraining images in pixels; 224 where none is defined."""
        return (self.grid or round(224 / self.patch_size)) * self.patch_size


class ViTFamily(TimmFamily):
    """Vision transformers; one feature map, the normalized patch tokens of the last block."""

    name = "vit"
    default_arch = ViTArch(768, 12, 16, 14, 3072)
    anchor_key = "blocks.0.norm1.weight"
    generic_formats = False
    format_fields = ("heads", "norm_eps", "activation", "interpolation")
    size_fields = ("embed_dim", "depth", "patch_size", "mlp_dim", "registers", "implementation")
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.vit:convert_fpn",
        "MAP": "virtex.detectron.last_map:convert_map",
    }

    def detect(self, tensors: Mapping[str, Any]) -> ViTArch | None:
        return detect_vit(tensors)

    def build(self, arch: ViTArch) -> nn.Module:
        return build_vit(arch)

    def features(self, network: Any, images: Tensor) -> dict[str, Tensor]:
        ((patches, _),) = last_blocks(network, images, 1)
        return {"final": patches}

    def strides(self, arch: ViTArch) -> dict[str, int]:
        return {"final": arch.patch_size}

    def channels(self, arch: ViTArch) -> dict[str, int]:
        return {"final": arch.embed_dim}

    def representations(self, arch: ViTArch) -> dict[str, int]:
        """See ``Family``. The default is what the network's method evaluates.

        It is ``"map"`` (attention pooling) of SigLIP, ``"cls"``, or ``"avg"`` of networks
        without class token or with a norm layer after average pooling. ``"last4-cls"`` are the
        class tokens of the last four blocks, as DINO's linear classification of ViT-S.
        """
        width = arch.embed_dim
        if not arch.class_token or arch.final_norm == "fc_norm":
            return {"map": width, "avg": width} if arch.attention_pool else {"avg": width}
        sizes = {"cls": width, "avg": width, "cls+avg": 2 * width}
        if arch.depth >= 4:
            sizes["last4-cls"] = 4 * width
        return {"map": width, **sizes} if arch.attention_pool else sizes

    def represent(self, network: Any, images: Tensor, name: str) -> Tensor:
        import torch

        blocks = last_blocks(network, images, 4 if name == "last4-cls" else 1)
        patches, cls = blocks[-1]
        if name == "map":
            return network.attn_pool(patches.flatten(2).transpose(1, 2))
        if name == "avg":
            return network.fc_norm(patches.mean(dim=(2, 3)))
        if name == "cls+avg":
            return torch.cat([cls, patches.mean(dim=(2, 3))], dim=1)
        return torch.cat([token for _, token in blocks], dim=1)

    def unused_prefixes(self, name: str) -> tuple[str, ...]:
        return () if name == "map" else ("attn_pool.",)

    def get_stage(self, name: str) -> str:
        match = _IN_BLOCK.match(name)
        return f"block{int(match[1]):02d}" if match else name.partition(".")[0]

    def layer_id(self, arch: ViTArch, name: str) -> int:
        """Return 0 for embeddings and tokens, then one layer per block, then the final norm."""
        match = _IN_BLOCK.match(name)
        if match:
            return 1 + int(match[1])
        return arch.depth + 1 if name.startswith(("norm.", "fc_norm.", "attn_pool.")) else 0

    def input_size_requirement(self, arch: ViTArch, height: int, width: int) -> str | None:
        size, patch = arch.image_size, arch.patch_size
        if arch.implementation == "Beit" and (height, width) != (size, size):
            return f"{size}x{size} pixels (its relative position bias has that size)"
        if height % patch or width % patch:
            return f"multiples of {patch} pixels"
        return None

    def contradicts(self, arch: ViTArch, stated: str) -> str | None:  # type: ignore[override]
        """See ``TimmFamily``. Some of timm's networks have the same tensors, but compute others."""
        if reason := super().contradicts(arch, stated):
            return reason
        name = timm_name(stated)
        if not name or arch.implementation == "ViTDet" or has_blocks_of(arch, name):
            return None
        return "whose blocks or rotary positions are not supported"

    def explain_unsupported(self, shapes: Shapes) -> str | None:
        has_patches = any(map(_PATCH_EMBEDDING.search, shapes))
        for pattern, without_patches, description in _UNSUPPORTED:
            if any(map(pattern.search, shapes)) and not (without_patches and has_patches):
                return f"this is {description}; specify a file with a plain vision transformer"
        return None

    def read_fields(self, network: Any) -> dict[str, Any]:
        block = network.blocks[0]
        activation = {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
        return {
            "heads": block.attn.num_heads,
            "norm_eps": block.norm1.eps,
            "activation": activation.get(type(getattr(block.mlp, "act", None)).__name__, "gelu"),
        }


@lru_cache(maxsize=64)
def has_blocks_of(arch: ViTArch, name: str) -> bool:
    """Return whether blocks and rotary positions are those of timm's network of this name."""
    import torch

    with torch.device("meta"):
        ours = build_vit(arch)
    return _describe_blocks(ours) == _describe_blocks(timm_network(name))


def _describe_blocks(network: Any) -> tuple[Any, ...]:
    """Return the type of the blocks, and type and settings of the rotary positions."""
    rope = getattr(network, "rope", None)
    settings = {
        name: value
        for name, value in (vars(rope).items() if rope is not None else ())
        # the grid of the training images, which the patches of other images replace
        if name not in ("feat_shape", "_use_cached_embed")
        and isinstance(value, bool | int | float | str | tuple)
    }
    return type(network.blocks[0]), type(rope), settings


def detect_vit(tensors: Mapping[str, Any]) -> ViTArch | None:
    """Return the architecture of a state_dict in timm's names, see ``Family.detect``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    in_blocks = [match for match in map(_IN_BLOCK.fullmatch, shapes) if match]
    if not any(match[2].startswith("attn.") for match in in_blocks):
        return None
    if not any(name.startswith("patch_embed.") for name in shapes):
        return None
    if "patch_embed.proj.weight" not in shapes and any(
        name.startswith("patch_embed.proj.0.") for name in shapes
    ):
        raise UnsupportedArchitectureError(
            "this is a vision transformer with a convolutional stem; only patch embeddings of one "
            "convolution are supported"
        )
    distillation = shapes.keys() & {"dist_token", "embeddings.distillation_token"}
    if distillation:
        raise UnsupportedArchitectureError(
            f"this is a distilled DeiT, whose second token {distillation.pop()} is not supported; "
            "use the network that was trained without distillation"
        )
    block = _typical_block(shapes)
    width = block.get("norm1.weight") or block.get("norm2.weight") or shapes.get("norm.weight")
    proj = shapes.get("patch_embed.proj.weight", ())
    patch = proj[-1] if len(proj) == 4 else 16
    if not width or patch < 1 or (proj and proj[-2:] != (patch, patch)):
        raise UnsupportedArchitectureError(
            f"expected a patch embedding of shape (width, 3, patch, patch), found {proj}"
        )
    depth = 1 + max(int(match[1]) for match in in_blocks)
    fc2 = block.get("mlp.fc2.weight", (0, 4 * width[0]))
    arch = ViTArch(
        embed_dim=width[0],
        depth=depth,
        patch_size=patch,
        grid=0,
        mlp_dim=fc2[1],
        implementation=_implementation(shapes, block),
        class_token="cls_token" in shapes,
        registers=shapes["reg_token"][1] if len(shapes.get("reg_token", ())) == 3 else 0,
        mlp=_mlp(block, fc2[1]),
        qkv="separate" if _has(block, "attn.q_proj.") else "fused",
        qkv_bias=any(
            name in block
            for name in (
                *("attn.qkv.bias", "attn.q_bias", "attn.v_bias", "attn.q_proj.bias"),
                *("attn.q.bias", "attn.k.bias"),  # of the three to be fused, one is missing
            )
        ),
        qk_norm=_has(block, "attn.q_norm."),
        layer_scale=bool(block.keys() & {"ls1.gamma", "ls2.gamma", "gamma_1", "gamma_2"}),
        pre_norm=_has(shapes, "norm_pre."),
        scale_mlp=_has(block, "mlp.norm."),
        scale_attention=_has(block, "attn.norm."),
        final_norm="norm" if _has(shapes, "norm.") or not _has(shapes, "fc_norm.") else "fc_norm",
        attention_pool=_has(shapes, "attn_pool."),
    )
    arch = replace(arch, **_positions(shapes, block, arch))
    arch = replace(arch, **_relative_sides(shapes, block, arch))
    if arch.implementation == "Eva" and arch.positions == "none":
        arch = replace(arch, norm_eps=1e-5)  # DINOv3
    if arch.implementation == "Eva" and (width[0], depth) == (1792, 64):
        raise UnsupportedArchitectureError(
            "this is EVA-02 CLIP E, whose norm layers follow attention and MLP; only networks with "
            "norm layers before them are supported"
        )
    reject_extra_tensors(shapes, arch, _IN_BACKBONE)
    return arch


def _typical_block(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return suffix -> the shape that most blocks have, so that one odd tensor is reported."""
    found: dict[str, Counter[tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := _IN_BLOCK.fullmatch(name):
            found.setdefault(match[2], Counter())[shape] += 1
    return {suffix: counts.most_common(1)[0][0] for suffix, counts in found.items()}


def _has(names: Mapping[str, Any], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _implementation(shapes: Shapes, block: Shapes) -> str:
    if "rel_pos_bias.relative_position_bias_table" in shapes or (
        "attn.relative_position_bias_table" in block
    ):
        return "Beit"
    if _has(block, "attn.rel_pos_"):
        return "ViTDet"
    is_eva = _has(block, "attn.q_proj.") or block.keys() & {"attn.q_bias", "gamma_1"}
    return "Eva" if is_eva else "VisionTransformer"


def _mlp(block: Shapes, hidden: int) -> str:
    if _has(block, "mlp.fc1_g."):
        return "swiglu"
    packed = any(block.get(f"mlp.fc1.{kind}", (0,))[0] == 2 * hidden for kind in ("weight", "bias"))
    return "swiglu_packed" if packed else "mlp"


def _positions(shapes: Shapes, block: Shapes, arch: ViTArch) -> dict[str, Any]:
    """Return the fields that position embeddings and relative position bias determine.

    Raises:
        UnsupportedArchitectureError: they are not of a square grid.
    """
    prefix = arch.class_token + arch.registers
    fields: dict[str, Any] = {"positions": "none"}
    for name, kind in (
        ("rel_pos_bias.relative_position_bias_table", "shared"),
        ("attn.relative_position_bias_table", "per_block"),
    ):
        # (2 grid - 1)^2 distances, and three for the class token
        if table := shapes.get(name) or block.get(name):
            side = math.isqrt(max(table[0] - 3, 0))
            fields |= {"relative_bias": kind, "grid": (side + 1) // 2, "heads": table[1]}
            if side**2 != table[0] - 3 or side % 2 == 0:
                raise _not_square(name, table[0])
    embedding = shapes.get("pos_embed", ())
    if embedding:
        count = embedding[1] if len(embedding) == 3 else 0
        tokens = [(prefix, arch.class_token), (0, arch.class_token)]
        if not arch.class_token:  # perhaps only the token is missing, not its position
            tokens.append((1 + prefix, True))
        for before, class_token in tokens:
            n = count - before
            if n > 1 and math.isqrt(n) ** 2 == n:
                positions = "all" if before or not prefix else "patches"
                fields |= {"positions": positions, "grid": math.isqrt(n)}
                fields["class_token"] = class_token
                break
        else:
            raise _not_square("pos_embed", count)
    elif arch.implementation in (
        "VisionTransformer",
        "ViTDet",
    ):  # nothing else defines where a patch is
        fields |= {"positions": "all", "grid": round(224 / arch.patch_size)}
    is_dinov3 = arch.implementation == "Eva" and fields["positions"] == "none"
    heads = DINOV3_HEADS if is_dinov3 else SIGLIP_HEADS if arch.attention_pool else HEADS
    default = heads.get(arch.embed_dim, max(1, arch.embed_dim // 64))
    return {"heads": default, **fields}


def _relative_sides(shapes: Shapes, block: Shapes, arch: ViTArch) -> dict[str, Any]:
    """Return the fields that the relative positions of ViTDet determine, if it is one.

    They are tables (2 * side - 1, width of a head) for rows, and the same for columns.

    Raises:
        UnsupportedArchitectureError: they do not tell windows from global attention.
    """
    typical = block.get("attn.rel_pos_h") or block.get("attn.rel_pos_w")
    if arch.implementation != "ViTDet" or typical is None:
        return {}
    names = [[f"blocks.{n}.attn.rel_pos_{axis}" for axis in "hw"] for n in range(arch.depth)]
    tables = [shapes.get(rows) or shapes.get(columns) or typical for rows, columns in names]
    sides = tuple((table[0] + 1) // 2 for table in tables)
    if len(set(sides)) != 2:
        raise UnsupportedArchitectureError(
            "expected relative positions of two sizes, for windows and for global attention, found "
            f"sides of {sorted(set(sides))} patches; only ViTDet with both kinds is supported"
        )
    heads = arch.embed_dim // max(1, typical[-1])
    return {"relative_sides": sides, "final_norm": "none", "heads": heads}


def _not_square(name: str, count: int) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(
        f"{name} has {count} positions, which are not those of a square grid of patches; only "
        "networks for square images are supported"
    )


def build_vit(arch: ViTArch) -> nn.Module:
    """Return timm's network of this architecture, randomly initialized, without classifier.

    It takes images of all sizes that are multiples of the patch size, except ``Beit``.
    """
    from timm.layers import LayerNorm
    from timm.models.beit import Beit
    from timm.models.eva import Eva

    if arch.heads < 1 or arch.embed_dim % arch.heads:
        raise UnsupportedArchitectureError(
            f"a width of {arch.embed_dim} cannot be divided into {arch.heads} heads"
        )
    common: dict[str, Any] = {
        "img_size": arch.image_size,
        "patch_size": arch.patch_size,
        "num_classes": 0,
        "embed_dim": arch.embed_dim,
        "depth": arch.depth,
        "num_heads": arch.heads,
        "qkv_bias": arch.qkv_bias,
        "init_values": 1e-5 if arch.layer_scale else None,
        "norm_layer": partial(LayerNorm, eps=arch.norm_eps),
        "global_pool": "map" if arch.attention_pool else "",
    }
    # timm truncates the product of width and ratio
    ratio = (arch.mlp_dim + 0.5) / arch.embed_dim
    if arch.implementation == "Beit":
        return Beit(
            **common,
            mlp_ratio=ratio,
            swiglu_mlp=arch.mlp == "swiglu",
            scale_mlp=arch.scale_mlp,
            use_abs_pos_emb=arch.positions != "none",
            use_rel_pos_bias=arch.relative_bias == "per_block",
            use_shared_rel_pos_bias=arch.relative_bias == "shared",
            use_fc_norm=arch.final_norm == "fc_norm",
        )
    if arch.implementation == "Eva":
        return Eva(
            **common,
            mlp_ratio=ratio,
            swiglu_mlp=arch.mlp != "mlp",
            swiglu_align_to=1 if arch.mlp == "swiglu" else 0,
            scale_mlp=arch.scale_mlp,
            scale_attn_inner=arch.scale_attention,
            qkv_fused=arch.qkv == "fused",
            qk_norm=arch.qk_norm,
            class_token=arch.class_token,
            num_reg_tokens=arch.registers,
            no_embed_class=arch.positions == "patches",
            use_abs_pos_emb=arch.positions != "none",
            use_pre_transformer_norm=arch.pre_norm,
            use_post_transformer_norm=arch.final_norm == "norm",
            use_fc_norm=arch.final_norm == "fc_norm",
            dynamic_img_size=True,
            **_rotary_positions(arch),
        )
    if arch.implementation == "ViTDet":
        return _vitdet()(arch, **common, mlp_ratio=ratio, **_mlp_layer(arch))
    return _vision_transformer()(
        **common,
        interpolation=arch.interpolation,
        mlp_ratio=ratio if arch.mlp == "mlp" else (2 * arch.mlp_dim + 0.5) / arch.embed_dim,
        qk_norm=arch.qk_norm,
        scale_mlp_norm=arch.scale_mlp,
        scale_attn_norm=arch.scale_attention,
        class_token=arch.class_token,
        reg_tokens=arch.registers,
        no_embed_class=arch.positions == "patches",
        pos_embed="none" if arch.positions == "none" else "learn",
        pre_norm=arch.pre_norm,
        fc_norm=arch.final_norm == "fc_norm",
        dynamic_img_size=True,
        **_mlp_layer(arch),
    )


def _rotary_positions(arch: ViTArch) -> dict[str, Any]:
    """Return timm's options of rotary position embedding, which has no tensors."""
    if arch.positions == "none":  # DINOv3
        return {
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_temperature": 100,
            "rope_rotate_half": True,
        }
    # EVA-02, not EVA-01: frequencies of the 16x16 patches of its pretraining
    return {"use_rot_pos_emb": arch.mlp != "mlp", "ref_feat_shape": (16, 16)}


def _mlp_layer(arch: ViTArch) -> dict[str, Any]:
    from timm.layers import QuickGELU, SwiGLUPacked, get_act_layer
    from torch import nn

    if arch.mlp == "swiglu_packed":
        return {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    layers = {"gelu": nn.GELU, "gelu_tanh": get_act_layer("gelu_tanh"), "quick_gelu": QuickGELU}
    if arch.activation not in layers:
        raise UnsupportedArchitectureError(
            f"expected an activation of {', '.join(layers)}, found {escape(arch.activation)}"
        )
    return {"act_layer": layers[arch.activation]}


@lru_cache(maxsize=1)
def _vision_transformer() -> Callable[..., nn.Module]:
    """Return timm's class with the interpolation of position embeddings as an option."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    class InterpolatedViT(VisionTransformer):
        def __init__(self, interpolation: str, **options: Any):
            super().__init__(**options)
            self.interpolation = interpolation

        def _pos_embed(self, x: Tensor) -> Tensor:
            """Add tokens and positions to patches (batch, rows, columns, width)."""
            batch, rows, columns, width = x.shape
            prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
            tokens = [token.expand(batch, -1, -1) for token in prefix]
            patches = x.reshape(batch, -1, width)
            if self.pos_embed is None:
                return torch.cat([*tokens, patches], dim=1)
            count = 0 if self.no_embed_class else self.num_prefix_tokens
            positions = interpolate_positions(
                self.pos_embed[:, count:], (rows, columns), self.interpolation
            )
            if self.no_embed_class:
                return torch.cat([*tokens, patches + positions], dim=1)
            return torch.cat([*tokens, patches], dim=1) + torch.cat(
                [self.pos_embed[:, :count], positions], dim=1
            )

    return InterpolatedViT


@lru_cache(maxsize=1)
def _vitdet() -> Callable[..., nn.Module]:
    """Return timm's class with Detectron2's position embeddings, without its neck and head.

    Its blocks compute what those of Detectron2's ``vit.py`` do.
    """
    import torch
    from timm.models.vision_transformer_sam import VisionTransformerSAM
    from torch import nn

    class ViTDet(VisionTransformerSAM):
        num_prefix_tokens = 0

        def __init__(self, arch: ViTArch, **options: Any):
            window, image = sorted(set(arch.relative_sides))
            options["img_size"] = image * arch.patch_size
            super().__init__(
                **options,
                use_abs_pos=False,
                use_rel_pos=True,
                window_size=window,
                global_attn_indexes=[n for n, s in enumerate(arch.relative_sides) if s == image],
                neck_chans=0,
            )
            self.pos_embed = nn.Parameter(torch.zeros(1, arch.grid**2, arch.embed_dim))
            self.neck = self.head = self.fc_norm = nn.Identity()

        def forward_intermediates(self, x: Tensor, indices: int, **options: Any) -> list[Tensor]:
            """Return the maps of the last blocks (batch, width, rows, columns)."""
            x = self.patch_embed(x)  # (batch, rows, columns, width)
            grid = (x.shape[1], x.shape[2])
            x = x + interpolate_positions(self.pos_embed, grid, "plain").unflatten(1, grid)
            maps = []
            for block in self.blocks:
                x = block(x)
                maps.append(x.permute(0, 3, 1, 2))
            return maps[-indices:]

    return ViTDet


def interpolate_positions(positions: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """Interpolate the position embeddings of a square grid, bicubically.

    Args:
        positions: (1, grid * grid, width).
        size: rows and columns of the new grid.
        method: one of ``INTERPOLATIONS``. DINO's ``"offset"`` (``interpolate_pos_encoding`` of
            its vision_transformer.py) scales by (size + 0.1) / grid.

    Returns:
        (1, rows * columns, width); the same tensor if the grid is unchanged.
    """
    from torch.nn import functional as F

    grid = math.isqrt(positions.shape[1])
    if size == (grid, grid):
        return positions
    maps = positions.float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    if method == "offset":
        scale = tuple((n + 0.1) / grid for n in size)
        maps = F.interpolate(maps, scale_factor=scale, mode="bicubic")
        assert maps.shape[-2:] == size
    else:
        maps = F.interpolate(maps, size=size, mode="bicubic", antialias=method == "antialias")
    return maps.flatten(2).transpose(1, 2).to(positions.dtype)


def last_blocks(network: Any, images: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return the normalized tokens of the last blocks.

    Returns:
        Per block, patch tokens (batch, width, rows, columns) and the class token (batch, width),
        or the mean of the patch tokens where there is none.
    """
    prefix = network.num_prefix_tokens
    found = network.forward_intermediates(
        images,
        indices=count,
        norm=True,
        return_prefix_tokens=prefix > 0,
        intermediates_only=True,
    )
    if not prefix:
        return [(patches, patches.mean(dim=(2, 3))) for patches in found]
    return [(patches, tokens[:, 0]) for patches, tokens in found]


register_family(ViTFamily())
