"""Samples that are drawn from a seed, and loaders of them that can be resumed.

A sample and its augmentation are a function of (seed, position in the stream): no process,
worker, epoch or resumed run draws another's random numbers, and none draws its own twice.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from virtex.data.streams import Key, TrainingStream, validation_batches
from virtex.data.workers import Watched, serve
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Batch = dict[str, Tensor]


# Samples -----------------------------------------------------------------------------------------


class SeededSet(Dataset[Sample | UserError], ABC):
    """Maps (position in the stream, index of the image) to a sample; draws from (seed, position).

    A subclass says how many images there are (``__len__``), what a sample of one is (``sample``),
    and what a batch of samples is (``batch``).
    """

    def __init__(self, seed: int = 0, training: bool = True, skip_bad_images: bool = False):
        """
        Args:
            skip_bad_images: in training, put the next image in the place of one that cannot be
                read, with a warning.
        """
        self.seed, self.training = seed, training
        self.skip_bad_images = skip_bad_images and training

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The image ``index`` with its targets; draws from torch's generator.

        Raises:
            UserError: the image cannot be read.
        """

    @abstractmethod
    def batch(self, samples: Sequence[Sample]) -> Batch:
        """A batch of samples."""

    def __getitem__(self, key: Key) -> Sample | UserError:
        """The sample, or as a value what keeps it from being one.

        An exception in a worker process would arrive as text; a value arrives as it is.
        """
        position, index = key
        for attempt in range(len(self)):
            seed_everything("sample", self.seed, position, attempt)
            try:
                return self.sample((index + attempt) % len(self))
            except UserError as error:
                if not self.skip_bad_images:
                    return error
                logger.warning("left out: %s", error)
        return UserError(
            "no image of the training set can be read; restore the images", "data.image"
        )

    def collate(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        """A batch of samples, or the first of them that is an error."""
        errors = [sample for sample in samples if isinstance(sample, UserError)]
        sound = [sample for sample in samples if not isinstance(sample, UserError)]
        return errors[0] if errors else self.batch(sound)


# Loaders -----------------------------------------------------------------------------------------


def raise_if_unreadable(batch: Batch | UserError) -> Batch:
    """``batch``, unless it is an error: that is raised."""
    if isinstance(batch, UserError):
        raise batch
    return batch


class ReadableBatches:
    """The batches of a loader; at one that is an error, UserError is raised in this process.

    So it is where a worker process dies.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return map(raise_if_unreadable, Watched(self.loader))

    def __len__(self) -> int:
        return len(self.loader)


def training_loader(
    dataset: SeededSet,
    batch_size: int,
    start: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Endless batches of this process, from iteration ``start`` on.

    Args:
        batch_size: of all processes together.

    Raises:
        UserError: here, if the processes cannot share a batch evenly; at the batch that holds
            an image which cannot be read.
    """
    stream = TrainingStream(len(dataset), batch_size, seed, rank, world_size, start)
    return iter(ReadableBatches(_loader(dataset, stream, num_workers)))


def validation_loader(
    dataset: SeededSet,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> ReadableBatches:
    """This process's share of the images, each exactly once over all processes.

    Processes may get different numbers of batches, and none at all of a small set.

    Args:
        batch_size: of all processes together.

    Raises:
        UserError: at the batch that holds an image which cannot be read.
    """
    batches = validation_batches(len(dataset), batch_size, rank, world_size)
    return listed_loader(dataset, batches, num_workers)


def listed_loader(
    dataset: SeededSet, batches: list[list[Key]], num_workers: int = 0
) -> ReadableBatches:
    """The batches that are listed, each of (position, index of the image).

    Raises:
        UserError: as ``validation_loader``.
    """
    return ReadableBatches(_loader(dataset, batches, num_workers))


def _loader(
    dataset: SeededSet, batches: TrainingStream | list[list[Key]], num_workers: int
) -> DataLoader:
    # Workers need no seeds of their own, for every sample sets its seed; and torch keeps each of
    # them to one thread.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        worker_init_fn=serve,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
