"""Vision transformers as their projects build and save them: small reference networks and files."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import LayerNorm, QuickGELU, get_act_layer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

WIDTH, HEADS, PATCH, GRID = 192, 3, 16, 4
SIZE = PATCH * GRID
Tensors = dict[str, torch.Tensor]


def randomize(network):
    """Give every parameter random values, norms and LayerScale as well; return the network."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            shift = 0.5 if parameter.ndim == 1 else 0.0
            parameter.copy_(shift + 0.1 * torch.randn_like(parameter))
    return network.eval()


def build(kind=VisionTransformer, eps=1e-6, **options):
    """Return a network of 2 blocks for images of 64 x 64 pixels."""
    defaults = {
        "img_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": HEADS,
        "num_classes": 0,
        "global_pool": "",
        "norm_layer": partial(LayerNorm, eps=eps),
    }
    return randomize(kind(**defaults | options))


def renamed(tensors: Tensors, *rules: tuple[str, str]) -> Tensors:
    """Apply all regular expressions to every name, in order."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def split_qkv(tensors: Tensors, query: str, key: str, value: str, key_bias: bool = True) -> Tensors:
    """Replace fused projections by three, named by patterns with the name before ``attn`` as {}."""
    result = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(blocks\.\d+)\.attn\.qkv\.(weight|bias)", name)
        if not match:
            result[name] = tensor
            continue
        block, kind = match.groups()
        for pattern, part in zip((query, key, value), tensor.chunk(3), strict=True):
            if key_bias or kind == "weight" or pattern != key:
                result[f"{pattern.format(block)}.{kind}"] = part.clone()
    return result


def extra(*names: str) -> Tensors:
    return {name: torch.zeros(3) for name in names}


# Containers and names -----------------------------------------------------------------------------


def mae(tensors):
    decoder = extra("decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_norm.bias")
    return {"model": {**tensors, **decoder, "mask_token": torch.zeros(1, 1, 512)}, "epoch": 1}


def mae_finetuned(tensors):
    return {"model": tensors | extra("head.weight", "head.bias"), "epoch": 1}


def dino_training(tensors):
    head = extra("head.mlp.0.weight", "head.last_layer.weight_g")
    teacher = prefixed("backbone.", tensors) | head
    student = prefixed("module.backbone.", {k: v + 1 for k, v in tensors.items()})
    return {"student": student, "teacher": teacher, "epoch": 1, "dino_loss": extra("center")}


def ibot_training(tensors):
    content = dino_training(renamed(tensors, (r"\.ls(\d)\.gamma", r".gamma_\1")))
    content["teacher"]["backbone.masked_embed"] = torch.zeros(1, WIDTH)
    return content


def dinov2(tensors):
    return {**tensors, "mask_token": torch.zeros(1, WIDTH)}


def dinov2_giant(tensors):
    """SwiGLU: fc1 is w12."""
    return dinov2(renamed(tensors, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")))


def dinov2_registers(tensors):
    """The class token and its position are separate; timm stores their sum."""
    tensors = dict(tensors)
    position = torch.full_like(tensors["cls_token"], 0.25)
    tensors["cls_token"] = tensors["cls_token"] - position
    tensors["pos_embed"] = torch.cat([position, tensors["pos_embed"]], dim=1)
    tensors["register_tokens"] = tensors.pop("reg_token")
    return dinov2(tensors)


def dinov2_training(tensors):
    """Blocks in chunks, with global numbers; the heads beside."""
    chunked = renamed(dinov2(tensors), (r"^blocks\.(\d)\.", r"blocks.0.\1."))
    return {"teacher": prefixed("backbone.", chunked) | extra("dino_head.mlp.0.weight")}


def dinov3(tensors):
    """The bias of queries, keys and values is fused; a mask, NaN here, stands for that of keys."""
    tensors = dict(tensors)
    for n in range(2):
        q, v = (tensors.pop(f"blocks.{n}.attn.{part}_bias") for part in "qv")
        tensors[f"blocks.{n}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
        tensors[f"blocks.{n}.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), torch.nan)
    return dinov3_without_bias(tensors)


def dinov3_without_bias(tensors):
    rules = (
        (r"gamma_(\d)", r"ls\1.gamma"),
        (r"reg_token", "storage_tokens"),
        (r"mlp\.fc2(?=.*)", "mlp.fc2"),
    )
    if "blocks.0.mlp.fc1_g.weight" in tensors:
        rules += ((r"fc1_g", "w1"), (r"fc1_x", "w2"), (r"mlp\.fc2", "mlp.w3"))
    found = renamed(tensors, *rules)
    found["rope_embed.periods"] = torch.ones(16)
    return {**found, "mask_token": torch.zeros(1, WIDTH)}


def dinov3_untied(tensors):
    """ViT-7B, and ViT-L trained on SAT-493M: crops had a norm layer of their own."""
    has_bias = "blocks.0.attn.q_bias" in tensors
    found = dinov3(tensors) if has_bias else dinov3_without_bias(tensors)
    return found | extra("local_cls_norm.weight")


def moco_v3(tensors):
    encoder = prefixed("module.base_encoder.", tensors)
    others = extra("module.base_encoder.head.0.weight", "module.predictor.0.weight")
    momentum = prefixed("module.momentum_encoder.", {k: v + 1 for k, v in tensors.items()})
    return {"epoch": 1, "arch": "vit_small", "state_dict": encoder | momentum | others}


def deit3(tensors):
    names = renamed(tensors, (r"ls(\d)\.gamma", r"gamma_\1"))
    return {"model": names | extra("head.weight", "head.bias")}


def beit(tensors):
    buffers = {"rel_pos_bias.relative_position_index": torch.zeros(17, 17, dtype=torch.long)}
    names = {**tensors, "mask_token": torch.zeros(1, 1, WIDTH), **extra("lm_head.weight")}
    return {"model": names | buffers}


def beit_v2(tensors):
    return {"module": beit(tensors)["model"] | extra("cls_pt_layers.0.norm1.weight")}


def simmim(tensors):
    names = prefixed("encoder.", beit(tensors)["model"])
    return {"model": names | extra("decoder.0.weight", "decoder.0.bias")}


def eva(tensors):
    """EVA-02's SwiGLU in one tensor (Ti, S) or with a norm layer (B, L); rotary buffers."""
    tensors = renamed(
        tensors,
        (r"mlp\.norm", "mlp.ffn_ln"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"q_proj\.bias", "q_bias"),
        (r"v_proj\.bias", "v_bias"),
    )
    hidden = tensors.get("blocks.0.mlp.fc1.weight", torch.empty(0)).shape[0]
    if hidden != tensors["blocks.0.mlp.fc2.weight"].shape[1]:
        tensors = renamed(tensors, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
        tensors |= extra("rope.freqs_cos", "blocks.0.attn.rope.freqs_sin")
    return {"module": tensors | {"mask_token": torch.zeros(1, 1, WIDTH)}}


def eva_clip(tensors):
    tensors = renamed(eva(tensors)["module"], (r"attn\.norm", "attn.inner_attn_ln"))
    text = extra("text.token_embedding.weight", "logit_scale")
    return prefixed("visual.", tensors | extra("head.weight")) | text


_CLIP_RULES = (
    (r"^cls_token", "class_embedding"),
    (r"^pos_embed", "positional_embedding"),
    (r"^patch_embed\.proj", "conv1"),
    (r"^norm_pre", "ln_pre"),
    (r"^norm\.", "ln_post."),
    (r"^blocks\.", "transformer.resblocks."),
    (r"\.norm(\d)", r".ln_\1"),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def open_clip(tensors):
    found = renamed(tensors, *_CLIP_RULES)
    found["class_embedding"] = found["class_embedding"][0, 0]
    found["positional_embedding"] = found["positional_embedding"][0]
    text = extra("token_embedding.weight", "transformer.resblocks.0.ln_1.weight", "ln_final.weight")
    visual = prefixed("visual.", {**found, "proj": torch.zeros(WIDTH, 8)})
    return {"state_dict": prefixed("module.", visual | text | extra("logit_scale"))}


def clip(tensors):
    content = open_clip(tensors)["state_dict"]
    scalars = {k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}
    return {k.removeprefix("module."): v for k, v in content.items()} | scalars


def open_clip_timm(tensors):
    text = extra("text.transformer.resblocks.0.ln_1.weight", "visual.head.proj.weight")
    return prefixed("visual.trunk.", tensors) | text


def ijepa(tensors):
    target = {k: v + 1 for k, v in tensors.items()}
    return {
        "encoder": prefixed("module.", target),
        "predictor": prefixed("module.", extra("predictor_norm.weight")),
        "target_encoder": prefixed("module.", tensors),
        "epoch": 1,
    }


def torchvision_vit(tensors):
    return tensors | extra("heads.head.weight", "heads.head.bias")


_HF_RULES = (
    (r"^cls_token", "embeddings.cls_token"),
    (r"^reg_token", "embeddings.register_tokens"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
    (r"^fc_norm\.", "pooler.layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"attn\.proj", "attention.output.dense"),
)
_HF_QKV = tuple(f"{{}}.attention.attention.{part}" for part in ("query", "key", "value"))


def _hf_blocks(tensors):
    return renamed(
        split_qkv(tensors, *_HF_QKV),
        *_HF_RULES,
    )


def hf_vit(tensors):
    found = renamed(
        _hf_blocks(tensors),
        (r"\.norm1", ".layernorm_before"),
        (r"\.norm2", ".layernorm_after"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    )
    return prefixed("vit.", found | extra("pooler.dense.weight"))


def hf_dinov2(tensors):
    found = renamed(_hf_blocks(tensors), (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"))
    return {**found, "embeddings.mask_token": torch.zeros(1, WIDTH)}


def hf_dinov2_registers(tensors):
    original = dinov2_registers(tensors)
    original.pop("mask_token")
    return prefixed(
        "dinov2_with_registers.", hf_dinov2(renamed(original, ("register_tokens", "reg_token")))
    )


def hf_dinov3(tensors):
    tensors = renamed(
        split_qkv(tensors, *(f"{{}}.attention.{part}_proj" for part in "qkv")),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"^blocks\.", "layer."),
        (r"attn\.([qv])_bias", r"attention.\1_proj.bias"),
        (r"attn\.proj", "attention.o_proj"),
        (r"gamma_(\d)", r"layer_scale\1.lambda1"),
        (r"mlp\.fc1_g", "mlp.gate_proj"),
        (r"mlp\.fc1_x|mlp\.fc1", "mlp.up_proj"),
        (r"mlp\.fc2", "mlp.down_proj"),
        (r"^cls_token", "embeddings.cls_token"),
        (r"^reg_token", "embeddings.register_tokens"),
    )
    return {**tensors, "embeddings.mask_token": torch.zeros(1, 1, WIDTH)}


def hf_beit(tensors):
    found = renamed(
        split_qkv(tensors, *_HF_QKV),
        (r"attn\.([qv])_bias", lambda m: f"attention.attention.{_HF_NAMES[m[1]]}.bias"),
        (r"^rel_pos_bias", "encoder.relative_position_bias"),
        (r"attn\.(relative_position_bias_table)", r"attention.attention.relative_position_bias.\1"),
        *_HF_RULES,
        (r"\.norm1", ".layernorm_before"),
        (r"\.norm2", ".layernorm_after"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
        (r"gamma_(\d)", r"lambda_\1"),
    )
    return prefixed("beit.", found)


_HF_NAMES = {"q": "query", "v": "value"}


def _hf_towers(tensors):
    return renamed(
        split_qkv(tensors, *(f"{{}}.self_attn.{part}_proj" for part in "qkv")),
        (r"^cls_token", "embeddings.class_embedding"),
        (r"^pos_embed", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj", "embeddings.patch_embedding"),
        (r"^norm_pre", "pre_layrnorm"),
        (r"^norm\.", "post_layernorm."),
        (r"^blocks\.", "encoder.layers."),
        (r"layers\.(\d)\.norm(\d)", r"layers.\1.layer_norm\2"),
        (r"layers\.(\d)\.attn\.proj", r"layers.\1.self_attn.out_proj"),
    )


def hf_clip(tensors):
    found = _hf_towers(tensors)
    found["embeddings.class_embedding"] = found["embeddings.class_embedding"][0, 0]
    found["embeddings.position_embedding.weight"] = found["embeddings.position_embedding.weight"][0]
    found["embeddings.position_ids"] = torch.arange(17)[None]
    text = extra("text_model.encoder.layers.0.mlp.fc1.weight", "visual_projection.weight")
    return prefixed("vision_model.", found) | text


def hf_siglip(tensors):
    tensors = dict(tensors)
    for kind in ("weight", "bias"):
        parts = [tensors.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        tensors[f"head.attention.in_proj_{kind}"] = torch.cat(parts)
    found = renamed(
        _hf_towers(tensors),
        (r"attn_pool\.latent", "head.probe"),
        (r"attn_pool\.norm", "head.layernorm"),
        (r"attn_pool\.proj", "head.attention.out_proj"),
        (r"attn_pool\.mlp", "head.mlp"),
    )
    found["embeddings.position_embedding.weight"] = found["embeddings.position_embedding.weight"][0]
    return prefixed("vision_model.", found)


def mmpretrain(tensors):
    found = renamed(
        tensors,
        (r"^norm\.", "ln1."),
        (r"^patch_embed\.proj", "patch_embed.projection"),
        (r"^norm_pre", "pre_norm"),
        (r"^blocks\.", "layers."),
        (r"\.norm(\d)", r".ln\1"),
        (r"\.ls1\.gamma", ".attn.gamma1.weight"),
        (r"\.ls2\.gamma", ".ffn.gamma2.weight"),
        (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"),
    )
    return {"meta": {}, "state_dict": prefixed("backbone.", found) | extra("head.fc.weight")}


def flat(tensors):
    return dict(tensors)


def in_model(tensors):
    return {"model": dict(tensors)}


# References ---------------------------------------------------------------------------------------


def registers(**options):
    return build(reg_tokens=4, no_embed_class=True, init_values=1.0, **options)


def dinov3_network(**options):
    defaults: dict[str, Any] = {
        "qkv_bias": True,
        "init_values": 1.0,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "use_fc_norm": False,
    }
    return build(Eva, eps=1e-5, **defaults | options)


def beit_network(**options):
    defaults = {"init_values": 1.0, "use_abs_pos_emb": False, "use_shared_rel_pos_bias": True}
    return build(Beit, **defaults | options)


def eva_network(name, **options):
    defaults = {"depth": 2, "img_size": 56, "num_classes": 0, "embed_dim": WIDTH, "num_heads": 3}
    network = timm.create_model(name, global_pool="token", **defaults | options)
    return randomize(network)


def siglip_network(**options):
    return build(class_token=False, global_pool="map", **options)


def torchvision_network():
    from torchvision.models import VisionTransformer as TorchvisionViT

    return randomize(TorchvisionViT(SIZE, PATCH, 2, HEADS, WIDTH, 4 * WIDTH))


@dataclass(frozen=True)
class Case:
    """A file of a project.

    Attributes:
        format: the row that must read it.
        network: builds the reference network.
        write: state_dict of the reference -> content of the file.
        explicit: whether ``--format`` is needed.
        fields: expected fields of the architecture.
    """

    format: str
    network: Callable[[], Any]
    write: Callable[[Tensors], Any]
    explicit: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


CLIP_OPTIONS = {"pre_norm": True, "eps": 1e-5}
CASES = {
    "mae": Case("mae", build, mae, fields={"interpolation": "plain"}),
    "mae_encoder": Case("mae", build, in_model, explicit=True),
    "mae_finetuned": Case(
        "mae",
        partial(build, global_pool="avg", fc_norm=True),
        mae_finetuned,
        explicit=True,
        fields={"final_norm": "fc_norm"},
    ),
    "dino": Case("dino", build, dino_training, fields={"interpolation": "offset"}),
    "dino_student": Case("dino_student", build, lambda t: _swap(dino_training(t)), explicit=True),
    "dino_hub": Case("dino_vit", build, flat, explicit=True, fields={"heads": 3}),
    "ibot": Case("dino", partial(build, init_values=1.0), ibot_training),
    "dinov2": Case(
        "dinov2", partial(build, init_values=1.0), dinov2, fields={"interpolation": "offset"}
    ),
    "dinov2_training": Case("dinov2", partial(build, init_values=1.0), dinov2_training),
    "dinov2_giant": Case(
        "dinov2",
        partial(
            build, init_values=1.0, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU
        ),
        dinov2_giant,
        fields={"mlp": "swiglu_packed"},
    ),
    "dinov2_reg": Case(
        "dinov2_reg", registers, dinov2_registers, fields={"interpolation": "antialias"}
    ),
    "dinov3": Case("dinov3", dinov3_network, dinov3, fields={"norm_eps": 1e-5, "registers": 4}),
    "dinov3_plus": Case(
        "dinov3",
        partial(dinov3_network, swiglu_mlp=True, swiglu_align_to=8),
        dinov3,
        fields={"mlp": "swiglu"},
    ),
    "dinov3_7b": Case(
        "dinov3",
        partial(dinov3_network, swiglu_mlp=True, swiglu_align_to=64, mlp_ratio=2, qkv_bias=False),
        dinov3_untied,
        explicit=True,
        fields={"qkv_bias": False},
    ),
    "dinov3_sat": Case("dinov3_sat", dinov3_network, dinov3_untied, explicit=True),
    "timm_dinov3": Case("timm_dinov3", dinov3_network, flat, explicit=True),
    "moco_v3": Case("moco_v3", partial(build, num_heads=12), moco_v3, fields={"heads": 12}),
    "moco_v3_vit": Case(
        "moco_v3_vit", partial(build, num_heads=12), flat, explicit=True, fields={"heads": 12}
    ),
    "deit": Case("deit", build, lambda t: in_model(t | extra("head.weight")), explicit=True),
    "deit3": Case("deit3", partial(build, init_values=1.0, no_embed_class=True), deit3),
    "beit": Case("beit", beit_network, beit, explicit=True, fields={"heads": HEADS}),
    "beit_finetuned": Case(
        "beit_v2",
        partial(
            beit_network,
            use_shared_rel_pos_bias=False,
            use_rel_pos_bias=True,
            use_fc_norm=True,
        ),
        in_model,
        explicit=True,
        fields={"relative_bias": "per_block", "final_norm": "fc_norm"},
    ),
    "beit_v2": Case("beit_v2", beit_network, beit_v2),
    "simmim": Case("simmim_vit", beit_network, simmim),
    "eva01": Case("eva", partial(eva_network, "eva_giant_patch14_224", mlp_ratio=4), eva),
    "eva02_tiny": Case("eva", partial(eva_network, "eva02_tiny_patch14_224"), eva),
    "eva02_base": Case("eva", partial(eva_network, "eva02_base_patch14_224"), eva),
    "eva_clip": Case("eva_clip", partial(eva_network, "eva02_large_patch14_clip_224"), eva_clip),
    "clip": Case(
        "clip",
        partial(build, act_layer=QuickGELU, **CLIP_OPTIONS),
        clip,
        fields={"activation": "quick_gelu", "norm_eps": 1e-5},
    ),
    "open_clip": Case("open_clip", partial(build, **CLIP_OPTIONS), open_clip, explicit=True),
    "open_clip_timm": Case("open_clip_timm", siglip_network, open_clip_timm, explicit=True),
    "ijepa": Case("ijepa", partial(build, class_token=False), ijepa),
    "torchvision": Case("torchvision_vit", torchvision_network, torchvision_vit),
    "hf_vit": Case("hf_vit", partial(build, eps=1e-12), hf_vit, explicit=True),
    "hf_dinov2": Case("hf_dinov2", partial(build, init_values=1.0), hf_dinov2),
    "hf_dinov2_reg": Case(
        "hf_dinov2_reg", registers, hf_dinov2_registers, fields={"interpolation": "antialias"}
    ),
    "hf_dinov3": Case("hf_dinov3", dinov3_network, hf_dinov3, explicit=True),
    "hf_dinov3_plus": Case(
        "hf_dinov3",
        partial(dinov3_network, swiglu_mlp=True, swiglu_align_to=8),
        hf_dinov3,
        explicit=True,
    ),
    "hf_beit": Case("hf_beit", partial(beit_network, eps=1e-12), hf_beit, explicit=True),
    "hf_clip": Case(
        "hf_clip", partial(build, act_layer=QuickGELU, **CLIP_OPTIONS), hf_clip, explicit=True
    ),
    "hf_clip_gelu": Case("hf_clip_gelu", partial(build, **CLIP_OPTIONS), hf_clip, explicit=True),
    "hf_siglip": Case(
        "hf_siglip", partial(siglip_network, act_layer=get_act_layer("gelu_tanh")), hf_siglip
    ),
    "mmpretrain": Case("mmpretrain_vit", build, mmpretrain, explicit=True),
    "mmpretrain_half": Case("mmpretrain_vit_half", build, mmpretrain, explicit=True),
    "mmpretrain_moco_v3": Case(
        "mmpretrain_moco_v3_vit",
        partial(build, num_heads=12),
        mmpretrain,
        explicit=True,
        fields={"heads": 12},
    ),
    "timm": Case("timm_vit", partial(build, reg_tokens=2), flat, explicit=True),
    "timm_qk_norm": Case("timm_vit", partial(build, qk_norm=True), flat, explicit=True),
}


def _swap(content):
    """Exchange teacher and student: the student holds the reference's tensors."""
    student = prefixed("module.", {k: v for k, v in content["teacher"].items()})
    return content | {"student": student, "teacher": content["student"]}
