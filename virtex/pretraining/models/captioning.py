"""Captioning: predict each token from those before it, and backwards from those after it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.pretraining.models.decoding import BeamSearch, NucleusSampling, caption_ids
from virtex.pretraining.models.losses import Losses, LossSum
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import Rows
from virtex.pretraining.models.visual import VisualBackbone

Batch = dict[str, Tensor]


class CaptioningModel(nn.Module):
    """A visual backbone, a textual head, and for bicaptioning a second transformer.

    Both directions share projection, embeddings and output; only the transformers differ.

    Attributes:
        backward_textual: the head of the backward direction, or None. It holds the shared
            modules too, so that a state_dict has the published names.
        decoder: how ``caption`` finds its words.
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
        """Cross entropy of each direction, summed over the tokens to predict.

        Args:
            batch: ``image`` (batch, 3, height, width), ``tokens`` (batch, longest) from [SOS]
                to [EOS] and padded at the right, ``lengths`` (batch,).
        """
        return self.textual_losses(self.visual(batch["image"]), batch["tokens"], batch["lengths"])

    def textual_losses(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Losses:
        """The losses from visual features (batch, channels, height, width) on.

        The image is projected once, and both directions are embedded and classified together.
        The last token of a caption predicts nothing and is left out.
        """
        directions = {"captioning_forward": (self.textual, tokens)}
        if self.backward_textual is not None:
            turned = reverse_tokens(tokens, lengths)
            directions["captioning_backward"] = (self.backward_textual, turned)
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
        """Token ids of a caption for each image (batch, 3, height, width), without [SOS], [EOS].

        Args:
            draws: of ``NucleusSampling``, which alone takes them.
        """
        chance = () if draws is None else (draws,)
        tokens, _ = self.decoder(self.textual, self.visual(images), self.sos, self.eos, *chance)
        return caption_ids(tokens, self.eos)

    def samples(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """For each image the ids of its caption and of the predicted one."""
        truth = [t[:n].tolist() for t, n in zip(batch["tokens"], batch["lengths"], strict=True)]
        return list(zip(truth, self.caption(batch["image"]), strict=True))


def reverse_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Captions (batch, longest) read backwards, their padding still at the right."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    mirrored = lengths.to(tokens.device, non_blocking=True)[:, None] - 1 - places
    return tokens.gather(1, torch.where(mirrored >= 0, mirrored, places))
