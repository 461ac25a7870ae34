"""Batches of labeled uint8 images; the model normalizes them on the device.

Channel order, mean and std belong to the checkpoint, and bytes are a quarter of the size of floats.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.transforms import v2

from virtex.data.image_sets import ImageSet
from virtex.data.loading import Batch, Sample, SeededSet
from virtex.data.resampling import RandomResizedCrop, Range, Resampling
from virtex.errors import UserError

Transform = Callable[[Tensor], Tensor]
VIRTEX = Resampling("bilinear", antialias=False)


def training_transform(
    crop_size: int,
    scale: Range = (0.08, 1.0),
    ratio: Range = (0.75, 1.333),
    resampling: Resampling = VIRTEX,
) -> Transform:
    """Return a random resized crop followed by a horizontal flip with probability 0.5.

    Args:
        crop_size: output height and width in pixels.
        scale, ratio: see ``RandomResizedCrop``.

    Returns:
        maps (3, height, width) uint8 to (3, crop_size, crop_size) uint8; draws from torch's
        generator.
    """
    return v2.Compose(
        [RandomResizedCrop(crop_size, scale, ratio, resampling), v2.RandomHorizontalFlip(0.5)]
    )


def evaluation_transform(
    resize_size: int, crop_size: int, resampling: Resampling = VIRTEX
) -> Transform:
    """Return a resize of the short side to ``resize_size`` pixels and a center crop.

    Returns:
        maps (3, height, width) uint8 to (3, crop_size, crop_size) uint8.

    Raises:
        UserError: the crop is larger than the resized image.
    """
    if crop_size > resize_size:
        raise UserError(
            f"the crop size must be at most the resize size, but {crop_size} > {resize_size}",
            "config.crop_size",
        )
    resize = partial(resampling.resize_short_side, size=resize_size)
    return v2.Compose([resize, partial(resampling.center_crop, size=crop_size)])


def resampling_of(data: CfgNode) -> Resampling:
    """Return the resampling that the DATA section of a config describes."""
    return Resampling(data.INTERPOLATION, data.ANTIALIAS)


class ClassificationSet(SeededSet):
    """Maps (position in the stream, index of the image) to an image and its label.

    A sample holds ``image`` (3, size, size) uint8 RGB; ``label``, a whole number or, of VOC,
    (classes,) int8; and ``image_id``, the index of the image in ``images``.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: Transform,
        seed: int = 0,
        training: bool = True,
        skip_bad_images: bool = False,
    ):
        """
        Args:
            transform: maps (3, height, width) uint8 to (3, size, size) uint8.
            seed, training, skip_bad_images: see ``SeededSet``.
        """
        super().__init__(seed, training, skip_bad_images)
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """The image ``index`` and its label; draws from torch's generator.

        Raises:
            UserError: the image cannot be read.
        """
        image = self.transform(self.images.load(index))
        label = self.images.labels[index]
        return {
            "image": image,
            "label": label if label.ndim else int(label),
            "image_id": index,
        }

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """
        Returns:
            ``image`` (batch, 3, size, size) uint8, ``label`` (batch,) or (batch, classes) int64,
            ``image_id`` (batch,) int64.
        """
        labels = np.array([sample["label"] for sample in samples], dtype=np.int64)
        return {
            "image": torch.stack([sample["image"] for sample in samples]),
            "label": torch.from_numpy(labels),
            "image_id": torch.tensor([sample["image_id"] for sample in samples]),
        }
