"""What each pretraining task makes of a caption. Random numbers come from torch's generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from virtex.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextOptions:
    """How captions become ids.

    Attributes:
        max_length: ids of a caption at most, [SOS] and [EOS] included.
        proportion: share of a caption's tokens that masked_lm has to predict.
        mask: of these, the share that becomes [MASK].
        replace: of these, the share that becomes a random token; the rest stays as it is.
    """

    tokenizer: Tokenizer
    max_length: int = 30
    proportion: float = 0.15
    mask: float = 0.85
    replace: float = 0.10


Targets = dict[str, list[int]]


def caption_targets(caption: str, options: TextOptions) -> Targets:
    """``tokens``: [SOS] … [EOS]."""
    return {"tokens": options.tokenizer.encode_caption(caption, options.max_length)}


def masked_targets(caption: str, options: TextOptions) -> Targets:
    """``tokens`` with some hidden, and ``labels``: what these were; 0 where nothing is asked.

    ceil(proportion · n) of the n known tokens are asked for, one at least where there is one.
    All of them are labeled, as in BERT: those replaced by a random token and those that stay
    too (the published code asks only for those behind [MASK]).
    """
    tokenizer = options.tokenizer
    tokens = tokenizer.encode_caption(caption, options.max_length)
    known = [place for place, token in enumerate(tokens) if token > tokenizer.mask_id]
    labels = [tokenizer.pad_id] * len(tokens)
    asked = math.ceil(options.proportion * len(known)) or 1
    for choice in torch.randperm(len(known))[:asked].tolist():
        place, draw = known[choice], torch.rand(()).item()
        labels[place] = tokens[place]
        if draw < options.mask:
            tokens[place] = tokenizer.mask_id
        elif draw < options.mask + options.replace:
            tokens[place] = int(torch.randint(tokenizer.mask_id + 1, len(tokenizer), ()))
    return {"tokens": tokens, "labels": labels}


def token_targets(caption: str, options: TextOptions) -> Targets:
    """``labels``: the tokens of the caption, each once, ascending; no special ones."""
    tokenizer = options.tokenizer
    tokens = set(tokenizer.encode_caption(caption, options.max_length))
    return {"labels": sorted(token for token in tokens if token > tokenizer.mask_id)}


# What each task makes of a caption. The one task that is not here, multilabel_classification,
# has labels in place of captions.
CAPTION_TASKS: dict[str, Callable[[str, TextOptions], Targets]] = {
    "virtex": caption_targets,
    "bicaptioning": caption_targets,
    "captioning": caption_targets,
    "masked_lm": masked_targets,
    "token_classification": token_targets,
}
