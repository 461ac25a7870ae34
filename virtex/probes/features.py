"""Pooled features of a frozen backbone: computed once, read from the cache ever after."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from virtex.checkpoints.backbone import Backbone
from virtex.data.classification import (
    ClassificationSet,
    Transform,
    evaluation_transform,
    training_transform,
)
from virtex.data.image_sets import ImageSet
from virtex.data.loading import validation_loader
from virtex.engine.distributed import (
    all_gather_object,
    broadcast_object,
    rank,
    synchronize,
    world_size,
)
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.pretraining.models.pooled import PooledBackbone
from virtex.probes.feature_cache import FeatureCache, release_pages
from virtex.probes.frozen import require_unchanged, tensors_sha256

logger = logging.getLogger(__name__)

POOLING = "global average"
ROWS_HELD = 8192  # that are written before the system gets them
KEY_VERSION = 1  # raised when the same key would mean other features


@dataclass(frozen=True)
class View:
    """How an image becomes the picture that the network sees.

    Attributes:
        transform: (3, height, width) uint8 to (3, size, size) uint8.
        said: the same in JSON types, for the cache's key.
        seed: of its random draws.
    """

    transform: Transform
    said: dict[str, Any]
    seed: int = 0


def center_view(data: CfgNode) -> View:
    """The middle of an image, as a config's DATA says."""
    resize, crop = data.IMAGE_RESIZE_SIZE, data.IMAGE_CROP_SIZE
    return View(evaluation_transform(resize, crop), {"resize": resize, "center crop": crop})


def random_view(data: CfgNode, seed: int) -> View:
    """A part of each image, drawn from the seed and the image's index."""
    crop, scale = data.IMAGE_CROP_SIZE, list(data.CROP_SCALE)
    said = {"random resized crop": crop, "scale": scale}
    return View(training_transform(crop, tuple(scale)), said, seed)


