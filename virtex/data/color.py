"""Color jitter as in albumentations, on which VirTex was trained: 8-bit, by OpenCV."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue in random order with probability ``p``.

    The first three are scaled by factors from [max(0, 1 - strength), 1 + strength]; hue is
    shifted by up to ``hue`` (at most 0.5) of the color circle in either direction. Pixels are
    rounded to 8 bits after each step, as in albumentations' ``ColorJitter``.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float

    def __call__(self, image: Tensor) -> Tensor:
        """Map an image (3, height, width) uint8 to the same shape and type."""
        if torch.rand(()).item() >= self.p:
            return image
        order, draws = torch.randperm(4).tolist(), torch.rand(4).tolist()
        pixels = image.permute(1, 2, 0).numpy()
        for index in order:
            adjust, strength = self._adjustments[index]
            low, high = (-strength, strength) if adjust is shift_hue else factor_range(strength)
            pixels = adjust(pixels, low + (high - low) * draws[index])
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @property
    def _adjustments(self) -> tuple[tuple[Callable[[np.ndarray, float], np.ndarray], float], ...]:
        return (
            (adjust_brightness, self.brightness),
            (adjust_contrast, self.contrast),
            (adjust_saturation, self.saturation),
            (shift_hue, self.hue),
        )


def factor_range(strength: float) -> tuple[float, float]:
    """Return the smallest and the largest factor of a strength."""
    return max(0.0, 1 - strength), 1 + strength


# All map RGB pixels (height, width, 3) uint8 to new ones.


def adjust_brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    return _apply(pixels, LEVELS * factor)


def adjust_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Scale the differences to the mean gray level of the image."""
    mean = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean()
    return _apply(pixels, LEVELS * factor + mean * (1 - factor))


def adjust_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Scale the differences to the gray level of each pixel."""
    gray = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(pixels, factor, gray, 1 - factor, 0)


def shift_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Shift the hue by ``shift`` of the color circle, which OpenCV divides into 180 steps."""
    if shift == 0:  # the conversions would change a few levels
        return pixels
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = _apply(hsv[..., 0], (LEVELS + 180 * shift) % 180)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


LEVELS = np.arange(256)


def _apply(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each level by its value in the table, rounded down."""
    return cv2.LUT(pixels, table.clip(0, 255).astype(np.uint8))
