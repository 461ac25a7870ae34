"""Heads that Detectron2 v0.5 or 0.6 does not have.

C4 region heads of any ResNet depth, and with one more norm layer; box and mask heads with layer
norm; a Semantic FPN head for batches whose pixels are all ignored.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
)
from torch import Tensor, nn

from virtex.detectron.norms import as_norm
from virtex.text import short_repr

BASIC_RES5_BLOCKS = {18: 2, 34: 3}  # depth -> blocks; deeper ResNets have bottleneck blocks


def build_res5(cfg: CfgNode) -> tuple[nn.Sequential, int]:
    """Build the res5 stage of the head; return it and its number of output channels.

    ``Res5ROIHeads`` builds bottleneck blocks only.
    """
    if cfg.MODEL.RESNETS.DEPTH not in BASIC_RES5_BLOCKS:
        return Res5ROIHeads._build_res5_block(cfg)
    count = BASIC_RES5_BLOCKS[cfg.MODEL.RESNETS.DEPTH]
    channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8
    blocks = ResNet.make_stage(
        BasicBlock,
        count,
        stride_per_block=[2] + [1] * (count - 1),
        in_channels=channels // 2,
        out_channels=channels,
        norm=cfg.MODEL.RESNETS.NORM,
    )
    return nn.Sequential(*blocks), channels


@ROI_HEADS_REGISTRY.register()
class AnyDepthRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 head, also with the basic blocks of ResNet-18 and ResNet-34."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        return build_res5(cfg)


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 head with a norm layer after res5.

    MoCo's VOC protocol adds it because the output of a self-supervised res5 has no calibrated
    scale (arXiv 1911.05722, appendix A.2).
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        res5, channels = build_res5(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels


@ROI_BOX_HEAD_REGISTRY.register()
class AnyNormConvFCHead(FastRCNNConvFCHead):
    """Detectron2's box head, with support for the norm ``"LN"`` also in v0.5."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        found = super().from_config(cfg, input_shape)
        return {**found, "conv_norm": as_norm(found["conv_norm"])}


@ROI_MASK_HEAD_REGISTRY.register()
class AnyNormMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, with support for the norm ``"LN"`` also in v0.5."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        found = super().from_config(cfg, input_shape)
        return {**found, "conv_norm": as_norm(found["conv_norm"])}


@SEM_SEG_HEADS_REGISTRY.register()
class SparseSemSegFPNHead(SemSegFPNHead):
    """Detectron2's Semantic FPN head, but with loss 0, not NaN, if all pixels are ignored.

    Feature maps are checked here, because Detectron2 silently drops those that do not exist, and
    fails in training with unsupported strides.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """
        Raises:
            ValueError: a map does not exist, or its stride is not ``COMMON_STRIDE`` times 1, 2, 4,
                … 128.
        """
        names, common = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
        if not names or not {*names} <= input_shape.keys():
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES must be some of {', '.join(input_shape)}, not "
                f"{short_repr(names)}"
            )
        strides = [input_shape[name].stride or 0 for name in names]
        if not all(
            stride in [common * 2**doublings for doublings in range(8)] for stride in strides
        ):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE must be a power of two up to {min(strides)}, "
                f"not {common}"
            )
        return super().from_config(cfg, input_shape)

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if (targets == self.ignore_value).all():
            return {"loss_sem_seg": 0 * predictions.sum()}
        return super().losses(predictions, targets)
