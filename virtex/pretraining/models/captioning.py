"""Captioning: predict each token from the previous ones; backward, from the following ones."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.engine.losses import Losses, LossSum
from virtex.pretraining.models.decoding import BeamSearch, NucleusSampling, caption_ids
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import Rows
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]


class CaptioningModel(nn.Module):
    """A visual backbone, a textual head and, for bicaptioning, a second transformer.

    The two directions share projection, embeddings and output; only the transformers differ.

    Attributes:
        backward_textual: the head of the backward direction, or None. It contains the shared
            modules too, so that the state_dict has the published names.
        decoder: used by ``caption``.
    """

    def __init__(
        self,
        visual: VisualBackbone,
        textual: TransformerTextualHead,
        bidirectional: bool,
        sos: int = 1,
        eos: int = 2,
        decoder: BeamSearch | NucleusSampling | None = None,
    ):
        super().__init__()
        self.visual, self.textual = visual, textual
        self.backward_textual = None
        if bidirectional:
            self.backward_textual = copy.deepcopy(textual)
            for shared in ("visual_projection", "embedding", "output"):
                setattr(self.backward_textual, shared, getattr(textual, shared))
        self.sos, self.eos = sos, eos
        self.decoder = decoder or BeamSearch()

    def forward(self, batch: Batch) -> Losses:
        """Compute the cross entropy of each direction, summed over the predicted tokens.

        Args:
            batch: ``image`` (batch, 3, height, width), ``tokens`` (batch, longest) from [SOS]
                to [EOS] with padding on the right, ``lengths`` (batch,).
        """
        return self.textual_losses(self.visual(batch["image"]), batch["tokens"], batch["lengths"])

    def textual_losses(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Losses:
        """Compute the losses from visual features (batch, channels, height, width).

        The image is projected once; both directions are embedded and classified together. The
        last token of a caption is dropped, as it has no target.
        """
        directions = {"captioning_forward": (self.textual, tokens)}
        if self.backward_textual is not None:
            reversed_tokens = reverse_tokens(tokens, lengths)
            directions["captioning_backward"] = (self.backward_textual, reversed_tokens)
        rows = Rows(lengths - 1, tokens.device)
        memory = self.textual.project(features)
        inputs = torch.cat([rows.unpad(t[:, : rows.size[1], None]) for _, t in directions.values()])
        targets = torch.cat(
            [rows.unpad(t[:, 1 : rows.size[1] + 1, None]) for _, t in directions.values()]
        ).squeeze(1)
        embedded = self.textual.embedding(
            inputs.squeeze(1), rows.positions.repeat(len(directions))
        ).chunk(len(directions))
        hidden = torch.cat(
            [
                head.transformer(x, memory, rows, causal=True)
                for x, (head, _) in zip(embedded, directions.values(), strict=True)
            ]
        )
        pad = self.textual.pad
        per_token = F.cross_entropy(
            self.textual.output(hidden), targets, ignore_index=pad, reduction="none"
        )
        counts = (targets != pad).chunk(len(directions))
        return {
            name: LossSum(part.sum(), counted.sum())
            for name, part, counted in zip(
                directions, per_token.chunk(len(directions)), counts, strict=True
            )
        }

    @torch.no_grad()
    def caption(self, images: Tensor, draws: Tensor | None = None) -> list[list[int]]:
        """Generate token ids for images (batch, 3, height, width), without [SOS] and [EOS].

        Args:
            draws: see ``NucleusSampling``; only for that decoder.
        """
        extra = () if draws is None else (draws,)
        tokens, _ = self.decoder(self.textual, self.visual(images), self.sos, self.eos, *extra)
        return caption_ids(tokens, self.eos)

    def samples(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """Return (true, predicted) caption ids of each image."""
        truth = [t[:n].tolist() for t, n in zip(batch["tokens"], batch["lengths"], strict=True)]
        return list(zip(truth, self.caption(batch["image"]), strict=True))


def reverse_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Reverse captions (batch, longest), keeping the padding on the right."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    mirrored = lengths.to(tokens.device, non_blocking=True)[:, None] - 1 - places
    return tokens.gather(1, torch.where(mirrored >= 0, mirrored, places))
