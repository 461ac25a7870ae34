"""Which sample comes when: a function of the seed and the position in the stream alone.

The training stream is one endless row of positions, shared by all processes. It does not
depend on their number, nor on that of their workers, nor on where a run was resumed.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from virtex.errors import UserError

Key = tuple[int, int]  # position in the stream, index of the image
PURPOSE = int.from_bytes(b"order", "little")  # other draws than those of the samples


class TrainingStream(Sampler[list[Key]]):
    """Endless batches of (position, index) for one process, from any iteration on.

    Global batch i covers the positions i·B … (i+1)·B - 1. Each epoch is a new permutation of
    all images; a batch may span two. Of each global batch, rank r of w takes every w-th
    position from the r-th on.
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
            images: number of images of the set.
            batch_size: of all processes together.
            start: iteration of the first batch; those before it cost nothing.

        Raises:
            UserError: the processes cannot share a batch evenly.
        """
        if batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared evenly by {world_size} "
                "processes; set OPTIM.BATCH_SIZE to a multiple of their number"
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
        """The indices of all images in the order of an epoch."""
        entropy = np.random.SeedSequence([PURPOSE, self.seed, epoch])
        return np.random.default_rng(entropy).permutation(self.images)


def validation_share(images: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """The indices that a process validates: over all of them, each image exactly once.

    Shares may differ by one image; none is filled up with images of another.
    """
    return list(range(rank, images, world_size))


def validation_batches(
    images: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[Key]]:
    """A process's share in batches; ``batch_size`` is that of all processes together."""
    share = validation_share(images, rank, world_size)
    size = max(batch_size // world_size, 1)
    return [
        [(index, index) for index in share[first : first + size]]
        for first in range(0, len(share), size)
    ]


def subset(images: int, percentage: float, seed: int) -> list[int]:
    """Ascending indices of a random share of the images, one at least.

    With the same seed, the smaller share is part of the larger one.

    Args:
        percentage: in (0, 100].
    """
    entropy = np.random.SeedSequence([int.from_bytes(b"subset", "little"), seed])
    order = np.random.default_rng(entropy).permutation(images)
    return sorted(order[: max(1, round(images * percentage / 100))].tolist())
