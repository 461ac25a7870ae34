"""Vision transformers that other tools load wrongly without an error.

Each is either loaded as its project computes it, or refused. References are timm's networks, or
formulas of the projects; ``vit_files`` writes them as the projects do.
"""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.backbones.vit_files import CASES, GRID, HEADS, SIZE, WIDTH, build, prefixed
from tests.errors import raises_code
from virtex.backbones.registry import get_family
from virtex.checkpoints import build_network, load_backbone

CLIP_MEAN, SAT_MEAN = (0.48145466, 0.4578275, 0.40821073), (0.430, 0.411, 0.296)
IMAGENET_MEAN = (0.485, 0.456, 0.406)


def save(folder, content):
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


def write(name, folder, **options):
    """Return the reference network of a case and its file."""
    network = CASES[name].network(**options)
    return network, save(folder, CASES[name].write(network.state_dict()))


def images(size=SIZE):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def tokens_of(network, pixels):
    """Patch tokens (batch, width, patches) of timm's network."""
    return network.forward_features(pixels)[:, network.num_prefix_tokens :].mT


@torch.inference_mode()
def features_of(backbone, pixels):
    (found,) = get_family(backbone.arch).features(build_network(backbone).eval(), pixels).values()
    return found.flatten(2)


def is_close(found, expected):
    return bool((found - expected).abs().max() < 1e-4 * expected.abs().max())


def test_registers_are_never_ignored(tmp_path):
    network, path = write("dinov2_reg", tmp_path)
    backbone = load_backbone(path)
    assert backbone.arch.registers == 4
    assert is_close(features_of(backbone, images()), tokens_of(network, images()))
    without = dict(backbone.state_dict)
    del without["reg_token"]
    with pytest.raises(RuntimeError):
        build_network(backbone).load_state_dict(without)
    with raises_code("checkpoint.unknown_format"):
        load_backbone(path, "dinov2")  # without registers
    for name in ("dino_vit", "timm_vit"):
        assert load_backbone(path, name).arch.registers == 4


def test_layer_scale_is_applied(tmp_path):
    network, path = write("dinov2", tmp_path)
    backbone = load_backbone(path)
    expected = tokens_of(network, images())
    assert is_close(features_of(backbone, images()), expected)
    for block in network.blocks:
        block.ls1 = block.ls2 = torch.nn.Identity()
    assert not is_close(tokens_of(network, images()), expected)


def test_moco_v3_has_12_heads_in_every_size(tmp_path):
    network, path = write("moco_v3", tmp_path)
    backbone = load_backbone(path)
    assert backbone.arch.heads == 12
    expected = tokens_of(network, images())
    assert is_close(features_of(backbone, images()), expected)
    for block in network.blocks:
        block.attn.num_heads, block.attn.head_dim = HEADS, WIDTH // HEADS
        block.attn.scale = block.attn.head_dim**-0.5
    assert not is_close(tokens_of(network, images()), expected)


def interpolate(positions, side, **options):
    """The patches' positions (1, N, D) of a square grid, bicubically for another."""
    maps = positions.reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, mode="bicubic", **options)
    assert maps.shape[-2:] == (side, side)
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg", "hf_dinov2", "hf_dinov2_reg"])
def test_positions_are_interpolated_as_the_project_does(name, tmp_path):
    """DINO and DINOv2 scale by (size + 0.1) / grid, DINOv2 with registers and others by size."""
    side = GRID + 3
    network, path = write(name, tmp_path)
    pixels = images(16 * side)
    found = features_of(load_backbone(path), pixels)
    options = {
        "dinov2": {"scale_factor": (side + 0.1) / GRID},
        "dinov2_reg": {"size": (side, side), "antialias": True},
        "hf_dinov2": {"size": (side, side)},
    }
    expected = {}
    before = 0 if network.no_embed_class else 1
    for method, how in options.items():
        resized = network.__class__(
            **{
                "img_size": 16 * side,
                "patch_size": 16,
                "embed_dim": WIDTH,
                "depth": 2,
                "num_heads": HEADS,
                "num_classes": 0,
                "init_values": 1.0,
                "reg_tokens": network.num_prefix_tokens - 1,
                "no_embed_class": network.no_embed_class,
            }
        ).eval()
        positions = torch.cat(
            [
                network.pos_embed[:, :before],
                interpolate(network.pos_embed[:, before:], side, **how),
            ],
            dim=1,
        )
        resized.load_state_dict(network.state_dict() | {"pos_embed": positions.detach()})
        expected[method] = tokens_of(resized, pixels)
    name = name.replace("hf_dinov2_reg", "dinov2_reg")  # both with antialiasing
    assert is_close(found, expected[name])
    others = [method for method in ("dinov2", "hf_dinov2") if method != name]
    assert not any(is_close(found, expected[method]) for method in others)


