"""ResNet, wide ResNet and ResNeXt as torchvision builds them, without a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from virtex.checkpoints.backbone import Arch

# (kind of block, depth) -> blocks of res2 … res5; He et al., arXiv 1512.03385, table 1.
BLOCKS_PER_STAGE = {
    ("basic", 18): (2, 2, 2, 2),
    ("basic", 34): (3, 4, 6, 3),
    ("bottleneck", 50): (3, 4, 6, 3),
    ("bottleneck", 101): (3, 4, 23, 3),
    ("bottleneck", 152): (3, 8, 36, 3),
}
BLOCK_CLASSES = {"basic": BasicBlock, "bottleneck": Bottleneck}


def build_resnet(arch: Arch) -> ResNet:
    """A randomly initialized network of this architecture; ``fc`` is an ``nn.Identity``.

    Its forward takes images (batch, 3, height, width) and gives pooled features
    (batch, 512) for basic blocks, (batch, 2048) for bottlenecks.

    Raises:
        ValueError: there is no such depth with this kind of block, or the blocks are basic
            and not of width 64 in one group (torchvision's own limit).
    """
    blocks = BLOCKS_PER_STAGE.get((arch.block, arch.depth))
    if blocks is None:
        known = ", ".join(f"{kind} {depth}" for kind, depth in BLOCKS_PER_STAGE)
        raise ValueError(f"no ResNet of {arch.block} blocks and depth {arch.depth}; known: {known}")
    model = ResNet(
        BLOCK_CLASSES[arch.block],
        list(blocks),
        groups=arch.groups,
        width_per_group=arch.width_per_group,
    )
    model.fc = nn.Identity()
    if arch.stride_in_1x1 and arch.block == "bottleneck":
        for stage in (model.layer2, model.layer3, model.layer4):
            first = stage[0]
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return model


def resnet_features(model: ResNet, x: Tensor) -> dict[str, Tensor]:
    """Feature maps of the four stages.

    Args:
        model: as ``build_resnet`` makes it.
        x: normalized images (batch, 3, height, width).

    Returns:
        ``res2`` … ``res5``: (batch, channels, height / s, width / s), rounded up, for s = 4, 8,
        16, 32; channels 64, 128, 256, 512 for basic blocks, four times as many for bottlenecks.
    """
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    for name, stage in zip(
        ("res2", "res3", "res4", "res5"),
        (model.layer1, model.layer2, model.layer3, model.layer4),
        strict=True,
    ):
        x = stage(x)
        features[name] = x
    return features


class SpatialResNet50(ResNet):
    """ResNet-50 with torchvision's parameter names that gives res5 instead of pooled features."""

    def __init__(self, **kwargs: Any):
        super().__init__(Bottleneck, list(BLOCKS_PER_STAGE["bottleneck", 50]), **kwargs)
        self.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (batch, 3, height, width) to (batch, 2048, height/32, width/32)."""
        return resnet_features(self, x)["res5"]
