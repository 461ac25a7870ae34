"""Losses as sums, so that a mean can be taken over the tokens of all processes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSum:
    """A loss summed over what it counts (tokens, images).

    Attributes:
        total: scalar, with gradient.
        count: scalar, how many terms ``total`` has.
    """

    total: Tensor
    count: Tensor


Losses = dict[str, LossSum]  # the objective is the sum of their means


def mean_losses(losses: Losses) -> dict[str, Tensor]:
    """The mean of each loss over this batch alone; 0 where nothing was counted."""
    return {name: loss.total / loss.count.clamp(min=1) for name, loss in losses.items()}


def total_loss(losses: Losses) -> Tensor:
    """The objective over this batch alone."""
    return torch.stack(list(mean_losses(losses).values())).sum()