@pytest.mark.parametrize("fill", [math.nan, 7.0])
def test_mask_of_dinov3s_key_bias(fill, tmp_path):
    """The project fills ``bias_mask`` with NaN at first; with it, key biases are 0."""
    network, _ = write("dinov3", tmp_path)
    content = CASES["dinov3"].write(network.state_dict())
    masks = [name for name in content if name.endswith(".bias_mask")]
    for name in content:
        if name.endswith(".attn.qkv.bias"):
            content[name] = content[name].clone()
            content[name][WIDTH : 2 * WIDTH] = fill
            content[f"{name}_mask"] = torch.full((3 * WIDTH,), math.nan)
    assert masks, "the writer of DINOv3's files has no masks"
    backbone = load_backbone(save(tmp_path, content))
    assert is_close(features_of(backbone, images()), tokens_of(network, images()))


@pytest.mark.parametrize("name", ["dinov2_giant", "dinov3_plus", "hf_dinov3_plus", "eva02_base"])
def test_gate_of_swiglu(name, tmp_path):
    """The gate is the first half of DINOv2's w12, DINOv3's w1, Hugging Face's gate_proj."""
    network, path = write(name, tmp_path)
    pixels = images(56 if name.startswith("eva") else SIZE)
    found = features_of(load_backbone(path, CASES[name].format), pixels)
    assert is_close(found, tokens_of(network, pixels))
    with torch.no_grad():
        for block in network.blocks:  # exchange gate and value
            if hasattr(block.mlp, "fc1_g"):
                block.mlp.fc1_g, block.mlp.fc1_x = block.mlp.fc1_x, block.mlp.fc1_g
            else:
                for tensor in block.mlp.fc1.parameters():
                    tensor.copy_(tensor.roll(len(tensor) // 2, 0))
    assert not is_close(found, tokens_of(network, pixels))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("clip", CLIP_MEAN),
        ("eva02_tiny", CLIP_MEAN),
        ("hf_siglip", (0.5,) * 3),
        ("dinov3", IMAGENET_MEAN),
        ("dinov3_sat", SAT_MEAN),
        ("mae", IMAGENET_MEAN),
        ("beit", (0.5,) * 3),
        ("beit_v2", IMAGENET_MEAN),
    ],
)
def test_normalization_is_the_methods(name, mean, tmp_path):
    case = CASES[name]
    backbone = load_backbone(write(name, tmp_path)[1], case.format if case.explicit else "auto")
    assert backbone.input.mean == pytest.approx(mean)


def test_normalization_that_the_names_do_not_show_is_asked_for(tmp_path):
    with raises_code("checkpoint.input_not_stated"):
        load_backbone(save(tmp_path, build().state_dict()))


@pytest.mark.parametrize("count", [1, 2, 15, 20, 200])
def test_positions_of_an_impossible_grid(count, tmp_path):
    tensors = {"model": build().state_dict() | {"pos_embed": torch.zeros(1, count, WIDTH)}}
    with raises_code("checkpoint.unsupported_architecture", "pos_embed"):
        load_backbone(save(tmp_path, tensors), "deit")


