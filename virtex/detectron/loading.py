"""The training stream, a function of the seed alone, and the test loader.

The n-th sample of the stream, including its augmentation, is a function of (seed, n). A run that
is resumed at any iteration therefore sees what an uninterrupted run would have seen, with any
number of workers.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    detection_utils,
)
from detectron2.data.detection_utils import SizeMismatchError, convert_PIL_to_numpy
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from virtex.data.decoding import load_rgb, report_conversions, take_conversions
from virtex.data.workers import GuardedLoader, init_worker
from virtex.detectron.augmentation import build_instance_mapper
from virtex.detectron.semantic import SemanticMapper, is_semantic
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
WORKERS = "DATALOADER.NUM_WORKERS"
SKIP_HINT = ", or skip such images with --skip-bad-images"
CONVERTED = "converted"  # key of a sample: the images that were converted for it


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image with the decoder of all tasks, as Detectron2's function of this name.

    Raises:
        UserError: it cannot be decoded.
    """
    return convert_PIL_to_numpy(Image.fromarray(load_rgb(file_name)), format)


detection_utils.read_image = read_image  # for DatasetMapper, which has no parameter for it


def build_mapper(cfg: CfgNode, is_train: bool) -> Callable[[Sample], Sample]:
    """Build the function that reads and augments an image.

    Detectron2 raises AssertionError, TypeError or ValueError for invalid settings.
    """
    return (SemanticMapper if is_semantic(cfg) else build_instance_mapper)(cfg, is_train)


def check_mask_format(cfg: CfgNode, samples: list[Sample]) -> None:
    """Check that masks can be trained in ``INPUT.MASK_FORMAT``; crowds are not trained on.

    Raises:
        UserError: an object has a run-length mask, which is not a polygon.
    """
    if not cfg.MODEL.MASK_ON or cfg.INPUT.MASK_FORMAT != "polygon":
        return
    for sample in samples:
        for found in sample["annotations"]:
            if isinstance(found.get("segmentation"), dict) and not found.get("iscrowd", 0):
                raise UserError(
                    f"expected masks of polygons, but an object of {sample['file_name']} has a "
                    "run-length mask; set INPUT.MASK_FORMAT bitmask",
                    code="data.mask_format",
                )


class SafeMapper:
    """Wraps a dataset mapper; returns a ``UserError`` for an image that cannot be used.

    Returned rather than raised, because an exception in a worker process loses its type.
    """

    def __init__(self, mapper: Callable[[Sample], Sample], hint: str = ""):
        """
        Args:
            hint: appended to the message about an unreadable file.
        """
        self.mapper, self.hint = mapper, hint

    def __call__(self, sample: Sample) -> Sample | UserError:
        name = sample["file_name"]
        try:
            return {**self.mapper(sample), CONVERTED: take_conversions()}
        except SizeMismatchError as error:
            return UserError(
                f"{name} does not have the size of its annotation: {error}",
                code="data.image_size",
            )
        except ValueError as error:
            return UserError(f"{name} has an invalid annotation: {error}", code="data.annotation")
        except UserError as error:
            return UserError(f"{error}{self.hint}", code=error.code)


def raise_if_error(batch: list[Sample | UserError]) -> list[Sample]:
    samples = []
    for sample in batch:
        if isinstance(sample, UserError):
            raise sample
        report_conversions(sample.pop(CONVERTED))
        samples.append(sample)
    return samples


class SeededSamples(Dataset):
    """Maps ``(position in the stream, index of the image)`` to an augmented sample."""

    def __init__(self, samples: list[Sample], cfg: CfgNode, skip_bad_images: bool):
        self.samples = DatasetFromList(samples, copy=False)  # one copy for all workers
        self.mapper = SafeMapper(build_mapper(cfg, True), SKIP_HINT)
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
            logger.warning("skipped: %s", sample)
        return UserError("no training image can be read", code="data.image")


