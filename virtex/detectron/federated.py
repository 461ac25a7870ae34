"""Sigmoid cross entropy and federated loss of the box head for LVIS, with either Detectron2.

v0.5 has neither. In each iteration, the federated loss (Zhou et al., arXiv 2103.07461) trains only
the categories of the batch and some others, sampled by the number of images that contain them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F


class SigmoidOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor with a binary classifier for each category.

    Attributes:
        fed_loss_cls_weights: with ``USE_FED_LOSS``, relative sampling probabilities of the
            categories (categories,), see ``set_category_weights``. Saved with the detector.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        plain = cfg.clone()  # 0.6 would need metadata that our datasets do not have
        plain.defrost()
        head = cfg.MODEL.ROI_BOX_HEAD
        plain.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = plain.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
        super().__init__(plain, input_shape)
        assert head.USE_SIGMOID_CE  # checks.validate_run
        self.num_sampled = head.FED_LOSS_NUM_CLASSES if head.USE_FED_LOSS else 0
        if self.num_sampled:
            self.power = head.FED_LOSS_FREQ_WEIGHT_POWER
            self.register_buffer("fed_loss_cls_weights", torch.ones(self.num_classes))

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box_reg`` of the sampled regions."""
        losses = super().losses(predictions, proposals)
        classes = cat([found.gt_classes for found in proposals], dim=0)
        loss = self.sigmoid_cross_entropy_loss(predictions[0], classes)
        losses["loss_cls"] = loss * self.loss_weight.get("loss_cls", 1.0)
        return losses

    def sigmoid_cross_entropy_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the sum over categories of the mean over regions.

        Args:
            logits: (regions, categories + 1); the last column, background, is not used.
            classes: (regions,) int64; background is ``categories``.
        """
        if not len(logits):
            return 0.0 * logits.sum()
        targets = F.one_hot(classes, logits.shape[1])[:, :-1].to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits[:, :-1], targets, reduction="none")
        if self.num_sampled:
            losses = losses * self.sample_categories(classes)
        return losses.sum() / len(logits)

    def sample_categories(self, classes: Tensor) -> Tensor:
        """Return 1 for categories whose loss is computed, 0 for others: (categories,).

        They are the categories of the regions, plus sampled ones up to ``num_sampled``. As in
        Detectron2, background counts as one of them.
        """
        present = classes.unique()
        chosen = torch.zeros(self.num_classes + 1, device=classes.device)
        chosen[present] = 1
        weights = F.pad(self.fed_loss_cls_weights.float(), (0, 1))
        weights[present] = 0
        count = min(self.num_sampled - len(present), int(weights.count_nonzero()))
        if count > 0:
            chosen[torch.multinomial(weights, count, replacement=False)] = 1
        return chosen[:-1]

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Return probabilities (regions, categories + 1) for each image."""
        return predictions[0].sigmoid().split([len(found) for found in proposals], dim=0)

    def set_category_weights(self, image_counts: Tensor) -> None:
        """Set the weights from the number of training images per category (categories,)."""
        self.fed_loss_cls_weights.copy_(image_counts.float() ** self.power)


@ROI_HEADS_REGISTRY.register()
class SigmoidROIHeads(StandardROIHeads):
    """Detectron2's region heads with ``SigmoidOutputLayers``."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        plain = cfg.clone()
        plain.defrost()
        plain.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
        found = super()._init_box_head(plain, input_shape)
        shape = found["box_head"].output_shape
        return {**found, "box_predictor": SigmoidOutputLayers(cfg, shape)}


def count_images(samples: Sequence[dict[str, Any]], categories: int) -> Tensor:
    """Return the number of images per category (categories,), LVIS's ``image_count``.

    Args:
        samples: Detectron2 dicts of the training images.
    """
    counts = torch.zeros(categories)
    for sample in samples:
        counts[list({found["category_id"] for found in sample["annotations"]})] += 1
    return counts


def set_category_weights(detector: nn.Module, samples: Sequence[dict[str, Any]]) -> None:
    """Set the weights of a federated loss from the training images, if the detector has one."""
    for module in detector.modules():
        if isinstance(module, SigmoidOutputLayers) and module.num_sampled and samples:
            module.set_category_weights(count_images(samples, module.num_classes))