def test_convolutional_stem(tmp_path):
    """MoCo v3's ViT with a stem of five convolutions, depth 11."""
    tensors = build().state_dict()
    del tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    for n, (outputs, inputs) in enumerate(((24, 3), (48, 24), (96, 48), (192, 96))):
        tensors[f"patch_embed.proj.{3 * n}.weight"] = torch.ones(outputs, inputs, 3, 3)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"patch_embed.proj.{3 * n + 1}.{leaf}"] = torch.ones(outputs)
    tensors["patch_embed.proj.12.weight"] = torch.ones(WIDTH, 192, 1, 1)
    tensors["patch_embed.proj.12.bias"] = torch.ones(WIDTH)
    content = {"state_dict": prefixed("module.base_encoder.", tensors), "arch": "vit_conv_small"}
    with raises_code("checkpoint.unsupported_architecture", "convolutional stem"):
        load_backbone(save(tmp_path, content))


def test_distilled_deit(tmp_path):
    """Its second token has a position, and its classification averages two heads."""
    tensors = build().state_dict() | {
        "dist_token": torch.ones(1, 1, WIDTH),
        "pos_embed": torch.ones(1, 2 + GRID**2, WIDTH),
        "head_dist.weight": torch.ones(10, WIDTH),
        "head_dist.bias": torch.ones(10),
    }
    for name in ("auto", "deit"):
        with raises_code("checkpoint.unsupported_architecture", "dist_token"):
            load_backbone(save(tmp_path, {"model": tensors}), name)


# Files that are not a network's weights ------------------------------------------------------


def test_decoder_without_encoder(tmp_path):
    content = CASES["mae"].write(build().state_dict())["model"]
    decoder = {k: v for k, v in content.items() if k.startswith(("decoder", "mask_token"))}
    for name, tensor in build().state_dict().items():
        if name.startswith("blocks."):
            decoder[f"decoder_{name}"] = tensor
    with raises_code("checkpoint.unsupported_architecture", "decoder"):
        load_backbone(save(tmp_path, {"model": decoder}))


