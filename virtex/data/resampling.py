"""Resize and crop as the published pipelines do: with OpenCV, or with Pillow and torchvision."""

from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop
from torchvision.transforms.v2 import functional as F

Range = tuple[float, float]
INTERPOLATIONS = {  # OpenCV's and torchvision's
    "bilinear": (cv2.INTER_LINEAR, InterpolationMode.BILINEAR),
    "bicubic": (cv2.INTER_CUBIC, InterpolationMode.BICUBIC),
}
cv2.setNumThreads(0)  # images are loaded in parallel; its threads do not survive a fork


@dataclass(frozen=True)
class Resampling:
    """How images are resized, and where their center is.

    Attributes:
        interpolation: a key of ``INTERPOLATIONS``.
        antialias: True: filter before downsampling, like Pillow and torchvision. False: interpolate
            between neighboring pixels, like OpenCV and albumentations. The sizes and offsets are
            also rounded as there.
    """

    interpolation: str = "bilinear"
    antialias: bool = False

    # All map (3, height, width) uint8 to another height and width.

    def resize(self, image: Tensor, height: int, width: int) -> Tensor:
        """Resize to ``height`` and ``width`` pixels."""
        opencv, torchvision = INTERPOLATIONS[self.interpolation]
        if self.antialias:
            return F.resize(image, [height, width], torchvision, antialias=True)
        pixels = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height), interpolation=opencv)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def resize_short_side(self, image: Tensor, size: int) -> Tensor:
        """Resize the short side to ``size`` pixels, keeping the aspect ratio."""
        height, width = image.shape[-2:]
        short = min(height, width)
        if self.antialias:  # rounded down, in integers
            return self.resize(image, size * height // short, size * width // short)
        scale = size / short
        return self.resize(image, round(height * scale), round(width * scale))

    def center_crop(self, image: Tensor, size: int) -> Tensor:
        """Cut out the center, ``size`` pixels high and wide; smaller images are padded."""
        if self.antialias:
            return F.center_crop(image, [size, size])
        height, width = image.shape[-2:]
        return F.crop(image, (height - size) // 2, (width - size) // 2, size, size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Resize a random part of the image; its box is drawn as by torchvision and albumentations.

    Attributes:
        size: height and width of the output in pixels.
        scale: range of the part's fraction of the area.
        ratio: range of the part's width divided by its height.
    """

    size: int
    scale: Range
    ratio: Range
    resampling: Resampling

    def __call__(self, image: Tensor) -> Tensor:
        box = TorchvisionCrop.get_params(image, list(self.scale), list(self.ratio))
        return self.resampling.resize(F.crop(image, *box), self.size, self.size)
