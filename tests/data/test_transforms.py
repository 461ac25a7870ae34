"""Decoding images and transforming them with their captions."""

import pickle
import random

import numpy as np
import pytest
import torch

from tests.errors import raises_code
from virtex.data.color import (
    ColorJitter,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    shift_hue,
)
from virtex.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TRANSFORMS,
    build_transform,
    parse_transform,
    swap_left_and_right,
)

TRAIN = ["random_resized_crop", "horizontal_flip", "color_jitter", "normalize"]
VAL = ["smallest_resize", "center_crop", "normalize"]


@pytest.fixture
def pixels() -> np.ndarray:
    """(48, 64, 3): smooth, another color in every corner."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, 255 - rows * 2 - columns * 2], -1).astype(np.uint8)


@pytest.fixture
def image(pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


# Captions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a cat left of a dog", "a cat right of a dog"),
        ("left, right and left", "right, left and right"),
        ("Left side. LEFT! Right?", "Right side. RIGHT! Left?"),
        ("the left-hand side", "the right-hand side"),
        ("bright leftover food, upright", "bright leftover food, upright"),
        ("the right's on the left.", "the left's on the right."),
        ("", ""),
    ],
)
def test_swap_left_and_right(caption, mirrored):
    assert swap_left_and_right(caption) == mirrored
    assert swap_left_and_right(mirrored) == caption


def test_flip_changes_image_and_caption_together(image):
    flip = build_transform(["global_resize", "horizontal_flip"], 32)
    whole, _ = build_transform(["global_resize"], 32)(image)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mirrored, caption = flip(image, "a bright car on the left")
        if caption == "a bright car on the right":
            assert torch.equal(mirrored, whole.flip(-1))
        else:
            assert caption == "a bright car on the left"
            assert torch.equal(mirrored, whole)
        seen.add(caption)
    assert len(seen) == 2


@pytest.mark.parametrize(("p", "caption"), [(0, "left"), (1, "right")])
def test_flip_probability(image, p, caption):
    flip = build_transform(["center_crop", f"horizontal_flip::{{'p': {p}}}"], 32)
    assert {flip(image, "left")[1] for _ in range(20)} == {caption}


# Transforms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [TRAIN, VAL, ["global_resize", "normalize"], ["center_crop"]])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (300, 30), (40, 40)])
def test_output_shape_and_dtype(names, shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    out, caption = build_transform(names, 32)(image, "a caption")
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert caption == "a caption"


def test_normalize_uses_imagenet_statistics(image):
    raw, _ = build_transform(["center_crop"], 32)(image)
    out, _ = build_transform(["center_crop", "normalize"], 32)(image)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    assert raw.min() >= 0 and 0.5 < raw.max() <= 1
    torch.testing.assert_close(out, (raw - mean[:, None, None]) / std[:, None, None])


def test_default_arguments_are_as_published():
    opencv = {"interpolation": "bilinear", "antialias": False}
    expected = {"scale": (0.2, 1.0), "ratio": (0.75, 1.333), **opencv}
    assert parse_transform("random_resized_crop")[1] == expected
    for name in ("smallest_resize", "global_resize"):
        assert parse_transform(name)[1] == opencv
    assert parse_transform("color_jitter")[1] == {
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "p": 0.8,
    }
    assert parse_transform("horizontal_flip")[1] == {"p": 0.5}


def test_random_resized_crop_scale():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :, :16] = 255  # the left quarter is white
    text = "random_resized_crop::{'scale': (1.0, 1.0), 'ratio': (1.0, 1.0)}"
    out, _ = build_transform([text], 32)(image)
    assert out.mean().item() == pytest.approx(0.25, abs=0.02)
    means = {build_transform(["random_resized_crop"], 32)(image)[0].mean().item() for _ in range(9)}
    assert len(means) > 1


def test_only_torch_generator_is_used(image):
    transform = build_transform(TRAIN, 32)
    outs = []
    for other_seed in (1, 2):
        random.seed(other_seed)
        np.random.seed(other_seed)
        torch.manual_seed(0)
        outs.append(transform(image, "left"))
    assert torch.equal(outs[0][0], outs[1][0])
    torch.manual_seed(1)
    assert not torch.equal(outs[0][0], transform(image, "left")[0])


def test_transform_can_be_pickled(image):
    transform = build_transform(TRAIN, 32)
    torch.manual_seed(0)
    here = transform(image, "left")
    torch.manual_seed(0)
    there = pickle.loads(pickle.dumps(transform))(image, "left")
    assert torch.equal(here[0], there[0])
    assert here[1] == there[1]


# Colors -----------------------------------------------------------------------------------------

STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def test_color_jitter_draws_order_and_factors(image):
    """The result is that of the adjustments, in the drawn order and with the drawn factors."""
    adjustments = [adjust_brightness, adjust_contrast, adjust_saturation, shift_hue]
    for seed in range(5):
        torch.manual_seed(seed)
        out = ColorJitter(**STRENGTHS, p=1.0)(image)
        torch.manual_seed(seed)
        torch.rand(())
        order, draws = torch.randperm(4).tolist(), torch.rand(4).tolist()
        expected = image.permute(1, 2, 0).numpy()
        for index in order:
            low, high = (-0.1, 0.1) if index == 3 else (0.6, 1.4)
            expected = adjustments[index](expected, low + (high - low) * draws[index])
        assert np.array_equal(out.permute(1, 2, 0).numpy(), expected)


def test_strengths_of_zero_change_nothing(image):
    assert torch.equal(ColorJitter(0, 0, 0, 0, p=1.0)(image), image)


def test_brightness_factor_range():
    gray = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    jitter = ColorJitter(0.4, 0.0, 0.0, 0.0, p=1.0)
    factors = torch.tensor([jitter(gray)[0, 0, 0].item() / 100 for _ in range(400)])
    assert 0.59 <= factors.min() < 0.63 and 1.37 < factors.max() <= 1.4


def test_color_jitter_probability(image):
    torch.manual_seed(0)
    jitter = ColorJitter(**STRENGTHS, p=0.8)
    kept = sum(torch.equal(jitter(image), image) for _ in range(500))
    assert 0.14 < kept / 500 < 0.26


# Parsing -----------------------------------------------------------------------------------------


def test_parse_arguments():
    _, arguments = parse_transform("random_resized_crop::{'scale': (0.08, 1.0)}")
    assert arguments == parse_transform("random_resized_crop")[1] | {"scale": (0.08, 1.0)}


def test_arguments_are_not_evaluated(tmp_path):
    file = tmp_path / "ran"
    text = f"horizontal_flip::{{'p': open({str(file)!r}, 'w').close() or 0.5}}"
    with raises_code("config.transform_arguments", "horizontal_flip"):
        build_transform(["center_crop", text], 32)
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "0.5", "{'p'", "('p', 0.5)", "{" * 5000, "{'p': 0.5}::{}"])
def test_arguments_must_be_a_dict(text):
    with raises_code("config.transform_arguments", "horizontal_flip"):
        parse_transform(f"horizontal_flip::{text}")


def test_unknown_transform():
    with raises_code("config.unknown_transform", "random_resize_crop", "random_resized_crop"):
        build_transform(["random_resize_crop"], 32)


def test_unknown_argument():
    with raises_code("config.transform_arguments", "'scales'"):
        parse_transform("random_resized_crop::{'scales': (0.1, 1.0)}")
    with raises_code("config.transform_arguments", "center_crop", "'p'"):
        parse_transform("center_crop::{'p': 1.0}")


@pytest.mark.parametrize(
    "text",
    [
        "horizontal_flip::{'p': 1.5}",
        "horizontal_flip::{'p': True}",
        "horizontal_flip::{'p': '0.5'}",
        "random_resized_crop::{'scale': (1.0, 0.2)}",
        "random_resized_crop::{'scale': (0.2, 1.5)}",
        "random_resized_crop::{'scale': 0.2}",
        "random_resized_crop::{'ratio': (0.0, 1.0)}",
        "smallest_resize::{'interpolation': 'area'}",
        "smallest_resize::{'interpolation': ['bilinear']}",
        "global_resize::{'antialias': 1}",
        "color_jitter::{'hue': 0.6}",
        "color_jitter::{'contrast': -1}",
        "normalize::{'std': (0.2, 0.2, 0.0)}",
        "normalize::{'mean': (0.5, 0.5)}",
    ],
)
def test_invalid_argument_value(text):
    with raises_code("config.transform_arguments", text.partition("::")[0]):
        parse_transform(text)


def test_defaults_are_valid():
    for name, spec in TRANSFORMS.items():
        assert parse_transform(f"{name}::{spec.arguments!r}") == (name, dict(spec.arguments))


@pytest.mark.parametrize("names", [[], ["normalize"], VAL[:1], ["center_crop", "smallest_resize"]])
def test_output_size_must_be_fixed(names):
    with raises_code("config.transform_order"):
        build_transform(names, 32)


@pytest.mark.parametrize("last", ["color_jitter", "normalize"])
def test_no_color_change_after_normalize(last):
    with raises_code("config.transform_order", last):
        build_transform(["center_crop", "normalize", "horizontal_flip", last], 32)
