"""Swin transformers: every project's files give the features of its own network."""

import copy
import json
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from tests.backbones import swin_writers as writers
from tests.backbones.swin_writers import FORMATS, IMAGE, timm_maps, timm_v1, timm_v2
from tests.errors import raises_code
from virtex.backbones.registry import expected_shapes, get_families
from virtex.backbones.swin import SwinArch
from virtex.checkpoints import load_backbone
from virtex.checkpoints.detect import detect_format

ARCH = SwinArch(16, (2, 2, 2), (1, 2, 4), windows=4, image_size=IMAGE)
FAMILY = get_families()["swin"]


def make_images(height, width=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, height, width or height, generator=generator)


def build(backbone):
    network = FAMILY.build(backbone.arch)
    network.load_state_dict(backbone.state_dict)
    return network.eval()


@torch.inference_mode()
def assert_same_maps(network, images, expected):
    found = FAMILY.features(network, images)
    assert list(found) == [f"stage{i + 1}" for i in range(len(expected))]
    for features, other in zip(found.values(), expected, strict=True):
        assert features.shape == other.shape
        assert (features - other).abs().max() <= 1e-4 * other.abs().max()


def save(written, folder, content):
    torch.save(content, folder / "model.pth")
    for name, config in (written.configs or {}).items():
        (folder / name).write_text(json.dumps(config))
    return folder / "model.pth"


@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_file_of_project_gives_its_features(written, tmp_path):
    network = written.network()
    backbone = load_backbone(save(written, tmp_path, written.write(network)))
    assert backbone.source.format == written.format
    assert {name: getattr(backbone.arch, name) for name in written.arch or {}} == (
        written.arch or {}
    )
    images = make_images(128 if written.format == "detectron2_swin" else IMAGE)
    with torch.inference_mode():
        expected = written.maps(network, images)
    assert_same_maps(build(backbone), images, expected)


def _weights_of(content):
    """Return the innermost mapping that has the backbone's tensors."""
    for key in ("teacher", "model", "state_dict"):
        content = content.get(key, content)
    return content


