"""Vision transformers in numpy archives, as Google's projects write them (Flax)."""

import re

import numpy as np
import pytest
import torch
from timm.layers import get_act_layer
from timm.models.vision_transformer import VisionTransformer

from tests.errors import raises_code
from virtex.backbones.registry import expected_shapes, get_family
from virtex.checkpoints import build_network, load_backbone
from virtex.checkpoints.coverage import compute_coverage
from virtex.checkpoints.detect import detect_format

SIZE = 32  # pixels, a grid of 2x2 patches


def randomized(heads, **options):
    """A small network of timm with random tensors, its norm layers too."""
    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=SIZE,
        patch_size=16,
        embed_dim=48,
        depth=2,
        num_heads=heads,
        mlp_ratio=2,
        num_classes=0,
        act_layer=get_act_layer("gelu_tanh"),
        **options,
    )
    for tensor in network.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    return network.eval()


def dense(name, weight, bias):
    return {f"{name}/kernel": weight.T, f"{name}/bias": bias}


def norm(name, weight, bias):
    return {f"{name}/scale": weight, f"{name}/bias": bias}


def attention(name, heads, query, key, value, out):
    """Projections, each a weight (outputs, inputs) and a bias, in Flax's layout by heads."""
    arrays = {}
    for part, (weight, bias) in zip(("query", "key", "value"), (query, key, value), strict=True):
        width = len(weight)
        arrays[f"{name}/{part}/kernel"] = weight.T.reshape(width, heads, width // heads)
        arrays[f"{name}/{part}/bias"] = bias.reshape(heads, width // heads)
    weight, bias = out
    arrays[f"{name}/out/kernel"] = weight.T.reshape(heads, -1, len(weight))
    arrays[f"{name}/out/bias"] = bias
    return arrays


def flax_arrays(network, attention_name, second_norm, mlp_name):
    """The arrays of a network except position embeddings, in Flax's names and layouts."""
    sd = {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    def both(name):
        return sd[f"{name}.weight"], sd[f"{name}.bias"]

    arrays = {
        "embedding/kernel": sd["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": sd["patch_embed.proj.bias"],
        **norm("Transformer/encoder_norm", *both("norm")),
    }
    if "cls_token" in sd:
        arrays["cls"] = sd["cls_token"]
    for n, block in enumerate(network.blocks):
        old, new = f"blocks.{n}", f"Transformer/encoderblock_{n}"
        qkv = [np.split(tensor, 3) for tensor in both(f"{old}.attn.qkv")]
        heads = block.attn.num_heads
        arrays |= {
            **norm(f"{new}/LayerNorm_0", *both(f"{old}.norm1")),
            **attention(
                f"{new}/{attention_name}", heads, *zip(*qkv, strict=True), both(f"{old}.attn.proj")
            ),
            **norm(f"{new}/{second_norm}", *both(f"{old}.norm2")),
            **dense(f"{new}/{mlp_name}/Dense_0", *both(f"{old}.mlp.fc1")),
            **dense(f"{new}/{mlp_name}/Dense_1", *both(f"{old}.mlp.fc2")),
        }
    if "attn_pool.latent" in sd:
        pool, new = "attn_pool", "MAPHead_0"
        kv = [np.split(tensor, 2) for tensor in both(f"{pool}.kv")]
        arrays |= {
            f"{new}/probe": sd[f"{pool}.latent"],
            **attention(
                f"{new}/MultiHeadDotProductAttention_0",
                network.attn_pool.num_heads,
                both(f"{pool}.q"),
                *zip(*kv, strict=True),
                both(f"{pool}.proj"),
            ),
            **norm(f"{new}/LayerNorm_0", *both(f"{pool}.norm")),
            **dense(f"{new}/MlpBlock_0/Dense_0", *both(f"{pool}.mlp.fc1")),
            **dense(f"{new}/MlpBlock_0/Dense_1", *both(f"{pool}.mlp.fc2")),
        }
    return arrays


def augreg(network):
    """google-research/vision_transformer."""
    arrays = flax_arrays(network, "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    positions = network.pos_embed.detach().numpy()
    return {
        **arrays,
        "Transformer/posembed_input/pos_embedding": positions,
        "head/kernel": np.ones((48, 10), np.float32),
        "head/bias": np.zeros(10, np.float32),
    }


def big_vision(network, prefix="params/"):
    """google-research/big_vision."""
    arrays = flax_arrays(network, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    arrays["pos_embedding"] = network.pos_embed.detach().numpy()
    return {prefix + name: array for name, array in arrays.items()}


def siglip(network):
    """Both towers, of which the text tower has Flax's names, too."""
    text = {
        "params/txt/Embed_0/embedding": np.ones((9, 48), np.float32),
        "params/txt/Encoder_0/encoderblock_0/LayerNorm_0/scale": np.ones(48, np.float32),
        "params/txt/pos_embedding": np.ones((1, 16, 48), np.float32),
        "params/t": np.ones(1, np.float32),
    }
    return {**big_vision(network, "params/img/"), **text}


def siglip_scan(network):
    """The blocks stacked to one, as with ``scan=True``."""
    arrays, layers = {}, {}
    for name, array in siglip(network).items():
        if "/img/Transformer/encoderblock_" in name:
            layers.setdefault(re.sub(r"encoderblock_\d", "encoderblock", name), []).append(array)
        else:
            arrays[name] = array
    return arrays | {name: np.stack(stacked) for name, stacked in layers.items()}


# name of the format -> (writer, options of timm's network)
FILES = {
    "augreg": (augreg, {}),
    "big_vision": (big_vision, {"no_embed_class": True}),
    "big_vision_siglip": (siglip, {"class_token": False, "global_pool": "map"}),
    "big_vision_scan": (siglip_scan, {"class_token": False, "global_pool": "map"}),
}


def write(name, folder, heads=3):
    """Return a network and its file."""
    writer, options = FILES[name]
    network = randomized(heads, **options)
    np.savez(folder / "weights.npz", **writer(network))
    return network, folder / "weights.npz"


@pytest.mark.parametrize("name", FILES)
def test_features_equal_timms(name, tmp_path):
    network, path = write(name, tmp_path)
    backbone = load_backbone(path)
    assert backbone.source.format == name.partition("_s")[0]
    assert backbone.input.mean == backbone.input.std == (0.5, 0.5, 0.5)
    heads = {"augreg": {"head": 2}, "big_vision": {}}
    text = {"params.txt": 3, "params.t": 1}
    assert backbone.source.coverage.unused == heads.get(name, text)
    family, loaded = get_family(backbone.arch), build_network(backbone).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = network.forward_features(images)
        pooled = network.forward_head(tokens)
        (features,) = family.features(loaded, images).values()
        default = next(iter(family.representations(backbone.arch)))
        represented = family.represent(loaded, images, default)
    patches = tokens[:, network.num_prefix_tokens :]
    torch.testing.assert_close(features.flatten(2).mT, patches, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(represented, pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FILES if name != "big_vision_scan"])
def test_writers_agree_with_timms_loader(name, tmp_path):
    network, path = write(name, tmp_path)
    other = randomized(3, **FILES[name][1])
    for tensor in other.parameters():
        torch.nn.init.zeros_(tensor)
    other.load_pretrained(path)
    for key, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key


def test_heads_are_those_of_the_kernels(tmp_path):
    """As wide as DINOv2's networks, SigLIP 2's have other numbers of heads."""
    for heads in (2, 6):
        assert load_backbone(write("augreg", tmp_path, heads)[1]).arch.heads == heads


@pytest.mark.parametrize(
    "name",
    [
        *("augreg", "big_vision_scan"),
        pytest.param("big_vision", marks=pytest.mark.whole),
        pytest.param("big_vision_siglip", marks=pytest.mark.whole),
    ],
)
def test_missing_arrays(name, tmp_path):
    network, path = write(name, tmp_path)
    arrays = FILES[name][0](network)
    others = ("head/", "params/txt/", "params/t")
    for missing in (array for array in arrays if not array.startswith(others)):
        if "encoderblock_1/" in missing or (name, missing) == ("big_vision", "params/cls"):
            continue  # as block 0; its networks with average pooling have no class token
        rest = {key: array for key, array in arrays.items() if key != missing}
        parsed = detect_format(rest, flat=True)
        expected = expected_shapes(parsed.arch)
        get_stage = get_family(parsed.arch).get_stage
        coverage = compute_coverage(expected, parsed.tensors, parsed.unused, get_stage)
        assert not coverage.complete, missing
    np.savez(path, **rest)
    with raises_code("checkpoint.incomplete"):
        load_backbone(path)
