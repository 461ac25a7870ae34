"""Random changes of color: torchvision's, with a quicker turn of the hue."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class ColorJitter:
    """With probability ``p``: change brightness, contrast, saturation and hue in random order.

    The first three are scaled by factors from [max(0, 1 - strength), 1 + strength]; hue is
    turned by up to ``hue`` (at most 0.5) of the color circle either way. As torchvision's
    ``ColorJitter`` within ``RandomApply``.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float

    def __call__(self, image: Tensor) -> Tensor:
        """(3, height, width), uint8 or 0 … 1, to float32 in 0 … 1."""
        image = F.to_dtype(image, torch.float32, scale=True)
        if torch.rand(()).item() >= self.p:
            return image
        order, draws = torch.randperm(4).tolist(), torch.rand(4).tolist()
        for place in order:
            change, strength = self._changes[place]
            low, high = (-strength, strength) if change is shift_hue else scales(strength)
            image = change(image, low + (high - low) * draws[place])
        return image

    @property
    def _changes(self) -> tuple[tuple[Callable[[Tensor, float], Tensor], float], ...]:
        return (
            (F.adjust_brightness, self.brightness),
            (F.adjust_contrast, self.contrast),
            (F.adjust_saturation, self.saturation),
            (shift_hue, self.hue),
        )


def scales(strength: float) -> tuple[float, float]:
    """The least and the largest factor of a strength."""
    return max(0.0, 1 - strength), 1 + strength


def shift_hue(image: Tensor, turn: float) -> Tensor:
    """Turn the hue of an image in 0 … 1 by ``turn`` of the color circle.

    With value v, chroma c and hue h in sixths, a channel is v - c · clamp(min(k, 4 - k), 0, 1)
    where k = (n + h) mod 6 and n is 5, 3, 1 for red, green, blue: no case distinction is left.
    """
    red, green, blue = image
    value = image.amax(dim=0)
    chroma = value - image.amin(dim=0)
    scale = 1 / chroma.clamp(min=1e-12)  # grey has no hue: all differences are 0
    hue = torch.where(
        red == value,
        (green - blue) * scale,
        torch.where(green == value, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    k = hue + (image.new_tensor([5.0, 3.0, 1.0])[:, None, None] + 6 * turn)
    k -= 6 * torch.floor(k / 6)  # k mod 6; remainder() takes three times as long
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
