"""The ConvNeXt family: files of every project against timm's and torchvision's networks."""

import json

import pytest
import torch
from timm.models.convnext import ConvNeXt
from torchvision.models import convnext as torchvision_convnext

from tests.backbones import convnext_writers as writers
from tests.errors import raises_code
from virtex.backbones.convnext import ConvNeXtArch, build_convnext
from virtex.backbones.registry import detect_arch, expected_shapes, get_family
from virtex.backbones.timm_models import timm_arch
from virtex.checkpoints import load_backbone

DEPTHS, WIDTHS = (2, 1, 4, 1), (8, 12, 24, 32)
V1 = {"depths": DEPTHS, "dims": WIDTHS, "norm_eps": 1e-6}
V2 = {**V1, "use_grn": True, "ls_init_value": None}


def randomize(network):
    """Give all tensors random values, those that scale near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(noise / fan_in**0.5 + (parameter.ndim == 1))
    return network.eval()


def timm_network(**options):
    return randomize(ConvNeXt(num_classes=0, **options))


def save(content, folder, **sidecars):
    for name, config in sidecars.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def assert_same_features(backbone, maps, pooled):
    """Compare all maps and the pooled features with those of a reference network."""
    family = get_family(backbone.arch)
    network = family.build(backbone.arch).eval()
    network.load_state_dict(backbone.state_dict)
    with torch.inference_mode():
        found = family.features(network, images())
        average = family.represent(network, images(), "avg")
    assert {name: 64 // found[name].shape[2] for name in found} == family.strides(backbone.arch)
    assert max(map(error, found.values(), maps)) < 1e-4
    assert error(average, pooled) < 1e-4


def assert_matches_timm(backbone, network):
    with torch.inference_mode():
        last, maps = network.forward_intermediates(images())
        assert_same_features(backbone, maps, network.forward_head(last, pre_logits=True))


# (format, writer, timm's options)
CASES = [
    ("convnext", writers.official, V1),
    ("convnext", writers.official, V2),
    ("convnext", writers.official_detector, V1),
    ("dinov3_convnext", writers.dinov3, V1),
    ("dinov3_convnext", writers.dinov3_training, V1),
    ("fcmae", writers.fcmae, V2),
    ("fcmae", writers.fcmae_dense, V2),
    ("mmpretrain_convnext", writers.mmpretrain, V1),
    ("mmpretrain_convnext", writers.mmpretrain, V2),
    ("hf_convnext", writers.hugging_face, V1),
    ("hf_convnext", writers.hugging_face_v2, V2),
    ("hf_dinov3_convnext", writers.hugging_face_dinov3, V1),
    ("hf_dinov3_convnext", writers.hugging_face_dinov3_v5, V1),
    ("open_clip_convnext", writers.open_clip, V1),
    ("timm_convnext", writers.timm_training, V1),
    ("timm_convnext", writers.timm_training, {**V2, "conv_mlp": True}),
]


@pytest.mark.parametrize(("format", "writer", "options"), CASES)
def test_files_compute_timms_features(format, writer, options, tmp_path):
    network = timm_network(**options)
    backbone = load_backbone(save(writer(network.state_dict()), tmp_path))
    assert (backbone.source.format, backbone.arch.norm_eps) == (format, 1e-6)
    if format == "fcmae":
        network.head.norm = torch.nn.Identity()
    assert_matches_timm(backbone, network)


@pytest.mark.parametrize(("format", "writer", "options"), CASES)
def test_missing_tensors_are_refused(format, writer, options, tmp_path):
    state_dict = timm_network(**options).state_dict()
    del state_dict["stages.2.blocks.1.conv_dw.bias"]
    with raises_code("checkpoint.incomplete", "stages.2.blocks.1.conv_dw.bias"):
        load_backbone(save(writer(state_dict), tmp_path))


def test_torchvisions_file_computes_its_features(tmp_path):
    widths = zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)
    setting = [torchvision_convnext.CNBlockConfig(*sizes) for sizes in widths]
    network = randomize(torchvision_convnext.ConvNeXt(setting))
    backbone = load_backbone(save(network.state_dict(), tmp_path))
    assert backbone.source.format == "torchvision_convnext"
    maps, x = [], images()
    with torch.inference_mode():
        for index, module in enumerate(network.features):
            x = module(x)
            maps += [x] if index % 2 else []
        pooled = network.classifier[:2](network.avgpool(x))
        assert_same_features(backbone, maps, pooled)
    content = network.state_dict()
    del content["features.3.0.layer_scale"]
    with raises_code("checkpoint.incomplete", "stages.1.blocks.0.gamma"):
        load_backbone(save(content | {"features.3.0.block.9": torch.ones(1)}, tmp_path))


def test_timms_config_states_input_and_architecture(tmp_path):
    network = timm_network(**V1)
    with raises_code("checkpoint.input_not_stated", "timm_convnext_clip"):
        load_backbone(save(network.state_dict(), tmp_path))
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    path = save(network.state_dict(), tmp_path, config={"pretrained_cfg": half})
    assert load_backbone(path).input.mean == (0.5, 0.5, 0.5)
    config = {"architecture": "convnext_tiny", "pretrained_cfg": half}
    with raises_code("checkpoint.unexpected_architecture", "convnext_tiny"):
        load_backbone(save(network.state_dict(), tmp_path, config=config))


def test_timms_names_state_eps_and_activation(tmp_path):
    network = randomize(ConvNeXt(**V1 | {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128)}))
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "test_convnext2", "pretrained_cfg": half}
    arch = load_backbone(save(network.state_dict(), tmp_path, config=config)).arch
    assert (arch.norm_eps, arch.activation) == (1e-5, "gelu_tanh")
    assert timm_arch("convnext_xxlarge.clip_laion2b_soup").norm_eps == 1e-5


def test_norm_before_pooling(tmp_path):
    network = timm_network(**V1, head_norm_first=True)
    path = save({"state_dict": network.state_dict()}, tmp_path)
    backbone = load_backbone(path, format="timm_convnext_clip")
    assert backbone.arch.final_norm == "norm_pre"
    assert_matches_timm(backbone, network)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto", "convnext_xlarge"])
def test_published_sizes_are_named(name):
    assert timm_arch(name).name == name


def test_v1_without_final_norm_is_refused(tmp_path):
    content = writers.official(timm_network(**V1).state_dict())
    for leaf in ("weight", "bias"):
        del content["model"][f"norm.{leaf}"]
    with raises_code("checkpoint.incomplete", "head.norm.weight"):
        load_backbone(save(content, tmp_path))


def test_fcmae_kernels_of_impossible_size_are_refused(tmp_path):
    content = writers.fcmae(timm_network(**V2).state_dict())
    name = "encoder.stages.0.0.dwconv.kernel"
    content["model"][name] = content["model"][name][:48]
    with raises_code("checkpoint.unsupported_architecture", "(48, 8)"):
        load_backbone(save(content, tmp_path))


def test_unknown_tensors_in_blocks_are_refused(tmp_path):
    content = writers.official(timm_network(**V1).state_dict())
    content["model"]["stages.0.0.attention.weight"] = torch.ones(2, 8)
    with raises_code("checkpoint.unsupported_architecture", "attention.weight"):
        load_backbone(save(content, tmp_path))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patch_size": 2}, "(2, 2)"),
        ({"stem_type": "overlap"}, "(3, 3)"),
        ({"kernel_sizes": 5}, "(5, 5)"),
        ({"norm_layer": "rmsnorm", "conv_mlp": True}, "layer norm"),
    ],
)
def test_other_stems_kernels_and_norms_are_refused(options, named, tmp_path):
    state_dict = ConvNeXt(num_classes=0, **V1, **options).state_dict()
    with raises_code("checkpoint.unsupported_architecture", named):
        load_backbone(save(state_dict, tmp_path))


def test_isotropic_networks_are_refused(tmp_path):
    content = {"stem.weight": torch.ones(8, 3, 16, 16), "norm.weight": torch.ones(8)}
    content |= {f"blocks.{n}.dwconv.weight": torch.ones(8, 1, 7, 7) for n in range(2)}
    with raises_code("checkpoint.unsupported_architecture", "isotropic"):
        load_backbone(save({"model": content}, tmp_path))


def test_layer_ids_are_those_of_the_official_repository():
    arch = ConvNeXtArch((3, 3, 27, 3), (128, 256, 512, 1024))
    ids = {name: get_family(arch).layer_id(arch, name) for name in expected_shapes(arch)}
    expected = {
        "stem.1.weight": 0,
        "stages.0.blocks.2.gamma": 1,
        "stages.1.downsample.1.weight": 2,
        "stages.2.downsample.0.bias": 3,
        "stages.2.blocks.2.gamma": 3,
        "stages.2.blocks.26.gamma": 11,
        "stages.3.downsample.1.bias": 12,
        "stages.3.blocks.0.gamma": 12,
        "head.norm.weight": 13,
    }
    assert {name: ids[name] for name in expected} == expected
    tiny = get_family(arch).default_arch
    assert get_family(arch).layer_id(tiny, "stages.3.blocks.0.gamma") == 6


def test_detection_reads_the_architecture_it_builds():
    arch = ConvNeXtArch((1, 2, 1, 1), (8, 16, 32, 64), grn=True, layer_scale=False, conv_mlp=True)
    state_dict = build_convnext(arch).state_dict()
    assert detect_arch(state_dict) == arch
    stages = {get_family(arch).get_stage(name) for name in state_dict}
    assert stages == {"stem", "stage1", "stage2", "stage3", "stage4", "norm"}
