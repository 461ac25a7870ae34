"""Masked language modeling: predict the masked tokens of a caption."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.engine.losses import Losses, LossSum
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import Rows
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]


class MaskedLMModel(nn.Module):
    """A visual backbone and a textual head with bidirectional attention."""

    def __init__(self, visual: VisualBackbone, textual: TransformerTextualHead):
        super().__init__()
        self.visual, self.textual = visual, textual

    def forward(self, batch: Batch) -> Losses:
        """Compute the cross entropy summed over the masked tokens.

        Args:
            batch: ``image`` (batch, 3, height, width), ``tokens`` (batch, longest) after
                masking, ``lengths`` (batch,), ``labels`` (batch, longest): the true id at masked
                tokens, else 0.
        """
        hidden, labels = self.masked_states(batch)
        loss = F.cross_entropy(self.textual.output(hidden), labels, reduction="sum")
        return {"masked_lm": LossSum(loss, (labels != self.textual.pad).sum())}

    def masked_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return hidden states (masked tokens, hidden) and true ids (masked tokens,)."""
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
        """Return (true, predicted) ids of the masked tokens of each caption."""
        hidden, labels = self.masked_states(batch)
        predicted = self.textual.output(hidden).argmax(dim=-1)
        counts = (batch["labels"] != self.textual.pad).sum(dim=1).tolist()
        return [
            (true.tolist(), guess.tolist())
            for true, guess in zip(labels.split(counts), predicted.split(counts), strict=True)
        ]