@dataclass
class Extraction:
    """How features are computed.

    Attributes:
        batch_size: images that go through the network at once, in each process.
        seconds, images: spent and done so far; what came from the cache is not counted.
    """

    device: torch.device
    cache: FeatureCache
    batch_size: int = 64
    num_workers: int = 0
    seconds: float = 0.0
    images: int = 0
    network: PooledBackbone = field(init=False, repr=False, compare=False)

    def check(self, backbone: Backbone, images: int) -> None:
        """Whether the cache can take the features of so many images, all views counted.

        Raises:
            UserError: it cannot be written, or its limit is too small.
        """
        features = PooledBackbone(backbone, frozen=True).feature_size
        self.cache.check(images * features * 4)

    def open(self, backbone: Backbone) -> None:
        """Take a backbone to compute features of."""
        self.backbone = backbone
        network = PooledBackbone(backbone, frozen=True).to(self.device).eval()
        # a tenth faster on CPUs, equal within rounding
        self.network = network.to(memory_format=torch.channels_last)
        self.sha256 = tensors_sha256(self.network.cnn)

    def close(self) -> dict[str, Any]:
        """What the record says of the backbone, which must be the one that was opened.

        Raises:
            UserError: it changed.
        """
        said = require_unchanged(self.network.cnn, self.sha256)
        del self.network
        return said

    def timing(self) -> dict[str, float]:
        """Nothing where all came from the cache."""
        if not self.images:
            return {}
        return {
            "extract_seconds": self.seconds,
            "extract_images_per_second": self.images / self.seconds,
        }

    def key(self, images: ImageSet, view: View) -> dict[str, Any]:
        """Everything that the features depend on."""
        return {
            "version": KEY_VERSION,
            "backbone": self.sha256,
            "arch": asdict(self.backbone.arch),
            "input": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self.backbone.input).items()
            },
            "images": images.fingerprint(),
            "transform": view.said,
            "seed": view.seed,
            "pooling": POOLING,
        }

    def features(self, images: ImageSet, view: View) -> np.ndarray:
        """The features of every image, float32 (images, features), mapped from disk, read-only.

        All processes share the work, each image once, and get the same array.

        Raises:
            UserError: an image cannot be read, memory does not do for one image, features are
                not finite, or the cache cannot hold them.
        """
        key = self.key(images, view)
        found = self.cache.find(key)
        # another job may drop an entry between two looks at it
        everywhere = all(all_gather_object(found is not None))
        if found is None or not everywhere:
            return self.fill(images, view, key)
        logger.info("in the cache already: %s, %s", images.name, self.cache.place(key))
        return found

    def fill(self, images: ImageSet, view: View, key: dict[str, Any]) -> np.ndarray:
        """Compute an entry of the cache, and give it: also where others soon drop it."""
        start = time.perf_counter()
        shape = (len(images), self.network.feature_size)
        if rank():
            features = self.compute(images, view, broadcast_object(None))
            synchronize()
            synchronize()
            return self.found(key, features)
        said = {"checkpoint": self.backbone.source.requested, "data": images.name}
        with self.cache.writing(key, shape, said) as path:
            features = self.compute(images, view, broadcast_object(path))
            require_unchanged(self.network.cnn, self.sha256)  # else others would use its features
            synchronize()
        synchronize()  # the entry has its name
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.images += len(images)
        logger.info(
            "features of %s: %d images in %.1f s, %.1f images/s",
            images.name,
            len(images),
            seconds,
            len(images) / seconds,
        )
        return self.found(key, features)

    def found(self, key: dict[str, Any], features: np.ndarray) -> np.ndarray:
        """What was computed, by its name: on a shared disk a file without one can be lost."""
        found = self.cache.find(key)
        return features if found is None else found

    @torch.inference_mode()
    def compute(self, images: ImageSet, view: View, path: Any) -> np.ndarray:
        """Fill this process's rows of an array file. Returns all rows, mapped and read-only."""
        try:
            array = np.lib.format.open_memmap(path, "r+")
        except FileNotFoundError as error:
            raise UserError(
                f"process {rank()} does not see the cache {self.cache.folder}; several machines "
                "must share it (--cache-dir)"
            ) from error
        data = ClassificationSet(images, view.transform, view.seed, training=False)
        forward = AdaptiveBatchForward(self.network, self.batch_size, self.device)
        batches = validation_loader(
            data, self.batch_size * world_size(), rank(), world_size(), self.num_workers
        )
        total, written = len(range(rank(), len(images), world_size())), 0
        with progress_bar(total, "image", images.name) as bar:
            for batch in batches:
                # numpy's, for torch's threads wait for cores that the workers use
                features = forward(batch["image"]).numpy()
                finite = np.isfinite(features).all(axis=1)
                if not finite.all():
                    bad = int(batch["image_id"].numpy()[~finite][0])
                    raise UserError(
                        f"the features of {images.path(bad)} are not finite; the checkpoint has "
                        "diverged, or its input (mean, std, scale) is not what it says"
                    )
                array[batch["image_id"].numpy()] = features
                written += len(features)
                if written >= ROWS_HELD:
                    release_pages(array)
                    written = 0
                bar.update(len(features))
        array.flush()
        return np.load(path, mmap_mode="r")


class AdaptiveBatchForward:
    """Applies a network to batches in parts, which are halved whenever memory runs out."""

    def __init__(
        self, network: Callable[[Tensor], Tensor], size: int, device: torch.device | str = "cpu"
    ):
        self.network, self.size, self.device = network, size, device

    def __call__(self, images: Tensor) -> Tensor:
        """(batch, …) to (batch, features) on the CPU.

        Raises:
            UserError: not even one image fits.
        """
        while True:
            try:
                parts = images.split(self.size)
                done = [
                    self.network(part.to(self.device, non_blocking=True)).cpu() for part in parts
                ]
                return done[0] if len(done) == 1 else torch.cat(done)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            self.halve(reason)  # outside of the handler, which keeps the failed tensors alive

    def halve(self, reason: str) -> None:
        if self.size == 1:
            raise UserError(
                f"memory does not do for one image ({reason}); free some, or run with --num-gpus 0"
            )
        self.size //= 2
        logger.warning("out of memory: going on with %d images at once", self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch has an error of its own for it; the CPU and NVIDIA's libraries say it in words."""
    said = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in said)
