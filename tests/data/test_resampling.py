"""Resizing, cropping and color jitter have the pixels of the published pipelines."""

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms as published
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tests.data.albumentations_values import BOX, CROP, FACTORS, FILE, RESIZE, SIZES, noise
from virtex.data import color
from virtex.data.classification import evaluation_transform, training_transform
from virtex.data.resampling import RandomResizedCrop, Resampling
from virtex.data.transforms import build_transform

ADJUSTMENTS = {
    "brightness": color.adjust_brightness,
    "contrast": color.adjust_contrast,
    "saturation": color.adjust_saturation,
    "hue": color.shift_hue,
}
# Pillow on an image is exact; torchvision's kernel for tensors differs by up to 2 levels
TOLERANCE = 2


@pytest.fixture(scope="module")
def albumentations() -> dict[str, np.ndarray]:
    with np.load(FILE) as values:
        return dict(values)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def assert_same_levels(found: np.ndarray, expected: np.ndarray) -> None:
    """Expect equal pixels; another build of OpenCV may round a few of them differently."""
    assert found.dtype == expected.dtype == np.uint8
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.01


# As VirTex: albumentations -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_center_crop_is_albumentations(albumentations, size):
    image, expected = to_tensor(noise(*size)), albumentations["center_{}_{}".format(*size)]
    assert_same_levels(to_pixels(evaluation_transform(RESIZE, CROP)(image)), expected)
    out, _ = build_transform(["smallest_resize", "center_crop"], CROP, RESIZE)(image)
    assert_same_levels(to_pixels((out * 255).round().byte()), expected)


@pytest.mark.parametrize("size", SIZES)
def test_global_resize_is_albumentations(albumentations, size):
    out, _ = build_transform(["global_resize"], CROP)(to_tensor(noise(*size)))
    expected = albumentations["resize_{}_{}".format(*size)]
    assert_same_levels(to_pixels((out * 255).round().byte()), expected)


def test_random_crop_is_albumentations_in_the_same_box(albumentations, monkeypatch):
    image = to_tensor(noise(47, 80))
    monkeypatch.setattr(published.RandomResizedCrop, "get_params", lambda *_: BOX)
    crop = RandomResizedCrop(CROP, (0.2, 1.0), (0.75, 1.333), Resampling())
    assert_same_levels(to_pixels(crop(image)), albumentations["part"])


@pytest.mark.parametrize("name", FACTORS)
def test_color_adjustment_is_albumentations(albumentations, name):
    for factor in FACTORS[name]:
        found = ADJUSTMENTS[name](noise(24, 30), factor)
        assert_same_levels(found, albumentations[f"{name}_{factor}"])


def test_bicubic_without_antialias_is_opencv():
    pixels = noise(64, 96)
    found = Resampling("bicubic", antialias=False).resize(to_tensor(pixels), 20, 30)
    expected = cv2.resize(pixels, (30, 20), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(to_pixels(found), expected)


# As DINO: torchvision's transforms of Pillow images ----------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [*SIZES, (300, 200), (201, 333)])
def test_antialiased_center_crop_is_pillow(size, interpolation):
    pixels = noise(*size)
    mode = InterpolationMode(interpolation)
    steps = [published.Resize(RESIZE, interpolation=mode), published.CenterCrop(CROP)]
    expected = np.array(published.Compose(steps)(Image.fromarray(pixels)), dtype=int)
    found = evaluation_transform(RESIZE, CROP, Resampling(interpolation, True))(to_tensor(pixels))
    difference = np.abs(to_pixels(found) - expected)
    assert difference.max() <= TOLERANCE and difference.mean() < 0.1


def test_training_transform_with_antialias_is_torchvision():
    """The same draws give the same boxes and flips."""
    image = to_tensor(noise(120, 90))
    crop = v2.RandomResizedCrop(CROP, (0.3, 1.0), antialias=True)
    expected = v2.Compose([crop, v2.RandomHorizontalFlip()])
    resampling = Resampling("bilinear", antialias=True)
    ours = training_transform(CROP, (0.3, 1.0), (3 / 4, 4 / 3), resampling)
    for seed in range(10):
        torch.manual_seed(seed)
        wanted = expected(image)
        torch.manual_seed(seed)
        assert torch.equal(ours(image), wanted)


# Padding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
def test_center_crop_pads_small_images(antialias):
    image = torch.full((3, 5, 9), 7, dtype=torch.uint8)
    out = Resampling(antialias=antialias).center_crop(image, 9)
    assert torch.equal(out, F.center_crop(image, [9, 9]))


def test_preprocessing_differs_visibly():
    """The settings matter: half of a fine checkerboard's contrast."""
    image = to_tensor(noise(256, 341))
    plain, smooth = (
        evaluation_transform(64, 56, Resampling("bilinear", antialias))(image).float()
        for antialias in (False, True)
    )
    assert (plain - smooth).abs().mean() > 5
