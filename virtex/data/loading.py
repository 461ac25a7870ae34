"""Seeded datasets and resumable loaders.

A sample and its augmentation are a function of (seed, position in the stream), independent of the
process, worker and epoch, and of resuming.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from virtex.data.decoding import report_conversions, take_conversions
from virtex.data.streams import Key, TrainingStream, validation_batches
from virtex.data.workers import GuardedLoader, init_worker
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Batch = dict[str, Tensor]


# Samples -----------------------------------------------------------------------------------------


class SeededSet(Dataset[Sample | UserError], ABC):
    """Map (position in the stream, image index) to a sample; seeded by (seed, position).

    Subclasses implement ``__len__``, ``sample`` and ``batch``.
    """

    def __init__(self, seed: int = 0, training: bool = True, skip_bad_images: bool = False):
        """
        Args:
            skip_bad_images: in training, replace an undecodable image with the next one, with a
                warning.
        """
        self.seed, self.training = seed, training
        self.skip_bad_images = skip_bad_images and training

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Return the image ``index`` with its targets; draws from torch's global generator.

        Raises:
            UserError: the image cannot be decoded.
        """

    @abstractmethod
    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples."""

    def __getitem__(self, key: Key) -> Sample | UserError:
        """Return the sample, or the error as a value.

        An exception would reach the main process as text.
        """
        position, index = key
        for attempt in range(len(self)):
            seed_everything("sample", self.seed, position, attempt)
            try:
                return self.sample((index + attempt) % len(self))
            except UserError as error:
                if not self.skip_bad_images:
                    return error
                logger.warning("skipped: %s", error)
        return UserError(
            "cannot decode any image of the training set; restore the images", "data.image"
        )

    def collate(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        """Return a batch, or the first error among the samples."""
        errors = [sample for sample in samples if isinstance(sample, UserError)]
        valid = [sample for sample in samples if not isinstance(sample, UserError)]
        return errors[0] if errors else self.batch(valid)


# Loaders -----------------------------------------------------------------------------------------


Message = tuple[Batch | UserError, dict[str, str]]  # a batch, and the images converted for it


def send(dataset: SeededSet, samples: Sequence[Sample | UserError]) -> Message:
    """Collate samples in a worker."""
    return dataset.collate(samples), take_conversions()


def receive(message: Message) -> Batch:
    """Return the batch and count its conversions; raise it if it is an error."""
    batch, converted = message
    report_conversions(converted)
    if isinstance(batch, UserError):
        raise batch
    return batch


class CheckedBatches:
    """Batches of a loader; raises UserError for undecodable images and killed workers."""

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return map(receive, GuardedLoader(self.loader))

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
    """Return the infinite batches of this process, beginning with iteration ``start``.

    Args:
        batch_size: total over all processes.

    Raises:
        UserError: ``batch_size`` is not a multiple of ``world_size``; while iterating, an image
            cannot be decoded.
    """
    stream = TrainingStream(len(dataset), batch_size, seed, rank, world_size, start)
    return iter(CheckedBatches(_loader(dataset, stream, num_workers)))


def validation_loader(
    dataset: SeededSet,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> CheckedBatches:
    """Return the batches that this process validates; each image belongs to one process.

    The number of batches may differ between processes; it can be 0.

    Args:
        batch_size: total over all processes.

    Raises:
        UserError: while iterating, an image cannot be decoded.
    """
    batches = validation_batches(len(dataset), batch_size, rank, world_size)
    return listed_loader(dataset, batches, num_workers)


def listed_loader(
    dataset: SeededSet, batches: list[list[Key]], num_workers: int = 0
) -> CheckedBatches:
    """Return the given batches, lists of (position, image index).

    Raises:
        UserError: while iterating, an image cannot be decoded.
    """
    return CheckedBatches(_loader(dataset, batches, num_workers))


def _loader(
    dataset: SeededSet, batches: TrainingStream | list[list[Key]], num_workers: int
) -> DataLoader:
    # Workers need no seeds because every sample sets its own.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        worker_init_fn=init_worker,
        collate_fn=partial(send, dataset),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
