"""The visual backbone: a torchvision network whose last feature map is kept."""

import difflib

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from virtex.backbones.resnet import resnet_features
from virtex.errors import UserError

PREFIX = "torchvision::"
FAMILIES = ("resnet", "resnext", "wide_resnet")


class VisualBackbone(nn.Module):
    """Images to a grid of features.

    Attributes:
        cnn: torchvision's ResNet, ``fc`` an ``nn.Identity``.
        feature_size: channels of the last stage, 512 or 2048.
        frozen: whether the network stays as it is, its BatchNorm statistics included.
    """

    def __init__(self, cnn: ResNet, frozen: bool = False):
        super().__init__()
        self.feature_size = last_channels(cnn)
        self.frozen = frozen
        cnn.fc = nn.Identity()
        self.cnn = cnn.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VisualBackbone":
        super().train(mode)
        if self.frozen:
            self.cnn.eval()  # else BatchNorm would go on learning its statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (batch, 3, height, width) to (batch, channels, height/32, width/32)."""
        return resnet_features(self.cnn, images)["res5"]


def last_channels(cnn: ResNet) -> int:
    """Channels of res5."""
    block = cnn.layer4[-1]
    return (block.bn3 if hasattr(block, "bn3") else block.bn2).num_features


def build_visual(
    name: str,
    feature_size: int = 0,
    pretrained: bool = False,
    frozen: bool = False,
    zero_init_residual: bool = True,
) -> VisualBackbone:
    """The backbone a config names.

    Args:
        name: ``torchvision::`` and the name of a ResNet, wide ResNet or ResNeXt there.
        feature_size: what the config says of its channels; 0: nothing.
        pretrained: start from torchvision's ImageNet weights (a download).
        zero_init_residual: start each residual block as the identity (arXiv 1706.02677, 5.1).

    Raises:
        UserError: there is no such network, or its channels are other.
    """
    network = name.removeprefix(PREFIX)
    names = [
        n for n in torchvision.models.list_models(torchvision.models) if n.startswith(FAMILIES)
    ]
    if not name.startswith(PREFIX) or network not in names:
        near = difflib.get_close_matches(network, names, n=3, cutoff=0.4) or names
        raise UserError(
            f"MODEL.VISUAL.NAME {name!r} is no known backbone; near it: "
            + ", ".join(PREFIX + n for n in near)
        )
    cnn = torchvision.models.get_model(network, weights=None, zero_init_residual=zero_init_residual)
    if pretrained:
        from virtex.checkpoints.loading import load_backbone

        cnn.fc = nn.Identity()
        cnn.load_state_dict(load_backbone(f"torchvision://{network}").state_dict)
    backbone = VisualBackbone(cnn, frozen)
    if feature_size not in (0, backbone.feature_size):
        raise UserError(
            f"MODEL.VISUAL.FEATURE_SIZE is {feature_size}, but {network} has "
            f"{backbone.feature_size} channels; leave it out"
        )
    return backbone


def grid_to_sequence(features: Tensor) -> Tensor:
    """(batch, channels, height, width) to (batch, height * width, channels)."""
    return torch.flatten(features, 2).transpose(1, 2)
