"""Classification with several labels an image: the tokens of its caption, or its objects."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.pretraining.models.losses import Losses, LossSum
from virtex.pretraining.models.textual import LinearTextualHead
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]
SHOWN = 10  # predicted labels in a sample


class ClassificationModel(nn.Module):
    """A visual backbone and a linear head over its pooled features.

    Attributes:
        ignored: label ids that are no labels (padding, special tokens).
    """

    def __init__(self, visual: VisualBackbone, textual: LinearTextualHead, ignored: Sequence[int]):
        super().__init__()
        self.visual, self.textual, self.ignored = visual, textual, list(ignored)

    def forward(self, batch: Batch) -> Losses:
        """Mean of -log softmax over an image's unique labels, summed over the images that have any.

        Args:
            batch: ``image`` (batch, 3, height, width), ``labels`` (batch, most labels), padded
                with 0.
        """
        logits = self.textual(self.visual(batch["image"]))
        target = self.present(batch["labels"], logits)
        number = target.sum(dim=1)
        per_image = -(F.log_softmax(logits, dim=1) * target).sum(dim=1) / number.clamp(min=1)
        return {"classification": LossSum(per_image.sum(), (number > 0).sum())}

    def present(self, labels: Tensor, logits: Tensor) -> Tensor:
        """(batch, vocabulary): 1 at each label of an image, however often it was named."""
        target = torch.zeros_like(logits).scatter_(1, labels, 1.0)
        target[:, self.ignored] = 0.0
        return target

    @torch.no_grad()
    def samples(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """For each image its labels and the likeliest ones."""
        logits = self.textual(self.visual(batch["image"]))
        target = self.present(batch["labels"], logits)
        likeliest = logits.topk(min(SHOWN, logits.shape[1])).indices.tolist()
        return [
            (row.nonzero().squeeze(1).tolist(), guess)
            for row, guess in zip(target, likeliest, strict=True)
        ]
