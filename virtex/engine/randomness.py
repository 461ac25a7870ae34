"""Random numbers that depend on the seed and on what they are for, and on nothing before."""

import random

import numpy as np
import torch


def seed_everything(purpose: str, *numbers: int) -> None:
    """Seed torch, numpy and random from non-negative integers; another purpose, other draws.

    A draw that is seeded just before it, from (seed, iteration, …), is the same after a resume
    and needs no saved state; with the rank among the numbers, every process draws its own.
    """
    entropy = [int.from_bytes(purpose.encode(), "little"), len(numbers), *numbers]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # manual_seed formats the whole stack each time, for a GPU that never comes
        torch.default_generator.manual_seed(seed)
