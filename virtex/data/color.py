"""Color jitter as in torchvision, with a faster hue shift."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue in random order with probability ``p``.

    The first three are scaled by factors from [max(0, 1 - strength), 1 + strength]; hue is
    shifted by up to ``hue`` (at most 0.5) of the color circle in either direction. Equivalent to
    torchvision's ``ColorJitter`` in ``RandomApply``.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float

    def __call__(self, image: Tensor) -> Tensor:
        """Map an image (3, height, width), uint8 or in [0, 1], to float32 in [0, 1]."""
        image = F.to_dtype(image, torch.float32, scale=True)
        if torch.rand(()).item() >= self.p:
            return image
        order, draws = torch.randperm(4).tolist(), torch.rand(4).tolist()
        for index in order:
            adjust, strength = self._adjustments[index]
            low, high = (-strength, strength) if adjust is shift_hue else factor_range(strength)
            image = adjust(image, low + (high - low) * draws[index])
        return image

    @property
    def _adjustments(self) -> tuple[tuple[Callable[[Tensor, float], Tensor], float], ...]:
        return (
            (F.adjust_brightness, self.brightness),
            (F.adjust_contrast, self.contrast),
            (F.adjust_saturation, self.saturation),
            (shift_hue, self.hue),
        )


def factor_range(strength: float) -> tuple[float, float]:
    """Return the smallest and the largest factor of a strength."""
    return max(0.0, 1 - strength), 1 + strength


def shift_hue(image: Tensor, shift: float) -> Tensor:
    """Shift the hue of an image in [0, 1] by ``shift`` of the color circle.

    With value v, chroma c and hue h in sixths, a channel is v - c · clamp(min(k, 4 - k), 0, 1)
    where k = (n + h) mod 6 and n is 5, 3, 1 for red, green, blue (no branches).
    """
    red, green, blue = image
    value = image.amax(dim=0)
    chroma = value - image.amin(dim=0)
    scale = 1 / chroma.clamp(min=1e-12)  # gray has no hue: all differences are 0
    hue = torch.where(
        red == value,
        (green - blue) * scale,
        torch.where(green == value, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    k = hue + (image.new_tensor([5.0, 3.0, 1.0])[:, None, None] + 6 * shift)
    k -= 6 * torch.floor(k / 6)  # k mod 6; remainder() takes three times as long
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
