"""Extract pooled features of a frozen backbone once; later runs read them from the cache."""

import json
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
    resampling_of,
    training_transform,
)
from virtex.data.decoding import conversions, report_conversions
from virtex.data.image_sets import ImageSet
from virtex.data.loading import validation_loader
from virtex.engine.distributed import (
    all_gather_object,
    broadcast_object,
    rank,
    synchronize,
    world_size,
)
from virtex.engine.frozen import tensors_sha256, verify_unchanged
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.probes.feature_cache import FeatureCache, release_pages
from virtex.probes.pooled import PooledBackbone, resolve_representation

logger = logging.getLogger(__name__)

ROWS_IN_MEMORY = 8192  # rows of the array that are written before its pages are released
KEY_VERSION = 3  # increment when the features of a key change


@dataclass(frozen=True)
class View:
    """A transform of the images to extract features of.

    Attributes:
        transform: (3, height, width) uint8 to (3, size, size) uint8.
        config: the transform in JSON types, for the cache key.
        seed: of the random transform.
    """

    transform: Transform
    config: dict[str, Any]
    seed: int = 0


def center_view(data: CfgNode) -> View:
    """Resize and center-crop as in the DATA section of a config."""
    resize, crop, resampling = data.IMAGE_RESIZE_SIZE, data.IMAGE_CROP_SIZE, resampling_of(data)
    config = {"resize": resize, "center_crop": crop, **asdict(resampling)}
    return View(evaluation_transform(resize, crop, resampling), config)


def random_view(data: CfgNode, seed: int) -> View:
    """Crop randomly, seeded by ``seed`` and the index of the image."""
    crop, resampling = data.IMAGE_CROP_SIZE, resampling_of(data)
    scale, ratio = list(data.CROP_SCALE), list(data.CROP_RATIO)
    config = {"random_resized_crop": crop, "scale": scale, "ratio": ratio, **asdict(resampling)}
    return View(training_transform(crop, tuple(scale), tuple(ratio), resampling), config, seed)