# what the message names -> tensors
OTHER_NETWORKS = {
    "text encoder": (
        "transformer.resblocks.0.attn.in_proj_weight",
        *("token_embedding.weight", "positional_embedding", "ln_final.weight"),
    ),
    "SigLIP": (
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
    "BERT": (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
    ),
    "MViT": (
        "backbone.bottom_up.patch_embed.proj.weight",
        *("backbone.bottom_up.blocks.0.attn.pool_q.weight", "backbone.bottom_up.scale2_norm.bias"),
    ),
    "without patch embedding": ("blocks.0.attn.qkv.weight", "blocks.0.norm1.weight"),
}


@pytest.mark.parametrize("kind", OTHER_NETWORKS)
def test_networks_that_are_not_image_encoders(kind, tmp_path):
    tensors = {name: torch.ones(4, 4) for name in OTHER_NETWORKS[kind]}
    with raises_code("checkpoint.unsupported_architecture", kind):
        load_backbone(save(tmp_path, tensors))


def test_adapter_of_peft(tmp_path):
    query = "base_model.model.encoder.layer.0.attention.attention.query"
    path = tmp_path / "adapter_model.safetensors"
    save_file(
        {f"{query}.lora_A.weight": torch.ones(4, 8), f"{query}.lora_B.weight": torch.ones(8, 4)},
        path,
    )
    with raises_code("checkpoint.adapter", path, "merge_and_unload"):
        load_backbone(path)


def test_network_with_an_adapter(tmp_path):
    """Before it is merged, the network without it has complete names and other results."""
    adapter = {"blocks.0.attn.qkv.lora_A": torch.ones(4, WIDTH)}
    for name in ("auto", "dino_vit"):
        with raises_code("checkpoint.adapter", "blocks.0.attn.qkv.lora_A"):
            load_backbone(save(tmp_path, build().state_dict() | adapter), name)


@pytest.mark.parametrize(
    ("weight", "beside"),
    [
        (torch.int8, ("weight_scale",)),  # compressed-tensors
        (torch.float8_e4m3fn, ("weight_scale_inv",)),
        (torch.int8, ("SCB", "weight_format")),  # bitsandbytes, 8 and 4 bits
        (
            torch.uint8,
            ("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
        ),
        (None, ("qweight", "qzeros", "scales", "g_idx")),  # GPTQ
    ],
    ids=["int8", "float8", "bitsandbytes8", "bitsandbytes4", "gptq"],
)
def test_quantized_weights(weight, beside, tmp_path):
    tensors, layer = build().state_dict(), "blocks.0.attn.qkv"
    original = tensors.pop(f"{layer}.weight")
    if weight is not None:
        tensors[f"{layer}.weight"] = original.to(weight)
    tensors |= {f"{layer}.{name}": torch.ones(4) for name in beside}
    with raises_code("checkpoint.quantized", layer):
        load_backbone(save(tmp_path, tensors), "dino_vit")


def test_quantized_weights_without_scales(tmp_path):
    tensors = {
        name: tensor.to(torch.float8_e4m3fn) for name, tensor in build().state_dict().items()
    }
    with raises_code("checkpoint.quantized"):
        load_backbone(save(tmp_path, tensors), "dino_vit")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_and_noted(dtype, tmp_path):
    tensors = {name: tensor.to(dtype) for name, tensor in build().state_dict().items()}
    backbone = load_backbone(save(tmp_path, tensors), "dino_vit")
    for name, tensor in backbone.state_dict.items():
        assert torch.equal(tensor, tensors[name].float()), name
    assert any(str(dtype).removeprefix("torch.") in note for note in backbone.source.notes)


# TorchScript archives of OpenAI's CLIP -------------------------------------------------------


class Mlp(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.c_proj = (
            torch.nn.Linear(width, 4 * width),
            torch.nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resblocks = torch.nn.Sequential(Block(width), Block(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x)


class Visual(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, 16, 16, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.randn(width))
        self.positional_embedding = torch.nn.Parameter(torch.randn(1 + GRID**2, width))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.transformer = Transformer(width)
        self.proj = torch.nn.Parameter(torch.randn(width, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x)


class Clip(torch.nn.Module):
    """The image tower of openai/CLIP, with the numbers that its archive has as tensors."""

    def __init__(self, width=128):
        super().__init__()
        self.visual = Visual(width)
        self.token_embedding = torch.nn.Embedding(9, 8)
        self.logit_scale = torch.nn.Parameter(torch.ones(()))
        for name, value in (("input_resolution", SIZE), ("context_length", 77), ("vocab_size", 9)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_archive_of_clip(tmp_path):
    torch.manual_seed(0)
    network, path = Clip().half(), tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.script(network), path)
    extracted = save(tmp_path, torch.jit.load(path).state_dict())
    with torch.inference_mode():
        expected = network.float().eval()(images())[:, 1:].mT
    for file in (path, extracted):
        backbone = load_backbone(file)
        assert (backbone.source.format, backbone.arch.heads) == ("clip", 2)
        assert any("float16" in note for note in backbone.source.notes)
        assert is_close(features_of(backbone, images()), expected)
    content = torch.load(extracted)
    del content["visual.transformer.resblocks.1.ln_2.weight"]
    with raises_code("checkpoint.incomplete", "blocks.1.norm2.weight"):
        load_backbone(save(tmp_path, content))


def test_sharded_network(tmp_path):
    """Hugging Face's network in two files, with its config beside the index."""
    case = CASES["hf_dinov2"]
    network = case.network()
    tensors = {name: t.contiguous() for name, t in case.write(network.state_dict()).items()}
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    parts = dict(zip(names, np.array_split(sorted(tensors), 2), strict=True))
    for name, keys in parts.items():
        save_file({str(key): tensors[str(key)] for key in keys}, tmp_path / name)
    index = {"weight_map": {str(key): name for name, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    backbone = load_backbone(tmp_path)
    assert backbone.source.path == str(tmp_path / "model.safetensors.index.json")
    assert any("config.json" in note for note in backbone.source.notes)
    assert is_close(features_of(backbone, images()), tokens_of(network, images()))
