"""The backbone of a trained ViTDet, as Detectron2 0.6 saves it."""

import pickle
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from detectron2.config import get_cfg
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn
from torch.nn import functional as F

from tests.errors import raises_code
from virtex.backbones.registry import get_family
from virtex.checkpoints import load_backbone
from virtex.checkpoints.backbone import build_network
from virtex.detectron.vit import convert_fpn

WIDTH, WINDOW, GLOBAL, GRID = 32, 3, 5, 4
SIZE = (7, 6)  # of the image in patches: padded to windows, and other than the global side


@pytest.fixture
def tensors():
    """The state_dict of Detectron2's ``ViT`` with 4 blocks, 1 and 3 of them global."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape, mean=0.0):
        return mean + torch.randn(shape, generator=generator) / (WIDTH**0.5 if shape[1:] else 5)

    content = {
        "pos_embed": random(1, 1 + GRID**2, WIDTH),
        "patch_embed.proj.weight": random(WIDTH, 3, 16, 16) / 16,
        "patch_embed.proj.bias": random(WIDTH),
    }
    for n in range(4):
        side = GLOBAL if n % 2 else WINDOW
        block = {
            "attn.rel_pos_h": random(2 * side - 1, 16) * 9,
            "attn.rel_pos_w": random(2 * side - 1, 16) * 9,
        }
        for name in ("norm1", "norm2"):
            block |= {f"{name}.weight": random(WIDTH, mean=1.0), f"{name}.bias": random(WIDTH)}
        for name, rows, columns in (
            *(("attn.qkv", 3 * WIDTH, WIDTH), ("attn.proj", WIDTH, WIDTH)),
            *(("mlp.fc1", 4 * WIDTH, WIDTH), ("mlp.fc2", WIDTH, 4 * WIDTH)),
        ):
            block |= {f"{name}.weight": random(rows, columns), f"{name}.bias": random(rows)}
        content |= {f"blocks.{n}.{name}": tensor for name, tensor in block.items()}
    return content


def save(tensors, folder):
    """Write a .pkl of the model zoo: NumPy arrays, beside the pyramid and the heads."""
    content = {f"backbone.net.{name}": tensor.numpy() for name, tensor in tensors.items()}
    content |= {"backbone.simfp_2.0.weight": torch.ones(WIDTH, 2, 2, 2).numpy()}
    content |= {"proposal_generator.rpn_head.conv.conv0.weight": torch.ones(2, 2).numpy()}
    (folder / "model.pkl").write_bytes(pickle.dumps({"model": content, "__author__": "ViTDet"}))
    return folder / "model.pkl"


def images():
    size = (2, 3, 16 * SIZE[0], 16 * SIZE[1])
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def features(backbone):
    family, network = get_family(backbone.arch), build_network(backbone).eval()
    with torch.inference_mode():
        found = family.features(network, images())["final"]
        torch.testing.assert_close(
            family.represent(network, images(), "avg"), found.mean(dim=(2, 3))
        )
    return found


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4


def test_features_are_timms(tensors, tmp_path):
    backbone = load_backbone(save(tensors, tmp_path))
    assert backbone.source.format == "vitdet"
    assert (backbone.arch.heads, backbone.arch.relative_sides) == (2, (3, 5, 3, 5))
    network = VisionTransformerSAM(
        img_size=16 * GLOBAL,
        embed_dim=WIDTH,
        depth=4,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_abs_pos=False,
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=(1, 3),
        num_classes=0,
    ).eval()
    positions = tensors.pop("pos_embed")[:, 1:].unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, size=SIZE, mode="bicubic", align_corners=False)
    assert not network.load_state_dict(tensors, strict=False).unexpected_keys
    with torch.inference_mode():
        x = network.blocks(network.patch_embed(images()) + positions.permute(0, 2, 3, 1))
    assert_close(features(backbone), x.permute(0, 3, 1, 2))


@pytest.mark.skipif(
    not find_spec("detectron2.modeling.backbone.vit"), reason="Detectron2 v0.5 has no ViT"
)
def test_features_are_detectron2s(tensors, tmp_path):
    from detectron2.modeling.backbone.vit import ViT

    network = ViT(
        img_size=16 * GLOBAL,
        embed_dim=WIDTH,
        depth=4,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        window_block_indexes=(0, 2),
        pretrain_img_size=16 * GRID,
    ).eval()
    network.load_state_dict(tensors)
    with torch.inference_mode():
        expected = network(images())["last_feat"]
    assert_close(features(load_backbone(save(tensors, tmp_path))), expected)


@pytest.mark.parametrize(
    "name",
    ["pos_embed", "blocks.1.attn.rel_pos_h", "blocks.2.attn.rel_pos_w", "blocks.3.norm1.bias"],
)
def test_missing_tensors_are_refused(name, tensors, tmp_path):
    del tensors[name]
    with raises_code("checkpoint.incomplete", name):
        load_backbone(save(tensors, tmp_path))


def test_windows_that_cannot_be_told_are_refused(tensors, tmp_path):
    tensors = {name: t[: 2 * WINDOW - 1] if "rel_pos" in name else t for name, t in tensors.items()}
    with raises_code("checkpoint.unsupported_architecture", "[3]"):
        load_backbone(save(tensors, tmp_path))


def test_residual_blocks_are_refused(tensors, tmp_path):
    tensors["blocks.3.residual.conv1.weight"] = torch.ones(16, WIDTH, 1, 1)
    with raises_code("checkpoint.unsupported_architecture", "blocks.3.residual"):
        load_backbone(save(tensors, tmp_path))


def test_detectors_refuse_it(tensors, tmp_path):
    backbone = load_backbone(save(tensors, tmp_path))
    with raises_code("detection.unsupported_backbone", backbone.arch.name):
        convert_fpn(backbone, get_cfg())