@dataclass
class FeatureExtractor:
    """Extracts features of image sets, through the cache.

    Attributes:
        batch_size: images per forward pass, in each process.
        representation: see ``resolve_representation``.
        seconds, images: time spent and images processed so far, without those from the cache.
    """

    device: torch.device
    cache: FeatureCache
    batch_size: int = 64
    num_workers: int = 0
    representation: str = "default"
    seconds: float = 0.0
    images: int = 0
    network: PooledBackbone = field(init=False, repr=False, compare=False)

    def check(self, backbone: Backbone, images: int) -> None:
        """Verify that the cache can hold the features of this many images, over all views.

        Raises:
            UserError: it is not writable, or its limit is too small.
        """
        _, size = resolve_representation(backbone, self.representation)
        self.cache.check(images * size * 4)

    def open(self, backbone: Backbone) -> None:
        """Set the backbone to extract features of."""
        self.backbone = backbone
        network = PooledBackbone(backbone, True, self.representation).to(self.device).eval()
        # 10% faster on CPUs, equal up to rounding
        self.network = network.to(memory_format=torch.channels_last)
        self.sha256 = tensors_sha256(self.network.cnn)

    def close(self) -> dict[str, Any]:
        """Verify that the backbone is unchanged, and return the entry for the record.

        Raises:
            UserError: it changed.
        """
        verified = verify_unchanged(self.network.cnn, self.sha256)
        del self.network
        return verified

    def timing(self) -> dict[str, float]:
        """Return the timing of the extraction; empty if everything came from the cache."""
        if not self.images:
            return {}
        return {
            "extract_seconds": self.seconds,
            "extract_images_per_second": self.images / self.seconds,
        }

    def key(self, images: ImageSet, view: View) -> dict[str, Any]:
        """Return the cache key: everything the features depend on."""
        key = {
            "version": KEY_VERSION,
            "backbone": self.sha256,
            "arch": asdict(self.backbone.arch),
            "input": asdict(self.backbone.input),
            "images": images.fingerprint(),
            "transform": view.config,
            "seed": view.seed,
            "representation": self.network.representation,
        }
        return json.loads(json.dumps(key))  # as the cache reads it: tuples are lists

    def extract(self, images: ImageSet, view: View) -> np.ndarray:
        """Return the features of every image, float32 (images, features), memory-mapped.

        The images are split among the processes; each returns the same read-only array.

        Raises:
            UserError: an image cannot be read, features are not finite, the device runs out of
                memory with batch size 1, or the cache cannot hold the features.
        """
        key = self.key(images, view)
        found = self.cache.find(key)
        # another job may evict an entry between the lookups of two processes
        everywhere = all(all_gather_object(found is not None))
        if found is None or not everywhere:
            return self._fill(images, view, key)
        logger.info("using cached features of %s: %s", images.name, self.cache.entry_folder(key))
        converted = self.cache.labels(key).get("converted", {})
        report_conversions({str(images.root / file): kind for file, kind in converted.items()})
        return found

    def _fill(self, images: ImageSet, view: View, key: dict[str, Any]) -> np.ndarray:
        """Compute a cache entry and return it, even if it is evicted right afterwards."""
        start = time.perf_counter()
        shape = (len(images), self.network.feature_size)
        if rank():
            features = self._compute(images, view, broadcast_object(None))
            synchronize()
            synchronize()
            return self._reopen(key, features)
        labels: dict[str, Any] = {"checkpoint": self.backbone.source.requested, "data": images.name}
        with self.cache.write(key, shape, labels) as path:
            features = self._compute(images, view, broadcast_object(path))
            verify_unchanged(self.network.cnn, self.sha256)  # before other runs use the features
            synchronize()
            known = conversions()
            paths = {file: str(images.root / file) for file in images.files} if known else {}
            labels["converted"] = {f: known[path] for f, path in paths.items() if path in known}
        synchronize()  # the entry is published
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
        return self._reopen(key, features)

    def _reopen(self, key: dict[str, Any], features: np.ndarray) -> np.ndarray:
        """Open the cache entry: a renamed file can be stale on a network filesystem."""
        found = self.cache.find(key)
        return features if found is None else found

    @torch.inference_mode()
    def _compute(self, images: ImageSet, view: View, path: Any) -> np.ndarray:
        """Write this process's rows to an array file; return all rows, memory-mapped."""
        try:
            array = np.lib.format.open_memmap(path, "r+")
        except FileNotFoundError as error:
            raise UserError(
                f"--cache-dir must be on a shared filesystem, but process {rank()} cannot find "
                f"{self.cache.folder}; choose another folder",
                code="probe.cache_not_shared",
            ) from error
        data = ClassificationSet(images, view.transform, view.seed, training=False)
        forward = AdaptiveBatchForward(self.network, self.batch_size, self.device)
        batches = validation_loader(
            data, self.batch_size * world_size(), rank(), world_size(), self.num_workers
        )
        total, written = len(range(rank(), len(images), world_size())), 0
        with progress_bar(total, "image", images.name) as bar:
            for batch in batches:
                # checked in numpy: torch would start threads that compete with the workers
                features = forward(batch["image"]).numpy()
                finite = np.isfinite(features).all(axis=1)
                if not finite.all():
                    bad = int(batch["image_id"].numpy()[~finite][0])
                    raise UserError(
                        f"the features of {images.path(bad)} are not finite; the checkpoint has "
                        "diverged, or its input normalization (mean, std, scale) is wrong",
                        code="probe.features_not_finite",
                    )
                array[batch["image_id"].numpy()] = features
                written += len(features)
                if written >= ROWS_IN_MEMORY:
                    release_pages(array)
                    written = 0
                bar.update(len(features))
        array.flush()
        for part in all_gather_object(conversions()):
            report_conversions(part)
        return np.load(path, mmap_mode="r")


class AdaptiveBatchForward:
    """Applies a network to batches, halving the batch size whenever memory runs out."""

    def __init__(
        self, network: Callable[[Tensor], Tensor], size: int, device: torch.device | str = "cpu"
    ):
        self.network, self.size, self.device = network, size, device

    def __call__(self, images: Tensor) -> Tensor:
        """Map (batch, ...) to (batch, features) on the CPU.

        Raises:
            UserError: out of memory with batch size 1.
        """
        while True:
            try:
                parts = images.split(self.size)
                outputs = [
                    self.network(part.to(self.device, non_blocking=True)).cpu() for part in parts
                ]
                return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            self._halve(reason)  # outside of the handler, whose traceback keeps the tensors alive

    def _halve(self, reason: str) -> None:
        if self.size == 1:
            raise UserError(
                f"out of memory with batch size 1 ({reason}); free memory, or use --num-gpus 0",
                code="device.out_of_memory",
            )
        self.size //= 2
        logger.warning("out of memory, reducing the batch size to %d", self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means out of memory: by its type, or by the text of a library."""
    texts = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
