"""Set random states that depend only on the seed and the purpose, not on earlier draws."""

import random

import numpy as np
import torch


def seed_everything(purpose: str, *numbers: int) -> None:
    """Seed torch, NumPy and random from a purpose and non-negative integers.

    A draw that is seeded right before it, from (seed, iteration, …), is the same after a resume
    without any saved random state. With the rank among the numbers, every process has its own.
    """
    entropy = [int.from_bytes(purpose.encode(), "little"), len(numbers), *numbers]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # torch.manual_seed formats the whole stack each time, for lazy CUDA initialization
        torch.default_generator.manual_seed(seed)
