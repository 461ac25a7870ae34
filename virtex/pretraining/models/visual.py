"""The visual backbone of pretraining: a torchvision network whose last feature map is used."""

import difflib

import torch
import torchvision
from torch import Tensor, nn

from virtex.backbones.registry import (
    Arch,
    UnsupportedArchitectureError,
    build_torchvision,
    get_family,
    torchvision_arch,
)
from virtex.errors import UserError

PREFIX = "torchvision::"


class VisualBackbone(nn.Module):
    """Map images to a grid of features.

    Attributes:
        cnn: the network, without a classifier.
        feature_size: channels of the last feature map.
        frozen: whether parameters and BatchNorm statistics do not change.
    """

    def __init__(self, cnn: nn.Module, arch: Arch, frozen: bool = False):
        super().__init__()
        self.arch, self.family = arch, get_family(arch)
        self.feature_size = list(self.family.channels(arch).values())[-1]
        self.frozen = frozen
        self.cnn = cnn.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VisualBackbone":
        super().train(mode)
        if self.frozen:
            self.cnn.eval()  # else BatchNorm would update its statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return features (batch, channels, height/stride, width/stride) of normalized images."""
        features = self.family.features(self.cnn, images)
        return [features[name] for name in self.family.channels(self.arch)][-1]


def visual_arch(name: str) -> Arch:
    """Return the architecture of the backbone that a config names.

    Args:
        name: ``torchvision::`` and the name of a network there, of a registered family.

    Raises:
        UserError: the network does not exist, or no family supports it.
    """
    network = name.removeprefix(PREFIX)
    names = torchvision.models.list_models(torchvision.models)
    if not name.startswith(PREFIX) or network not in names:
        near = difflib.get_close_matches(network, names, n=3, cutoff=0.4) or names
        raise UserError(
            f"MODEL.VISUAL.NAME {name!r} is not a known backbone; closest: "
            + ", ".join(PREFIX + n for n in near),
            code="config.unknown_backbone",
        )
    try:
        return torchvision_arch(network)
    except UnsupportedArchitectureError as error:
        raise UserError(f"MODEL.VISUAL.NAME: {error}", code="config.unknown_backbone") from error


def last_stride(arch: Arch) -> int:
    """Return the stride in pixels of the last feature map."""
    return list(get_family(arch).strides(arch).values())[-1]


def build_visual(
    name: str,
    feature_size: int = 0,
    pretrained: bool = False,
    frozen: bool = False,
    zero_init_residual: bool = True,
) -> VisualBackbone:
    """Build the backbone that a config names.

    Args:
        name: see ``visual_arch``.
        feature_size: the config's number of channels; 0 to skip the check.
        pretrained: start from torchvision's ImageNet weights (a download).
        zero_init_residual: initialize each residual block as the identity (arXiv 1706.02677, 5.1).

    Raises:
        UserError: the network does not exist, or has another number of channels.
    """
    arch, network = visual_arch(name), name.removeprefix(PREFIX)
    cnn = build_torchvision(network, zero_init_residual=zero_init_residual)
    if pretrained:
        from virtex.checkpoints.loading import load_backbone

        cnn.load_state_dict(load_backbone(f"torchvision://{network}").state_dict)
    backbone = VisualBackbone(cnn, arch, frozen)
    if feature_size not in (0, backbone.feature_size):
        raise UserError(
            f"MODEL.VISUAL.FEATURE_SIZE is {feature_size}, but {network} has "
            f"{backbone.feature_size} channels; remove the setting",
            code="config.feature_size",
        )
    return backbone


def grid_to_sequence(features: Tensor) -> Tensor:
    """Flatten (batch, channels, height, width) to (batch, height * width, channels)."""
    return torch.flatten(features, 2).transpose(1, 2)