class ResumableBatches(Sampler):
    """Micro-batches of (position, index) from any iteration on, ``accumulate`` per iteration.

    Images are grouped by aspect ratio as in Detectron2 (wide with wide), but by their annotated
    sizes, so that skipping to an iteration decodes no image.

    The micro-batches are those of N * ``accumulate`` processes: micro-batch i of process r of N has
    the share of the stream, and the aspect ratio groups, of process i * N + r.
    """

    def __init__(
        self,
        indices: Sampler,
        wide: list[bool] | None,
        batch_size: int,
        start: int,
        accumulate: int = 1,
    ):
        """
        Args:
            indices: one of Detectron2's infinite samplers: this process's share of the stream.
            wide: whether each image is wider than high; None disables grouping.
            batch_size: of a micro-batch of this process.
            start: iteration of the first batch.
            accumulate: micro-batches per iteration.
        """
        self.indices, self.wide = indices, wide
        self.batch_size, self.start, self.accumulate = batch_size, start, accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        world_size, rank = comm.get_world_size(), comm.get_rank()
        buckets: dict[tuple[int, bool], list[tuple[int, int]]] = defaultdict(list)
        complete: list[deque] = [deque() for _ in range(self.accumulate)]
        iterations = 0
        for step, index in enumerate(self.indices):
            part = step % self.accumulate
            bucket = buckets[part, self.wide[index] if self.wide else False]
            bucket.append((step * world_size + rank, index))
            if len(bucket) == self.batch_size:
                complete[part].append(bucket[:])
                bucket.clear()
                if all(complete):
                    iterations += 1
                    batches = [queue.popleft() for queue in complete]
                    if iterations > self.start:
                        yield from batches


def training_batches(
    cfg: CfgNode,
    samples: list[Sample],
    start: int = 0,
    skip_bad_images: bool = False,
    stream: int = 0,
    num_workers: int | None = None,
) -> Iterator[list[Sample]]:
    """Yield micro-batches of this process without end, from iteration ``start`` on.

    There are ``SOLVER.ACCUMULATE`` per iteration. Before each one, the random state that the model
    draws from (sampling of regions) is set from (seed, iteration, rank), where micro-batch i of
    process r of N has the rank i * N + r.

    Args:
        stream: another number gives another order and other draws from the same seed.
        num_workers: overrides the config.

    Raises:
        UserError: an image of the batch cannot be read, or a worker was killed.
    """
    workers = cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers
    accumulate, processes = cfg.SOLVER.ACCUMULATE, comm.get_world_size()
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    wide = [s["width"] > s["height"] for s in samples] if grouped else None
    loader = DataLoader(
        SeededSamples(samples, cfg, skip_bad_images),
        batch_sampler=ResumableBatches(
            build_sampler(cfg, samples, stream),
            wide,
            cfg.SOLVER.IMS_PER_BATCH // (processes * accumulate),
            start,
            accumulate,
        ),
        num_workers=workers,
        worker_init_fn=init_worker,
        collate_fn=lambda batch: batch,  # Detectron2's models take lists of samples
        multiprocessing_context="fork" if workers else None,
    )
    for number, batch in enumerate(GuardedLoader(loader, WORKERS), start * accumulate):
        raise_if_error(batch)
        iteration, part = divmod(number, accumulate)
        rank = part * processes + comm.get_rank()
        seed_everything("model", cfg.SEED, iteration, rank, stream)
        yield batch


def build_sampler(cfg: CfgNode, samples: list[Sample], stream: int) -> Sampler:
    """Build the sampler that the config names (one of ``SEEDED_SAMPLERS``), seeded."""
    seed = cfg.SEED + 1_000_003 * stream
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(samples), seed=seed)
    # v0.5 always takes the square root
    sqrt = {"sqrt": cfg.DATALOADER.REPEAT_SQRT} if "REPEAT_SQRT" in cfg.DATALOADER else {}
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        samples, cfg.DATALOADER.REPEAT_THRESHOLD, **sqrt
    )
    return RepeatFactorTrainingSampler(factors, seed=seed)


def test_batches(
    cfg: CfgNode,
    samples: list[Sample],
    hint: str = "; a score must cover every image of the set",
    workers: str = WORKERS,
) -> GuardedLoader:
    """Load this process's share of the test images once, one at a time, in order.

    Args:
        hint: appended to the error message about an unreadable file.
        workers: option that sets the number of workers, for error messages.

    Raises:
        UserError: a worker was killed.
    """
    loader = build_detection_test_loader(
        samples,
        mapper=SafeMapper(build_mapper(cfg, False), hint),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    loader.worker_init_fn = init_worker  # not a parameter of Detectron2's function
    return GuardedLoader(loader, workers)