@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_file_without_one_tensor_is_refused(written, tmp_path):
    content = written.write(written.network())
    tensors = _weights_of(content)
    inside = [name for name in tensors if "norm2." in name or "layernorm_after." in name]
    del tensors[inside[len(inside) // 2]]
    path = save(written, tmp_path, content)
    with raises_code("checkpoint.incomplete", ".norm2."):
        load_backbone(path)


@pytest.mark.parametrize("network", [timm_v1, timm_v2], ids=["v1", "v2"])
def test_layouts_of_patch_merging_are_not_confused(network, tmp_path):
    network = network()
    version = 2 if isinstance(network, writers.SwinTransformerV2) else 1
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    torch.save(writers.official(network), old)
    torch.save(network.state_dict(), new)
    config = {"model_args": {"window_size": 8, "img_size": IMAGE, "pretrained_window_sizes": 0}}
    (tmp_path / "config.json").write_text(json.dumps(config if version == 2 else {}))
    timm_format = "timm_swin_v2" if version == 2 else "timm_swin"
    for path, format, other in ((old, "swin", timm_format), (new, timm_format, "swin")):
        backbone = load_backbone(path)
        assert backbone.source.format == format
        assert_same_maps(
            build(backbone), make_images(IMAGE), timm_maps(network, make_images(IMAGE))
        )
        with raises_code("checkpoint.unknown_format", f"fits {format}"):
            load_backbone(path, other)


# Images of other sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(52, 76), (16, 200)])
def test_any_size_agrees_with_torchvision(version, size, tmp_path):
    network = writers.torchvision_network(version)
    torch.save(network.state_dict(), tmp_path / "swin.pth")
    images = make_images(*size)
    expected = writers.torchvision_maps(network, images)
    assert_same_maps(build(load_backbone(tmp_path / "swin.pth")), images, expected)


def test_any_size_agrees_with_detectron2(tmp_path):
    swin = pytest.importorskip("detectron2.modeling.backbone.swin")
    network = swin.SwinTransformer(
        embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4, drop_path_rate=0.0
    )
    writers.randomize(network)
    model = {f"backbone.bottom_up.{k}": v for k, v in network.state_dict().items()}
    torch.save({"model": model}, tmp_path / "model_final.pth")
    backbone = load_backbone(tmp_path / "model_final.pth")
    assert backbone.source.format == "detectron2_swin"
    for i in range(3):  # norms that are not part of the backbone
        setattr(network, f"norm{i}", nn.Identity())
    images = make_images(201, 330)
    expected = list(network(images).values())
    assert_same_maps(build(backbone), images, expected)


def test_larger_images_agree_with_timm(tmp_path):
    network = build_from(timm_v1(), tmp_path)
    larger = timm_v1(img_size=(128, 192))
    assert_same_maps(network, make_images(128, 192), timm_maps(larger, make_images(128, 192)))


def test_images_are_padded_to_patches(tmp_path):
    network = build_from(timm_v1(), tmp_path)
    images = make_images(61, 66)
    padded = nn.functional.pad(images, (0, 2, 0, 3))
    assert_same_maps(network, images, list(FAMILY.features(network, padded).values()))
    assert FAMILY.input_size_requirement(ARCH, 61, 66) is None


def build_from(network, folder):
    torch.save(network.state_dict(), folder / "timm.pth")
    return build(load_backbone(folder / "timm.pth"))


def test_average_is_what_timm_classifies(tmp_path):
    reference, images = timm_v1(), make_images(IMAGE)
    network = build_from(reference, tmp_path)
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
        found = FAMILY.represent(network, images, "avg")
    assert found.shape[1] == FAMILY.representations(ARCH)["avg"] == 64
    torch.testing.assert_close(found, expected)


def test_copies_train(tmp_path):
    network = copy.deepcopy(build_from(timm_v1(), tmp_path)).train()
    sum(x.square().mean() for x in FAMILY.features(network, make_images(60)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


# Architecture ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (FAMILY.default_arch, "swin_tiny_patch4_window7_224"),
        (
            SwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32), 1, 4.0, 12, image_size=384),
            "swin_base_patch4_window12_384",
        ),
        (SwinArch(96, (2, 2, 18, 2), (3, 6, 12, 24), windows=(14, 14, 14, 7)), "swin_s3_small_224"),
        (
            SwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24), 2, 4.0, 16, image_size=256),
            "swinv2_tiny_window16_256",
        ),
        (
            SwinArch(192, (2, 2, 18, 2), (6, 12, 24, 48), 2, 4.0, 24, (12, 12, 12, 6), 384),
            "swinv2_large_window12to24_192to384",
        ),
    ],
)
def test_name_is_that_of_timm(arch, name):
    assert arch.name == name and timm.is_model(name)


def test_names_of_timm_state_what_shapes_do_not_show():
    v2 = SwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24), 2, 4.0, 8, image_size=256)
    assert FAMILY.stated_fields(v2, "swinv2_tiny_window16_256.ms_in1k") == {
        "windows": (16, 16, 16, 8),
        "pretrained_windows": (0, 0, 0, 0),
        "image_size": 256,
        "norm_eps": 1e-5,
    }
    assert FAMILY.contradicts(v2, "swinv2_tiny_window16_256") is None
    assert FAMILY.contradicts(v2, "swin_tiny_patch4_window7_224")
    assert FAMILY.contradicts(FAMILY.default_arch, "swin_tiny_patch4_window7_224") is None
    assert FAMILY.contradicts(
        replace(FAMILY.default_arch, windows=4), "swin_tiny_patch4_window7_224"
    )
    assert FAMILY.contradicts(FAMILY.default_arch, "a network of ours") is None


