"""The training stream: what comes at which iteration depends on the seed alone.

The n-th sample of the stream, its augmentation included, is a function of (seed, n). A run
that is resumed at any iteration therefore sees what the uninterrupted run would have seen,
with any number of workers.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from virtex.data.transforms import PROGRAMS
from virtex.data.workers import Watched, serve
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
WORKERS = "DATALOADER.NUM_WORKERS"


class ReadableImages:
    """A mapper around Detectron2's own that returns an unreadable image as a ``UserError``.

    An exception in a worker process would arrive as text; a value arrives as it is.
    """

    def __init__(self, mapper: Callable[[Sample], Sample], remedy: str):
        """
        Args:
            remedy: what the user can do about a broken file.
        """
        self.mapper, self.remedy = mapper, remedy

    def __call__(self, sample: Sample) -> Sample | UserError:
        try:
            with Image.open(sample["file_name"]) as image:  # which Detectron2's reader would run
                if image.format in PROGRAMS:
                    raise OSError(f"it is {image.format}, which is a program and no picture")
            return self.mapper(sample)
        except SizeMismatchError as error:
            return UserError(f"{sample['file_name']} has another size than its annotation: {error}")
        except ValueError as error:
            return UserError(f"{sample['file_name']}: its annotation cannot be used: {error}")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's
            return UserError(
                f"the image {sample['file_name']} cannot be read ({str(error) or type(error)}); "
                f"{self.remedy}"
            )


def raise_if_unreadable(batch: list[Sample | UserError]) -> list[Sample]:
    sound = []
    for sample in batch:
        if isinstance(sample, UserError):
            raise sample
        sound.append(sample)
    return sound


class SeededSamples(Dataset):
    """Maps ``(position in the stream, index of the image)`` to an augmented sample."""

    def __init__(self, samples: list[Sample], cfg: CfgNode, skip_bad_images: bool):
        self.samples = DatasetFromList(samples, copy=False)  # one copy for all workers
        self.mapper = ReadableImages(
            DatasetMapper(cfg, True),
            "restore it, or train without such images with --skip-bad-images",
        )
        self.seed = cfg.SEED
        self.skip_bad_images = skip_bad_images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        position, index = key
        for attempt in range(len(self.samples)):
            seed_everything("sample", self.seed, position, attempt)
            sample = self.mapper(self.samples[(index + attempt) % len(self.samples)])
            if not (self.skip_bad_images and isinstance(sample, UserError)):
                return sample
            logger.warning("left out: %s", sample)
        return UserError("not one image of the training set can be read")


class ResumableBatches(Sampler):
    """Batches of (position, index), from any iteration on.

    Images are grouped by aspect ratio as Detectron2 does (wide with wide), but on their
    annotated sizes, before an image is opened; so skipping to an iteration costs no decoding.
    """

    def __init__(self, indices: Sampler, wide: list[bool] | None, batch_size: int, start: int):
        """
        Args:
            indices: one of Detectron2's infinite samplers: this process's share of the stream.
            wide: whether each image is wider than high; None to not group.
            batch_size: of this process.
            start: iteration of the first batch.
        """
        self.indices, self.wide = indices, wide
        self.batch_size, self.start = batch_size, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        world_size, rank = comm.get_world_size(), comm.get_rank()
        buckets: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        made = 0
        for step, index in enumerate(self.indices):
            bucket = buckets[self.wide[index] if self.wide else False]
            bucket.append((step * world_size + rank, index))
            if len(bucket) == self.batch_size:
                made += 1
                if made > self.start:
                    yield bucket[:]
                bucket.clear()


def training_samples(cfg: CfgNode) -> list[Sample]:
    """The images to train on, those without objects left out where the config says so.

    Raises:
        UserError: none is left.
    """
    try:
        samples = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except (AssertionError, KeyError, OSError) as error:
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise UserError(f"the training data {names} cannot be had: {error}") from error
    if not samples:
        raise UserError(f"{', '.join(cfg.DATASETS.TRAIN)}: no image has an object to train on")
    return samples


def training_batches(
    cfg: CfgNode,
    samples: list[Sample],
    start: int = 0,
    skip_bad_images: bool = False,
    stream: int = 0,
    num_workers: int | None = None,
) -> Iterator[list[Sample]]:
    """Infinite batches of this process from iteration ``start`` on.

    Before a batch is given out, the random state that the model will draw from (sampling of
    regions) is set from (seed, iteration, rank).

    Args:
        stream: another number gives another order and other draws from the same seed.
        num_workers: in place of the config's.

    Raises:
        UserError: at the batch that holds an image which cannot be read; or a worker died.
    """
    workers = cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    wide = [s["width"] > s["height"] for s in samples] if grouped else None
    loader = DataLoader(
        SeededSamples(samples, cfg, skip_bad_images),
        batch_sampler=ResumableBatches(
            build_sampler(cfg, samples, stream),
            wide,
            cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
            start,
        ),
        num_workers=workers,
        worker_init_fn=serve,
        collate_fn=raw_batch,
        multiprocessing_context="fork" if workers else None,
    )
    for iteration, batch in enumerate(Watched(loader, WORKERS), start):
        raise_if_unreadable(batch)
        seed_everything("model", cfg.SEED, iteration, comm.get_rank(), stream)
        yield batch


def raw_batch(batch: list[Sample]) -> list[Sample]:
    """Detectron2's models take a list of samples of different sizes."""
    return batch


def build_sampler(cfg: CfgNode, samples: list[Sample], stream: int) -> Sampler:
    """Detectron2's sampler that the config names (``SEEDED_SAMPLERS``), seeded."""
    seed = cfg.SEED + 1_000_003 * stream
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(samples), seed=seed)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        samples, cfg.DATALOADER.REPEAT_THRESHOLD
    )
    return RepeatFactorTrainingSampler(factors, seed=seed)


def test_batches(cfg: CfgNode, samples: list[Sample]) -> Watched:
    """Each image of this process's share once, one at a time, in order.

    Raises:
        UserError: a worker died.
    """
    loader = build_detection_test_loader(
        samples,
        mapper=ReadableImages(
            DatasetMapper(cfg, False), "restore it, for a score must cover every image"
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    loader.worker_init_fn = serve  # Detectron2's function takes none
    return Watched(loader, WORKERS)
