"""Decoding images and transforming them with their captions."""

import pickle
import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tests.errors import raises_code
from virtex.data.color import ColorJitter, shift_hue
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


def test_smallest_resize_defaults_to_crop_size():
    image = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    expected = v2.functional.center_crop(v2.functional.resize(image, [50]), [50, 50])
    out, _ = build_transform(["smallest_resize", "center_crop"], 50)(image)
    assert torch.equal(out, expected / 255)


def test_center_crop_of_larger_resize():
    image = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    expected = v2.functional.center_crop(v2.functional.resize(image, [80]), [50, 50])
    out, _ = build_transform(["smallest_resize", "center_crop"], 50, resize_size=80)(image)
    assert torch.equal(out, expected / 255)


def test_default_arguments_are_as_published():
    assert parse_transform("random_resized_crop")[1] == {
        "scale": (0.2, 1.0),
        "ratio": (3 / 4, 4 / 3),
    }
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


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.31, 0.5])
def test_shift_hue_matches_torchvision(shift):
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    image[:, :5] = image[:1, :5]  # gray
    image[:, 5], image[:, 6] = 0, 1
    image[0, 7:10] = image[1, 7:10]  # two equal channels
    expected = F.adjust_hue(image, shift)
    torch.testing.assert_close(shift_hue(image, shift), expected, atol=3e-6, rtol=0)


def test_each_strength_changes_colors_within_range(image):
    same = F.to_dtype(image, torch.float32, scale=True)
    for name in ("brightness", "contrast", "saturation", "hue"):
        strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
        torch.manual_seed(3)
        out = ColorJitter(**{**strengths, name: 0.4}, p=1.0)(image)
        assert not torch.allclose(out, same, atol=0.01), name
        assert out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(ColorJitter(**strengths, p=1.0)(image), same, atol=1e-5, rtol=0)


def test_brightness_factor_range():
    gray = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    jitter = ColorJitter(0.4, 0.0, 0.0, 0.0, p=1.0)
    factors = torch.tensor([(jitter(gray)[0, 0, 0] * 255 / 100).item() for _ in range(400)])
    assert factors.min() + 1e-4 >= 0.6 and factors.max() <= 1.4 + 1e-4
    assert factors.min() < 0.63 and factors.max() > 1.37


def test_color_jitter_probability(image):
    same = F.to_dtype(image, torch.float32, scale=True)
    torch.manual_seed(0)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    kept = sum(torch.equal(jitter(image), same) for _ in range(500))
    assert 0.14 < kept / 500 < 0.26


# Parsing -----------------------------------------------------------------------------------------


def test_parse_arguments():
    _, arguments = parse_transform("random_resized_crop::{'scale': (0.08, 1.0)}")
    assert arguments == {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


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
