"""Losses as sums and counts, to be averaged over all processes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSum:
    """A loss summed over tokens or images.

    Attributes:
        total: scalar, with gradient.
        count: scalar, the number of terms in ``total``.
    """

    total: Tensor
    count: Tensor


Losses = dict[str, LossSum]  # the objective is the sum of their means


def mean_losses(losses: Losses) -> dict[str, Tensor]:
    """Average each loss over this process's batch; 0 if its count is 0."""
    return {name: loss.total / loss.count.clamp(min=1) for name, loss in losses.items()}


def total_loss(losses: Losses) -> Tensor:
    """Sum the mean losses of this process's batch."""
    return torch.stack(list(mean_losses(losses).values())).sum()
