"""The order of samples: a function of the seed and the position in the stream only.

The training stream is one infinite sequence of positions, split among all processes. It does not
depend on the number of processes or workers, or on where a run was resumed.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from virtex.errors import UserError

Key = tuple[int, int]  # position in the stream, image index
PURPOSE = int.from_bytes(b"order", "little")  # another stream than other uses


class TrainingStream(Sampler[list[Key]]):
    """Infinite batches of (position, index) for one process, starting at any iteration.

    Global batch i covers the positions i·B … (i+1)·B - 1. Each epoch is a new permutation of
    all images; a batch may span two epochs. Rank r of w takes the positions r, r + w, r + 2w, …
    of each global batch.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ):
        """
        Args:
            images: number of images.
            batch_size: total over all processes.
            start: iteration of the first batch; earlier batches are not computed.

        Raises:
            UserError: ``batch_size`` is not a multiple of ``world_size``.
        """
        if batch_size % world_size:
            raise UserError(
                f"OPTIM.BATCH_SIZE must be a multiple of the number of processes, {world_size}, "
                f"not {batch_size}",
                "config.batch_size",
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.world_size, self.start = rank, world_size, start

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for iteration in count(self.start):
            first = iteration * self.batch_size
            batch = []
            for position in range(first + self.rank, first + self.batch_size, self.world_size):
                if position // self.images != epoch:
                    epoch = position // self.images
                    order = self.epoch_order(epoch)
                batch.append((position, int(order[position % self.images])))
            yield batch

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return the indices of all images in the order of an epoch."""
        entropy = np.random.SeedSequence([PURPOSE, self.seed, epoch])
        return np.random.default_rng(entropy).permutation(self.images)


def validation_share(images: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Return the indices that a process validates: each image belongs to exactly one process.

    The sizes of the shares differ by at most one; there is no padding.
    """
    return list(range(rank, images, world_size))


def validation_batches(
    images: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[Key]]:
    """Return the batches of a process; ``batch_size`` is the total over all processes."""
    share = validation_share(images, rank, world_size)
    size = max(batch_size // world_size, 1)
    return [
        [(index, index) for index in share[first : first + size]]
        for first in range(0, len(share), size)
    ]


def subset(images: int, percentage: float, seed: int) -> list[int]:
    """Return ascending indices of a random fraction of the images, at least one.

    With the same seed, a smaller percentage gives a subset of a larger one.

    Args:
        percentage: in (0, 100].
    """
    entropy = np.random.SeedSequence([int.from_bytes(b"subset", "little"), seed])
    order = np.random.default_rng(entropy).permutation(images)
    return sorted(order[: max(1, round(images * percentage / 100))].tolist())
