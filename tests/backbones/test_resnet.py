"""The ResNet family: detection from shapes, networks, features."""

import subprocess
import sys

import pytest
import torch
import torchvision

from virtex.backbones.registry import (
    build_torchvision,
    count_parameters,
    detect_arch,
    expected_shapes,
    get_family,
    torchvision_arch,
)
from virtex.backbones.resnet import ResNetArch, build_resnet


def meta_state_dict(name):
    with torch.device("meta"):
        return torchvision.models.get_model(name).state_dict()


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("resnet18", ResNetArch(18, "basic")),
        ("resnet34", ResNetArch(34, "basic")),
        ("resnet50", ResNetArch(50, "bottleneck")),
        ("resnet101", ResNetArch(101, "bottleneck")),
        ("resnet152", ResNetArch(152, "bottleneck")),
        ("wide_resnet50_2", ResNetArch(50, "bottleneck", 128)),
        ("wide_resnet101_2", ResNetArch(101, "bottleneck", 128)),
        ("resnext50_32x4d", ResNetArch(50, "bottleneck", 4, 32)),
        ("resnext101_32x8d", ResNetArch(101, "bottleneck", 8, 32)),
        ("resnext101_64x4d", ResNetArch(101, "bottleneck", 4, 64)),
    ],
)
def test_architectures_are_detected(name, arch):
    state_dict = meta_state_dict(name)
    assert detect_arch(state_dict) == arch
    assert arch.name == name
    assert expected_shapes(arch) == {
        key: tuple(value.shape)
        for key, value in state_dict.items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }


def test_detection_tolerates_single_wrong_tensors():
    state_dict = meta_state_dict("resnet50")
    state_dict["layer1.0.conv1.weight"] = torch.empty(128, 64, 1, 1)
    del state_dict["layer3.2.conv2.weight"]
    assert detect_arch(state_dict).name == "resnet50"


def test_other_names_are_not_detected():
    assert detect_arch(meta_state_dict("vgg11")) is None


@pytest.mark.parametrize("arch", [ResNetArch(18, "basic"), ResNetArch(50, "bottleneck", 64, 1)])
def test_features_match_the_declared_strides_and_channels(arch):
    family, network = get_family(arch), build_resnet(arch).eval()
    with torch.inference_mode():
        features = family.features(network, torch.zeros(1, 3, 64, 96))
    strides, channels = family.strides(arch), family.channels(arch)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        name: (1, channels[name], 64 // s, 96 // s) for name, s in strides.items()
    }
    assert family.representations(arch) == {"avg": list(channels.values())[-1]}


def test_features_are_torchvisions():
    network = build_resnet(ResNetArch(18, "basic")).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pooled = get_family(ResNetArch(18, "basic")).represent(network, x, "avg")
        torch.testing.assert_close(pooled, network(x))


def test_stride_in_1x1_changes_strides_only():
    arch = ResNetArch(50, "bottleneck")
    moved = detect_arch(meta_state_dict("resnet50"), {"stride_in_1x1": True})
    with torch.device("meta"):
        in_3x3, in_1x1 = build_resnet(arch), build_resnet(moved)
    strides = [
        (network.layer3[0].conv1.stride, network.layer3[0].conv2.stride)
        for network in (in_3x3, in_1x1)
    ]
    assert strides == [((1, 1), (2, 2)), ((2, 2), (1, 1))]
    assert in_1x1.layer1[0].conv1.stride == in_1x1.layer3[1].conv1.stride == (1, 1)
    assert in_3x3.state_dict().keys() == in_1x1.state_dict().keys()


def test_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="26"):
        build_resnet(ResNetArch(26, "bottleneck"))


def test_layer_ids_count_residual_blocks():
    arch = ResNetArch(50, "bottleneck")
    ids = {name: get_family(arch).layer_id(arch, name) for name in expected_shapes(arch)}
    assert (ids["conv1.weight"], ids["layer1.0.bn1.weight"]) == (0, 1)
    assert (ids["layer4.2.conv3.weight"], set(ids.values())) == (16, set(range(17)))


def test_torchvision_network_has_the_initialization_of_its_builder():
    torch.manual_seed(0)
    ours = build_torchvision("resnet18", zero_init_residual=True)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(zero_init_residual=True).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())
    number = sum(parameter.numel() for parameter in ours.parameters())
    assert count_parameters(torchvision_arch("resnet18")) == number


def test_order_of_families_does_not_depend_on_imports():
    code = (
        "import virtex.backbones.vit, virtex.backbones.convnext\n"
        "from virtex.backbones.registry import BUILT_IN, get_families\n"
        "assert tuple(get_families()) == BUILT_IN"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
