"""Targets of the pretraining tasks from captions. Draws from torch's global generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from virtex.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextOptions:
    """Options of tokenization and masking.

    Attributes:
        max_length: maximum number of ids of a caption, including [SOS] and [EOS].
        proportion: fraction of a caption's tokens that masked_lm predicts.
        mask: fraction of the predicted tokens that are replaced by [MASK].
        replace: fraction of the predicted tokens that are replaced by a random token; the rest
            is unchanged.
    """

    tokenizer: Tokenizer
    max_length: int = 30
    proportion: float = 0.15
    mask: float = 0.85
    replace: float = 0.10


Targets = dict[str, list[int]]


def caption_targets(caption: str, options: TextOptions) -> Targets:
    """Return ``tokens``: [SOS] … [EOS]."""
    return {"tokens": options.tokenizer.encode_caption(caption, options.max_length)}


def masked_targets(caption: str, options: TextOptions) -> Targets:
    """Return ``tokens`` with some masked, and ``labels``: the original tokens, 0 if not predicted.

    Predicts max(1, ceil(proportion · n)) of the n known tokens. As in BERT, replaced and
    unchanged tokens are labeled as well (the published code labels only those under [MASK]).
    """
    tokenizer = options.tokenizer
    tokens = tokenizer.encode_caption(caption, options.max_length)
    known = [position for position, token in enumerate(tokens) if token > tokenizer.mask_id]
    labels = [tokenizer.pad_id] * len(tokens)
    num_predicted = math.ceil(options.proportion * len(known)) or 1
    for choice in torch.randperm(len(known))[:num_predicted].tolist():
        position, draw = known[choice], torch.rand(()).item()
        labels[position] = tokens[position]
        if draw < options.mask:
            tokens[position] = tokenizer.mask_id
        elif draw < options.mask + options.replace:
            tokens[position] = int(torch.randint(tokenizer.mask_id + 1, len(tokenizer), ()))
    return {"tokens": tokens, "labels": labels}


def token_targets(caption: str, options: TextOptions) -> Targets:
    """Return ``labels``: the sorted unique tokens of the caption without special ones."""
    tokenizer = options.tokenizer
    tokens = set(tokenizer.encode_caption(caption, options.max_length))
    return {"labels": sorted(token for token in tokens if token > tokenizer.mask_id)}


# MODEL.NAME -> targets. multilabel_classification has labels in place of captions.
CAPTION_TASKS: dict[str, Callable[[str, TextOptions], Targets]] = {
    "virtex": caption_targets,
    "bicaptioning": caption_targets,
    "captioning": caption_targets,
    "masked_lm": masked_targets,
    "token_classification": token_targets,
}
