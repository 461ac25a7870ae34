"""Multi-label classification of images by caption tokens or object classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.engine.losses import Losses, LossSum
from virtex.pretraining.models.textual import LinearTextualHead
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]
NUM_PREDICTIONS = 10  # labels shown per sample


class ClassificationModel(nn.Module):
    """A visual backbone and a linear head on its pooled features.

    Attributes:
        ignored: ids that are not labels (padding, special tokens).
    """

    def __init__(self, visual: VisualBackbone, textual: LinearTextualHead, ignored: Sequence[int]):
        super().__init__()
        self.visual, self.textual, self.ignored = visual, textual, list(ignored)

    def forward(self, batch: Batch) -> Losses:
        """Compute -log softmax averaged over the unique labels of an image, summed over images.

        Args:
            batch: ``image`` (batch, 3, height, width), ``labels`` (batch, maximum number
                of labels), padded with 0.
        """
        logits = self.textual(self.visual(batch["image"]))
        target = self.multi_hot(batch["labels"], logits)
        number = target.sum(dim=1)
        per_image = -(F.log_softmax(logits, dim=1) * target).sum(dim=1) / number.clamp(min=1)
        return {"classification": LossSum(per_image.sum(), (number > 0).sum())}

    def multi_hot(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return (batch, vocabulary) with 1 at each label of an image, repeated or not."""
        target = torch.zeros_like(logits).scatter_(1, labels, 1.0)
        target[:, self.ignored] = 0.0
        return target

    @torch.no_grad()
    def samples(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """Return (true labels, most probable labels) of each image."""
        logits = self.textual(self.visual(batch["image"]))
        target = self.multi_hot(batch["labels"], logits)
        likeliest = logits.topk(min(NUM_PREDICTIONS, logits.shape[1])).indices.tolist()
        return [
            (row.nonzero().squeeze(1).tolist(), guess)
            for row, guess in zip(target, likeliest, strict=True)
        ]
