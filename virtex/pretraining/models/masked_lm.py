"""Masked language modeling: predict the tokens that were taken out of a caption."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.pretraining.models.losses import Losses, LossSum
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import Rows
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]


class MaskedLMModel(nn.Module):
    """A visual backbone and a textual head that sees the whole caption but its masked tokens."""

    def __init__(self, visual: VisualBackbone, textual: TransformerTextualHead):
        super().__init__()
        self.visual, self.textual = visual, textual

    def forward(self, batch: Batch) -> Losses:
        """Cross entropy summed over the masked tokens; logits are computed at those alone.

        Args:
            batch: ``image`` (batch, 3, height, width), ``tokens`` (batch, longest) with some
                replaced, ``lengths`` (batch,), ``labels`` (batch, longest): the true token where
                one is to be predicted, else 0.
        """
        hidden, labels = self.masked_states(batch)
        loss = F.cross_entropy(self.textual.output(hidden), labels, reduction="sum")
        return {"masked_lm": LossSum(loss, (labels != self.textual.pad).sum())}

    def masked_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden states (masked tokens, hidden) and true ids (masked tokens,)."""
        head, rows = self.textual, Rows(batch["lengths"], batch["tokens"].device)
        longest = rows.size[1]
        tokens = rows.unpad(batch["tokens"][:, :longest, None]).squeeze(1)
        labels = rows.unpad(batch["labels"][:, :longest, None]).squeeze(1)
        memory = head.project(self.visual(batch["image"]))
        x = head.embedding(tokens, rows.positions)
        hidden = head.transformer(x, memory, rows, causal=False)
        masked = (labels != head.pad).nonzero().squeeze(1)
        return hidden.index_select(0, masked), labels.index_select(0, masked)

    @torch.no_grad()
    def samples(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """For each caption the true ids at its masked places and the predicted ones."""
        hidden, labels = self.masked_states(batch)
        predicted = self.textual.output(hidden).argmax(dim=-1)
        counts = (batch["labels"] != self.textual.pad).sum(dim=1).tolist()
        return [
            (true.tolist(), guess.tolist())
            for true, guess in zip(labels.split(counts), predicted.split(counts), strict=True)
        ]
