"""Linear segmentation on the last feature map of a frozen network of any family.

The head is that of DINOv2's and DINOv3's evaluations: batch norm and a 1x1 convolution
(``BNHead`` in dinov2/eval/segmentation, ``LinearHead`` in dinov3/eval/segmentation). The network is
the family's own, held under its canonical names in ``backbone.network.``. Vision transformers keep
their patch size and attend globally in all blocks.
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.backbones.registry import Arch, get_family
from virtex.checkpoints.backbone import Backbone as Checkpoint
from virtex.checkpoints.backbone import build_network
from virtex.detectron.adapters import (
    ConvertedBackbone,
    Features,
    decode_arch,
    encode_arch,
    input_settings,
)
from virtex.detectron.pyramid import has_maps, with_prefix
from virtex.detectron.vit import pad_to_multiple
from virtex.errors import UserError

PREFIX = "backbone.network."
MAP = "last"  # the name of the feature map


def convert_map(backbone: Checkpoint, cfg: CfgNode) -> ConvertedBackbone:
    """Convert a network to a backbone without a feature pyramid.

    Raises:
        UserError: the network is not to be frozen, or accepts images of one size only.
    """
    arch, family = backbone.arch, get_family(backbone.arch)
    if not cfg.MODEL.BACKBONE.FROZEN:
        raise UserError(
            f"MODEL.BACKBONE.FROZEN must be True with MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}"
            "; to train the backbone, use a protocol with a feature pyramid",
            code="config.invalid_value",
        )
    stride = last_stride(arch)
    size = 10 * stride, 15 * stride  # any size other than the pretraining one
    if (required := family.input_size_requirement(arch, *size)) and not has_maps(arch, *size):
        raise UserError(
            f"{arch.name} cannot be used for segmentation, where images have many sizes: it "
            f"expects {required}; choose another network",
            code="detection.unsupported_backbone",
        )

    def reference_features(images: Tensor) -> Features:
        network = build_network(backbone).eval().to(images.device)
        return last_map(arch, network, pad_to_multiple(images, stride))

    return ConvertedBackbone(
        settings={**input_settings(backbone.input), "MODEL.NETWORK.ARCH": encode_arch(arch)},
        weights=with_prefix(PREFIX, backbone.state_dict),
        prefixes=(PREFIX,),
        detector_features=lambda detector, images: detector.backbone(images),
        reference_features=reference_features,
        layer_ids={PREFIX + name: family.layer_id(arch, name) for name in backbone.state_dict},
    )


def last_stride(arch: Arch) -> int:
    return list(get_family(arch).strides(arch).values())[-1]


def last_map(arch: Arch, network: nn.Module, images: Tensor) -> Features:
    """Return the last feature map for normalized images (batch, 3, height, width)."""
    return {MAP: list(get_family(arch).features(network, images).values())[-1]}


@BACKBONE_REGISTRY.register()
class LastMapBackbone(Backbone):
    """A frozen network (``MODEL.BACKBONE.FROZEN``) that returns its last feature map."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self.arch = decode_arch(cfg.MODEL.NETWORK.ARCH)
        self.network = get_family(self.arch).build(self.arch)
        channels = list(get_family(self.arch).channels(self.arch).values())[-1]
        self._out_features = [MAP]
        self._out_feature_strides = {MAP: last_stride(self.arch)}
        self._out_feature_channels = {MAP: channels}

    @property
    def size_divisibility(self) -> int:
        return self._out_feature_strides[MAP]

    def forward(self, images: Tensor) -> Features:
        """Return the feature map (batch, channels, height / stride, width / stride).

        Args:
            images: (batch, 3, height, width); the sides are multiples of ``size_divisibility``.
        """
        with torch.no_grad():
            return last_map(self.arch, self.network, images)


@SEM_SEG_HEADS_REGISTRY.register()
class LinearSemSegHead(nn.Module):
    """Batch norm and a linear classifier of each cell of a feature map, upsampled to the image.

    The interface is that of Detectron2's ``SemSegFPNHead``.
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        """
        Raises:
            ValueError: ``MODEL.SEM_SEG_HEAD.IN_FEATURES`` does not name exactly one map.
        """
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        (self.feature,) = head.IN_FEATURES
        shape = input_shape[self.feature]
        self.stride, self.ignore_value = shape.stride, head.IGNORE_VALUE
        self.loss_weight = head.LOSS_WEIGHT
        self.norm = get_norm(head.NORM, shape.channels)
        self.predictor = nn.Conv2d(shape.channels, head.NUM_CLASSES, kernel_size=1)
        # as in mmsegmentation's and DINOv3's heads
        nn.init.normal_(self.predictor.weight, std=0.01)
        self.predictor.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, features: Features, targets: Tensor | None = None) -> tuple[Any, Any]:
        """Return logits (batch, classes, height, width) in eval mode, losses in training mode.

        Args:
            targets: labels (batch, height, width) int64, in training mode.

        Returns:
            (logits, {}) or (None, losses).
        """
        x = features[self.feature]
        x = self.predictor(self.norm(x) if self.norm is not None else x).float()
        x = F.interpolate(x, scale_factor=self.stride, mode="bilinear", align_corners=False)
        if not self.training:
            return x, {}
        assert targets is not None  # of the mapper
        # as in mmsegmentation, the mean over all pixels, including ignored ones, whose loss is 0
        loss = F.cross_entropy(x, targets, ignore_index=self.ignore_value, reduction="none").mean()
        return None, {"loss_sem_seg": loss * self.loss_weight}
