"""Files of vision transformers in every format compute what timm's networks compute."""

import dataclasses
import json

import pytest
import timm
import torch
from torch.nn import functional as F

from tests.backbones.vit_files import CASES, HEADS, SIZE, WIDTH, build, flat, prefixed
from tests.errors import raises_code
from virtex.backbones.registry import detect_arch, get_family
from virtex.backbones.timm_models import timm_network
from virtex.backbones.vit import ViTArch, interpolate_positions
from virtex.checkpoints import load_backbone
from virtex.checkpoints.backbone import build_network
from virtex.checkpoints.formats import FORMATS
from virtex.checkpoints.loading import inspect_checkpoint

TOLERANCE = 1e-4  # relative to the largest feature
# test_flax_vit.py in tests/checkpoints, test_vitdet.py here, test_families.py in tests/detectron
ELSEWHERE = {"augreg", "big_vision", "vitdet", "virtex_detector"}


def save(folder, content, **sidecars):
    path = folder / "model.pth"
    torch.save(content, path)
    for name, value in sidecars.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return path


def reference_tokens(network, images):
    """Return all tokens (batch, tokens, width) after the final norm, by the network's own code."""
    if not hasattr(network, "forward_features"):  # torchvision
        tokens = network._process_input(images)
        tokens = torch.cat([network.class_token.expand(len(images), -1, -1), tokens], dim=1)
        return network.encoder(tokens), 1
    return network.forward_features(images), network.num_prefix_tokens


def largest_difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_features_are_the_references(name, tmp_path):
    case = CASES[name]
    network = case.network()
    path = save(tmp_path, case.write(network.state_dict()))
    backbone = load_backbone(path, case.format if case.explicit else "auto")
    assert backbone.source.format == case.format
    arch = dataclasses.asdict(backbone.arch)
    assert {key: arch[key] for key in case.fields} == case.fields
    family, ours = get_family(backbone.arch), build_network(backbone).eval()
    size = backbone.arch.image_size
    size = 56 if name.startswith("eva") else SIZE if "dinov3" in name else size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens, prefix = reference_tokens(network, images)
        patches = family.features(ours, images)["final"].flatten(2).transpose(1, 2)
        assert largest_difference(patches, tokens[:, prefix:]) < TOLERANCE
        average = tokens[:, prefix:].mean(dim=1)
        if backbone.arch.final_norm == "fc_norm":
            average = network.fc_norm(average)
        vectors = {"avg": average}
        if "cls" in family.representations(backbone.arch):
            vectors |= {"cls": tokens[:, 0], "cls+avg": torch.cat([tokens[:, 0], average], dim=1)}
        if backbone.arch.attention_pool:
            vectors["map"] = network.attn_pool(tokens)
        for kind, expected in vectors.items():
            found = family.represent(ours, images, kind)
            assert found.shape[1] == family.representations(backbone.arch)[kind]
            assert largest_difference(found, expected) < TOLERANCE, kind


@pytest.mark.parametrize("name", CASES)
def test_missing_tensor_is_reported(name, tmp_path):
    case = CASES[name]
    content = case.write(case.network().state_dict())
    tensors = content
    for container in ("teacher", "state_dict", "model", "module", "target_encoder"):
        if isinstance(tensors.get(container), dict):
            tensors = tensors[container]
            break
    if name == "dino_student":
        tensors = content["student"]
    gone = [key for key in tensors if key.rpartition("1.")[0].endswith("mlp.") or "norm2" in key]
    gone += [key for key in tensors if any(part in key for part in ("norm_after", "ln_2", ".ln2"))]
    del tensors[gone[0] if gone else next(key for key in tensors if "layer_norm2" in key)]
    found = inspect_checkpoint(save(tmp_path, content), case.format)
    assert found.error is not None
    assert found.error.code == "checkpoint.incomplete"


def test_every_format_has_a_case():
    rows = {name for name, row in FORMATS.items() if "vit" in row.families}
    assert rows - ELSEWHERE == {case.format for case in CASES.values()}


def test_bare_names_need_a_choice(tmp_path):
    path = save(tmp_path, build().state_dict())
    with raises_code("checkpoint.input_not_stated", "dino_vit", "mae", "moco_v3_vit", "timm_vit"):
        load_backbone(path)


