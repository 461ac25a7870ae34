"""Generate captions: beam search and nucleus sampling.

A token never follows itself, as in the published decoders.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from virtex.pretraining.models.textual import TransformerTextualHead

EXCLUDED = -10000.0  # log-probability of a forbidden token; finite, so that sums stay finite


@dataclass(frozen=True)
class BeamSearch:
    """Keep the ``beam_size`` most probable captions at each step.

    Attributes:
        beam_size: 1 is greedy decoding.
        max_steps: maximum number of tokens, with the end token.
        per_node: candidates per beam and step (arXiv 1702.01806).
    """

    beam_size: int = 5
    max_steps: int = 30
    per_node: int = 2

    @torch.no_grad()
    def __call__(
        self, head: TransformerTextualHead, features: Tensor, start: int, end: int
    ) -> tuple[Tensor, Tensor]:
        """Find the most probable caption of each image.

        Args:
            features: (batch, channels, height, width).
            start, end: ids of the start and end tokens.

        Returns:
            Tokens (batch, longest caption) without ``start``, filled with ``end`` after a
            caption's end; their summed log-probabilities (batch,).
        """
        batch, beams = len(features), self.beam_size
        state = head.start(features)
        first = state.step(torch.full((batch,), start, device=features.device))
        vocabulary = first.shape[-1]
        scores, tokens = F.log_softmax(first.float(), dim=-1).topk(min(beams, vocabulary))
        beams = scores.shape[1]
        captions = tokens[..., None]  # (batch, beams, steps)
        state.select(torch.arange(batch, device=features.device).repeat_interleave(beams))
        row = beams * torch.arange(batch, device=features.device)[:, None]
        per_node = min(max(self.per_node, 1), vocabulary) if beams > 1 else 1
        ended = torch.full((vocabulary,), -torch.inf, device=features.device)
        ended[end] = 0.0
        for _ in range(self.max_steps - 1):
            last = captions[..., -1].flatten()
            if (last == end).all():
                break
            steps = F.log_softmax(state.step(last).float(), dim=-1)
            steps.scatter_(1, last[:, None], EXCLUDED)
            steps = torch.where((last == end)[:, None], ended, steps)
            added, proposed = steps.topk(per_node)
            sums = (scores[..., None] + added.view(batch, beams, per_node)).flatten(1)
            scores, chosen = sums.topk(beams)  # (batch, beams)
            parent = chosen // per_node
            proposed = proposed.view(batch, -1).gather(1, chosen)
            kept = captions.gather(1, parent[..., None].expand(-1, -1, captions.shape[-1]))
            captions = torch.cat([kept, proposed[..., None]], dim=-1)
            state.select((row + parent).flatten())
        return captions[:, 0], scores[:, 0]


@dataclass(frozen=True)
class NucleusSampling:
    """Draw each token from the smallest set with probability ``nucleus_size`` (top-p sampling).

    Holtzman et al., arXiv 1904.09751.
    """

    nucleus_size: float = 0.9
    max_steps: int = 30

    @torch.no_grad()
    def __call__(
        self,
        head: TransformerTextualHead,
        features: Tensor,
        start: int,
        end: int,
        draws: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw a caption for each image; arguments and results as ``BeamSearch``.

        Args:
            draws: (batch, max_steps), uniform in [0, 1), one for each token, so that a caption
                does not depend on the rest of the batch; None: drawn from torch's generator.
        """
        if draws is None:
            draws = torch.rand(len(features), self.max_steps, device=features.device)
        state = head.start(features)
        last = torch.full((len(features),), start, device=features.device)
        scores = torch.zeros(len(features), device=features.device)
        captions: list[Tensor] = []
        for step in range(self.max_steps):
            logits = state.step(last).float()
            ranked, order = logits.sort(descending=True)
            share = ranked.softmax(dim=-1)
            outside = share.cumsum(dim=-1) - share > self.nucleus_size  # after the nucleus
            ranked = ranked.masked_fill(outside | (order == last[:, None]), -torch.inf)
            # without the previous token, a nucleus may be empty: use the next most probable token
            ranked[:, 1] = torch.where(
                ranked.isneginf().all(dim=-1), torch.zeros_like(ranked[:, 1]), ranked[:, 1]
            )
            drawn = inverse_cdf(ranked.softmax(dim=-1), draws[:, step, None])
            token = order.gather(1, drawn)[:, 0]
            token = torch.where(last == end, end, token)
            step_scores = F.log_softmax(logits, dim=-1).gather(1, token[:, None])[:, 0]
            scores += torch.where(last == end, 0.0, step_scores)
            captions.append(token)
            last = token
            if (last == end).all():
                break
        return torch.stack(captions, dim=1), scores


def inverse_cdf(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Return the first index (batch, 1) at which the cumulative sum of a row exceeds the draw.

    An index of probability 0 is never returned, regardless of rounding.

    Args:
        probabilities: (batch, n).
        draws: (batch, 1), in [0, 1).
    """
    sums = probabilities.cumsum(dim=-1)
    total = sums[:, -1:]
    last = (sums < total).sum(dim=-1, keepdim=True)
    return torch.minimum((sums <= draws * total).sum(dim=-1, keepdim=True), last)


def caption_ids(tokens: Tensor, end: int) -> list[list[int]]:
    """Convert (batch, longest) to lists, each truncated before ``end``."""
    rows = tokens.tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
