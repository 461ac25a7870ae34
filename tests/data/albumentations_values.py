"""Outputs of albumentations and OpenCV on small images, kept in ``albumentations_values.npz``.

They were written by ``python tests/data/albumentations_values.py`` where albumentations 0.5.2 (of
VirTex's time) and opencv-python-headless 4.8.1 were installed; 1.3.1 gives the same.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
SIZES = [(40, 61), (61, 40), (47, 80), (33, 33), (50, 33), (24, 30)]  # height, width
RESIZE, CROP = 32, 23
BOX = (5, 3, 31, 37)  # top, left, height, width
FACTORS = {"brightness": (0.6, 1.35), "contrast": (0.7, 1.4), "saturation": (0.6, 1.3)}
FACTORS["hue"] = (-0.1, 0.07)


def noise(height: int, width: int) -> np.ndarray:
    """Return the same pixels (height, width, 3) uint8 everywhere: blobs, edges and noise."""
    rows, columns, channels = np.mgrid[0:height, 0:width, 0:3]
    smooth = 100 + 90 * np.sin(rows / 7 + channels) * np.cos(columns / 5 - channels)
    edges = 60 * ((rows // 3 + columns // 4) % 2)
    return (
        (smooth + edges + (rows * 37 + columns * 91 + channels * 53) % 29)
        .clip(0, 255)
        .astype(np.uint8)
    )


def write() -> None:
    import albumentations as alb
    from albumentations.augmentations import functional as F

    found = {}
    for height, width in SIZES:
        image = noise(height, width)
        steps = [alb.SmallestMaxSize(RESIZE, p=1), alb.CenterCrop(CROP, CROP, p=1)]
        found[f"center_{height}_{width}"] = alb.Compose(steps)(image=image)["image"]
        resized = alb.Resize(CROP, CROP, p=1)(image=image)
        found[f"resize_{height}_{width}"] = resized["image"]
    top, left, height, width = BOX
    part = noise(47, 80)[top : top + height, left : left + width]
    found["part"] = alb.Resize(CROP, CROP, p=1)(image=part)["image"]
    for name, factors in FACTORS.items():
        adjust = getattr(F, f"adjust_{name}_torchvision")
        for factor in factors:
            found[f"{name}_{factor}"] = adjust(noise(24, 30), factor)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    write()
