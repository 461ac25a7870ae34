"""The visual backbone: torchvision's networks by name, frozen where asked."""

import pytest
import torch
import torchvision

from tests.errors import raises_code
from virtex.errors import UserError
from virtex.pretraining.models.visual import build_visual, grid_to_sequence


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 512),
        ("resnet50", 2048),
        ("resnet101", 2048),
        ("wide_resnet50_2", 2048),
        ("resnext50_32x4d", 2048),
    ],
)
def test_any_resnet_of_torchvision_by_name(name, channels):
    with torch.device("meta"):
        backbone = build_visual(f"torchvision::{name}")
        theirs = torchvision.models.get_model(name).state_dict()
    assert backbone.feature_size == channels
    assert list(backbone.cnn.state_dict()) == [k for k in theirs if not k.startswith("fc.")]
    with torch.device("meta"):
        assert backbone(torch.empty(2, 3, 224, 224)).shape == (2, channels, 7, 7)


def test_output_is_the_last_feature_map():
    backbone = build_visual("torchvision::resnet18").eval()
    image = torch.randn(1, 3, 64, 96)
    pooled = backbone.cnn(image)
    torch.testing.assert_close(backbone(image).mean(dim=(2, 3)), pooled)


def test_zero_initialized_residual_blocks():
    cnn = build_visual("torchvision::resnet50").cnn
    assert (cnn.layer3[1].bn3.weight == 0).all()


def test_torchvision_initialization_of_residual_blocks():
    backbone = build_visual("torchvision::resnet18", zero_init_residual=False)
    assert backbone.cnn.layer1[0].bn2.weight.eq(1).all()


def test_frozen_backbone_keeps_weights_and_statistics():
    backbone = build_visual("torchvision::resnet18", frozen=True)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()
    features = backbone(torch.randn(4, 3, 64, 64))
    assert not features.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_trained_backbone_updates_its_statistics():
    backbone = build_visual("torchvision::resnet18").train()
    before = backbone.cnn.bn1.running_mean.clone()
    backbone(torch.randn(4, 3, 64, 64))
    assert not torch.equal(backbone.cnn.bn1.running_mean, before)


@pytest.mark.parametrize("name", ["torchvision::resnet5", "resnet50", "torchvision::vit_b_16"])
def test_unknown_network_suggests_the_nearest(name):
    with raises_code("config.unknown_backbone", "resnet"):
        build_visual(name)


def test_wrong_feature_size_is_refused():
    with pytest.raises(UserError, match="512"):
        build_visual("torchvision::resnet18", feature_size=2048)


def test_grid_order_is_row_major():
    grid = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    sequence = grid_to_sequence(grid)
    assert sequence.shape == (2, 8, 3)
    assert torch.equal(sequence[1, 5], grid[1, :, 1, 1])