def test_maps_have_the_stated_channels_and_strides():
    maps = FAMILY.features(FAMILY.build(ARCH), make_images(IMAGE))
    assert FAMILY.channels(ARCH) == {name: x.shape[1] for name, x in maps.items()}
    assert FAMILY.strides(ARCH) == {name: IMAGE // x.shape[3] for name, x in maps.items()}


def test_layers_are_numbered_from_input_to_output():
    names = list(expected_shapes(ARCH))
    ids = {name: FAMILY.layer_id(ARCH, name) for name in names}
    assert [ids[name] for name in names] == sorted(ids.values())
    assert set(ids.values()) == set(range(sum(ARCH.depths) + 2))
    # get_swin_layer of SimMIM's optimizer.py: with the last block of the stage before
    assert ids["layers.1.downsample.reduction.weight"] == ids["layers.0.blocks.1.norm1.weight"] == 2
    stages = {FAMILY.get_stage(name) for name in names}
    assert stages == {"patch_embed", "stage1", "stage2", "stage3", "norm"}


def test_windows_of_version_2_must_be_stated(tmp_path):
    network = timm_v2()
    torch.save(network.state_dict(), tmp_path / "swin.pth")
    with raises_code("checkpoint.input_not_stated", "windows", "swin_v2_window16_256"):
        load_backbone(tmp_path / "swin.pth")
    backbone = load_backbone(tmp_path / "swin.pth", "swin_v2_window16_256")
    assert backbone.arch.windows == (16, 16, 16) and "assumed" in " ".join(backbone.source.notes)
    del network.layers[0].blocks[1]
    content = {
        k: v
        for k, v in writers.official(network).items()
        if "layers.0.blocks.0.attn.relative" not in k
    }
    with raises_code("checkpoint.input_not_stated", "windows"):
        torch.save(content, tmp_path / "swin.pth")
        load_backbone(tmp_path / "swin.pth")


@pytest.mark.parametrize(
    "model_args",
    [
        {"window_size": "all"},
        {"window_size": [8, 8]},
        {"window_size": 8, "img_size": -1},
        {"window_size": 999},
    ],
)
def test_invalid_statements_are_refused(model_args, tmp_path):
    torch.save(timm_v2().state_dict(), tmp_path / "swin.pth")
    args = {"window_size": 8, "img_size": IMAGE, "pretrained_window_sizes": 0} | model_args
    (tmp_path / "config.json").write_text(json.dumps({"model_args": args}))
    with raises_code("checkpoint.unsupported_architecture"):
        load_backbone(tmp_path / "swin.pth")


def test_damaged_coordinates_are_refused():
    content = writers.official(timm_v2())
    content["layers.0.blocks.0.attn.relative_coords_table"] *= 1.1
    with raises_code("checkpoint.unsupported_architecture", "relative_coords_table"):
        detect_format(content, "swin")


# Networks that are not supported --------------------------------------------------------------

_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("name", "shape", "named"),
    [
        ("absolute_pos_embed", (1, 256, 16), "absolute position"),
        ("layers.1.blocks.1.mlp._moe_layer.experts.batched_fc1_w", (8, 128, 32), "Swin-MoE"),
        ("layers.0.blocks.0.spatial_mlp.weight", (49, 49, 1), "SwinMLP"),
        ("layers.0.blocks.1.norm3.weight", (16,), "norm3"),
        ("layers.0.blocks.1.attn.scale", (16,), "attn.scale"),
        ("layers.0.blocks.999999999.norm1.weight", (16,), "depths"),
        ("layers.4.blocks.0.norm1.weight", (16,), "every stage"),
    ],
)
def test_other_networks_are_refused(name, shape, named):
    content = writers.official(timm_v1()) | {name: torch.zeros(shape)}
    with raises_code("checkpoint.unsupported_architecture", named):
        detect_format(content)


@pytest.mark.parametrize("rows", [48, 36, 127**2])
def test_impossible_windows_are_refused(rows):
    content = writers.official(timm_v1())
    for name in content:
        if name.endswith("relative_position_bias_table"):
            content[name] = torch.zeros(rows, 1)
    with raises_code("checkpoint.unsupported_architecture", "relative_position_bias_table"):
        detect_format(content)


@pytest.mark.parametrize(
    "layout", [nn.Module.state_dict, writers.official], ids=["timm", "official"]
)
def test_unknown_prefix_is_found(layout):
    content = {f"net.{name}": value for name, value in layout(timm_v1()).items()}
    with raises_code("checkpoint.unknown_format", "prefix:net. "):
        detect_format(content)
    assert detect_format(content, "prefix:net.").arch == ARCH
