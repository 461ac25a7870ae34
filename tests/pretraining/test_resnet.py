"""The networks behind a backbone: torchvision's, with a choice of where the stride sits."""

import pytest
import torch
import torchvision

from virtex.backbones.resnet import build_resnet, resnet_features
from virtex.checkpoints.backbone import Arch


def arch(depth, block="bottleneck", **rest):
    return Arch("resnet", depth, block, **rest)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (arch(18, "basic"), "resnet18"),
        (arch(34, "basic"), "resnet34"),
        (arch(50), "resnet50"),
        (arch(101), "resnet101"),
        (arch(152), "resnet152"),
        (arch(50, width_per_group=128), "wide_resnet50_2"),
        (arch(101, width_per_group=128), "wide_resnet101_2"),
        (arch(50, width_per_group=4, groups=32), "resnext50_32x4d"),
        (arch(101, width_per_group=8, groups=32), "resnext101_32x8d"),
    ],
)
def test_it_has_torchvisions_tensors_without_the_classifier(wanted, name):
    with torch.device("meta"):
        ours = build_resnet(wanted).state_dict()
        theirs = torchvision.models.get_model(name).state_dict()
    theirs = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == theirs


@pytest.mark.parametrize(
    ("wanted", "channels"), [(arch(18, "basic"), 64), (arch(50, stride_in_1x1=True), 256)]
)
def test_features_halve_and_double_from_stage_to_stage(wanted, channels):
    network = build_resnet(wanted).eval()
    with torch.inference_mode():
        features = resnet_features(network, torch.zeros(1, 3, 64, 96))
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "res2": (1, channels, 16, 24),
        "res3": (1, 2 * channels, 8, 12),
        "res4": (1, 4 * channels, 4, 6),
        "res5": (1, 8 * channels, 2, 3),
    }


def test_features_are_torchvisions_own():
    network = build_resnet(arch(18, "basic")).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pooled = resnet_features(network, x)["res5"].mean(dim=(2, 3))
        torch.testing.assert_close(pooled, network(x))


def test_the_stride_moves_to_the_1x1_convolution_and_the_tensors_stay():
    with torch.device("meta"):
        in_3x3, in_1x1 = build_resnet(arch(50)), build_resnet(arch(50, stride_in_1x1=True))
    strides = [
        (network.layer3[0].conv1.stride, network.layer3[0].conv2.stride)
        for network in (in_3x3, in_1x1)
    ]
    assert strides == [((1, 1), (2, 2)), ((2, 2), (1, 1))]
    assert in_1x1.layer1[0].conv1.stride == in_1x1.layer3[1].conv1.stride == (1, 1)
    assert in_3x3.state_dict().keys() == in_1x1.state_dict().keys()


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no ResNet of bottleneck blocks and depth 26"):
        build_resnet(arch(26))