@pytest.mark.parametrize(
    "name",
    [
        *("beit", "open_clip", "open_clip_timm", "hf_vit", "hf_clip", "hf_dinov3", "mmpretrain"),
        *("dinov3_sat", "timm_dinov3"),
    ],
)
def test_what_files_do_not_state_needs_a_choice(name, tmp_path):
    case = CASES[name]
    path = save(tmp_path, case.write(case.network().state_dict()))
    with raises_code("checkpoint.input_not_stated", *FORMATS[case.format].alternatives):
        load_backbone(path)


def test_hugging_face_configs_decide(tmp_path):
    case = CASES["hf_clip"]
    path = save(
        tmp_path,
        case.write(build(pre_norm=True, eps=1e-3, num_heads=6).state_dict()),
        config={
            "vision_config": {
                "num_attention_heads": 6,
                "layer_norm_eps": 1e-3,
                "hidden_act": "gelu",
            }
        },
        preprocessor_config={"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    )
    backbone = load_backbone(path)
    assert isinstance(backbone.arch, ViTArch)
    arch = backbone.arch
    assert (arch.heads, arch.norm_eps, arch.activation) == (6, 1e-3, "gelu")
    assert (backbone.input.mean, backbone.input.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_timm_config_decides(tmp_path):
    network = build(num_heads=HEADS, depth=12, patch_size=16, img_size=224)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    backbone = load_backbone(save(tmp_path, flat(network.state_dict()), config=config))
    assert (backbone.source.format, backbone.arch.heads) == ("timm_vit", 3)
    assert backbone.input.mean == (0.1, 0.2, 0.3)


def test_timm_config_decides_for_beit(tmp_path):
    config = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    backbone = load_backbone(save(tmp_path, CASES["beit"].network().state_dict(), config=config))
    assert (backbone.source.format, backbone.input.mean) == ("beit", (0.1, 0.2, 0.3))


@pytest.mark.parametrize("quick", [True, None])
def test_open_clip_config_decides(quick, tmp_path):
    config = {
        "model_cfg": {"vision_cfg": {"width": WIDTH, "head_width": 32}, "quick_gelu": quick},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    content = CASES["open_clip"].write(CASES["open_clip"].network().state_dict())
    backbone = load_backbone(save(tmp_path, content, open_clip_config=config))
    assert isinstance(backbone.arch, ViTArch)
    assert backbone.arch.heads == WIDTH // 32
    assert backbone.arch.activation == ("quick_gelu" if quick else "gelu")
    assert backbone.input.mean == (0.1, 0.2, 0.3)


def test_open_clip_config_names_timms_tower(tmp_path):
    name = "vit_base_patch16_siglip_gap_224"
    config = {
        "model_cfg": {"vision_cfg": {"timm_model_name": name}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    case = CASES["open_clip_timm"]
    path = save(tmp_path, case.write(case.network().state_dict()), open_clip_config=config)
    with raises_code("checkpoint.unexpected_architecture", name):
        load_backbone(path)


@pytest.mark.parametrize("kind", ["type='MoCoV3ViT'", "type='VisionTransformer', arch='mocov3-s'"])
def test_mmpretrain_config_decides(kind, tmp_path):
    text = f"model = dict(backbone=dict({kind}))\n"
    text += "data_preprocessor = dict(mean=[127.5] * 3, std=[127.5, 127.5, 127.5], to_rgb=True)"
    text = text.replace("[127.5] * 3", "[127.5, 127.5, 127.5]")
    content = CASES["mmpretrain"].write(build(num_heads=12).state_dict())
    backbone = load_backbone(save(tmp_path, content | {"meta": {"cfg": text}}))
    assert isinstance(backbone.arch, ViTArch)
    assert (backbone.arch.heads, backbone.input.mean) == (12, (127.5,) * 3)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("vit_huge_plus_patch16_dinov3", 20),
        ("vit_giantopt_patch16_siglip_256", 16),
        ("vit_giant_patch14_dinov2", 24),
        ("vit_huge_patch14_clip_224", 16),
    ],
)
def test_heads_of_published_widths(name, heads):
    with torch.device("meta"):
        network = timm.create_model(name, depth=1, num_classes=0)
    arch = detect_arch(network.state_dict())
    assert isinstance(arch, ViTArch)
    assert network.blocks[0].attn.num_heads == heads
    assert arch.heads == heads


def test_dinov3s_periods_show_the_heads(tmp_path):
    network = CASES["dinov3"].network(num_heads=6)
    content = CASES["dinov3"].write(network.state_dict())
    content["rope_embed.periods"] = torch.ones(WIDTH // 6 // 4)
    backbone = load_backbone(save(tmp_path, content))
    assert isinstance(backbone.arch, ViTArch)
    assert backbone.arch.heads == 6


def test_other_rotary_positions_are_not_detected(tmp_path):
    """Its names are those of EVA-01, with other computations."""
    name = "vit_betwixt_patch16_rope_reg4_gap_256"
    path = save(tmp_path, timm.create_model(name, depth=1, num_classes=0).state_dict())
    for format in ("auto", "deit"):
        with raises_code("checkpoint.unknown_format"):
            load_backbone(path, format)


@pytest.mark.parametrize(
    "name", ["vit_betwixt_patch16_rope_reg4_gap_256", "vit_base_patch16_rpn_224"]
)
def test_timms_variants_are_not_read_as_plain_networks(name):
    arch = detect_arch(timm_network(name).state_dict())
    assert arch is not None
    assert get_family(arch).contradicts(arch, name)


def test_norm_after_attention_is_refused():
    with torch.device("meta"):
        network = timm.create_model("eva02_enormous_patch14_clip_224", num_classes=0)
    with raises_code("checkpoint.unsupported_architecture"):
        detect_arch(network.state_dict())


def test_stated_architecture_must_match(tmp_path):
    config = {
        "architecture": "vit_base_patch16_224",
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    path = save(tmp_path, build().state_dict(), config=config)
    with raises_code("checkpoint.unexpected_architecture", "vit_base_patch16_224"):
        load_backbone(path)


@pytest.mark.parametrize("size", [(6, 6), (3, 5)])
def test_positions_are_interpolated_as_timm_does(size, tmp_path):
    network = build(dynamic_img_size=True)
    path = save(tmp_path, network.state_dict())
    backbone = load_backbone(path, "timm_vit")
    images = torch.randn(1, 3, 16 * size[0], 16 * size[1])
    with torch.inference_mode():
        expected = network.forward_features(images)[:, 1:]
        found = get_family(backbone.arch).features(build_network(backbone).eval(), images)["final"]
    assert found.shape[-2:] == size
    assert largest_difference(found.flatten(2).transpose(1, 2), expected) < TOLERANCE


def test_interpolation_methods():
    positions = torch.randn(1, 16, 8)
    maps = positions.reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    plain = F.interpolate(maps, (6, 7), mode="bicubic")
    # dino's vision_transformer.py: a scale factor that avoids a rounding error
    offset = F.interpolate(maps, scale_factor=(6.1 / 4, 7.1 / 4), mode="bicubic")
    for method, expected in (("plain", plain), ("offset", offset)):
        found = interpolate_positions(positions, (6, 7), method)
        torch.testing.assert_close(found, expected.permute(0, 2, 3, 1).flatten(1, 2))
    assert interpolate_positions(positions, (4, 4), "offset") is positions


def test_last_four_class_tokens(tmp_path):
    network = build(depth=6)
    backbone = load_backbone(save(tmp_path, network.state_dict()), "dino_vit")
    family, images = get_family(backbone.arch), torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        x = network._pos_embed(network.patch_embed(images))
        expected = []
        for block in network.blocks:
            x = block(x)
            expected.append(network.norm(x)[:, 0])
        found = family.represent(build_network(backbone).eval(), images, "last4-cls")
    assert family.representations(backbone.arch)["last4-cls"] == 4 * WIDTH
    torch.testing.assert_close(found, torch.cat(expected[-4:], dim=1))


def test_grid_must_be_square(tmp_path):
    tensors = build().state_dict() | {"pos_embed": torch.zeros(1, 13, WIDTH)}
    with raises_code("checkpoint.unsupported_architecture", "pos_embed"):
        load_backbone(save(tmp_path, prefixed("backbone.", tensors)), "prefix:backbone.")


def test_layer_ids():
    arch = ViTArch(WIDTH, 12, 16, 14, 4 * WIDTH)
    family = get_family(arch)
    names = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight")
    assert [family.layer_id(arch, name) for name in names] == [0, 0, 0, 1]
    assert family.layer_id(arch, "blocks.11.mlp.fc2.bias") == 12
    assert family.layer_id(arch, "norm.weight") == 13
