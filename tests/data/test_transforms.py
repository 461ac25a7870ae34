"""An image is decoded as it is meant to be seen, and its caption stays true when it is mirrored."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from virtex.data.color import ColorJitter, shift_hue
from virtex.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ORIENTATION,
    TRANSFORMS,
    build_transform,
    decode_image,
    parse_transform,
    swap_left_and_right,
)
from virtex.errors import UserError

TRAIN = ["random_resized_crop", "horizontal_flip", "color_jitter", "normalize"]
VAL = ["smallest_resize", "center_crop", "normalize"]


@pytest.fixture
def picture() -> np.ndarray:
    """(48, 64, 3): smooth, another color in every corner."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, 255 - rows * 2 - columns * 2], -1).astype(np.uint8)


@pytest.fixture
def image(picture) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


# Decoding ----------------------------------------------------------------------------------------


def test_an_image_is_rgb_channels_first(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png")
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, torch.from_numpy(picture).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *itertools.product(["L", "1", "P", "RGBA", "LA", "I;16"], [".png", ".tiff"]),
        ("CMYK", ".tiff"),
        ("CMYK", ".jpg"),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, picture, mode, suffix):
    path = tmp_path / f"a{suffix}"
    if mode == "I;16":
        Image.fromarray(picture[..., 0].astype(np.uint16)).save(path)
    else:
        Image.fromarray(picture).convert(mode).save(path)
    decoded = decode_image(path)
    assert decoded.shape == (3, 48, 64)
    with Image.open(path) as image:
        assert np.array_equal(decoded.permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, exif=exif, quality=95)
    decoded = decode_image(path).permute(1, 2, 0).numpy()
    with Image.open(path) as stored:
        assert np.array_equal(decoded, np.array(ImageOps.exif_transpose(stored)))
    assert decoded.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))


@pytest.mark.parametrize("suffix", ["avif", "dds", "gif", "jpg", "png", "tif", "webp"])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path, suffix):
    """Whatever library decodes it: nothing else may come out of damaged bytes."""
    path, rng = tmp_path / f"picture.{suffix}", np.random.default_rng(0)
    try:
        Image.new("RGB", (48, 32), "teal").save(path)
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"this Pillow writes no {suffix}: {error}")
    sound, refused = np.frombuffer(path.read_bytes(), np.uint8), 0
    for _ in range(400):
        damaged = sound.copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 8))
        damaged[places] = rng.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            decode_image(path)
        except UserError:
            refused += 1
    assert refused


def test_broken_exif_data_do_not_make_an_image_unreadable(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, exif=b"Exif\0\0not a directory")
    assert decode_image(path).shape == (3, 48, 64)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_image_is_an_error_not_grey(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"cut\{suffix}"):
        decode_image(path)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jpg: not found"):
        decode_image(tmp_path / "none.jpg")


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.jpg"):
        decode_image(tmp_path / "text.jpg")


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
def test_the_words_left_and_right_are_swapped_and_no_parts_of_words(caption, mirrored):
    assert swap_left_and_right(caption) == mirrored
    assert swap_left_and_right(mirrored) == caption


def test_image_and_caption_are_mirrored_together_or_not_at_all(image):
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
def test_how_often_an_image_is_mirrored_can_be_set(image, p, caption):
    flip = build_transform(["center_crop", f"horizontal_flip::{{'p': {p}}}"], 32)
    assert {flip(image, "left")[1] for _ in range(20)} == {caption}


# Transforms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [TRAIN, VAL, ["global_resize", "normalize"], ["center_crop"]])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (300, 30), (40, 40)])
def test_images_of_all_shapes_come_out_square_as_float(names, shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    out, caption = build_transform(names, 32)(image, "a caption")
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert caption == "a caption"


def test_colors_are_normalized_with_imagenet_mean_and_std(image):
    raw, _ = build_transform(["center_crop"], 32)(image)
    out, _ = build_transform(["center_crop", "normalize"], 32)(image)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    assert raw.min() >= 0 and 0.5 < raw.max() <= 1
    torch.testing.assert_close(out, (raw - mean[:, None, None]) / std[:, None, None])


def test_pretraining_crops_what_it_resized_to():
    image = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    expected = v2.functional.center_crop(v2.functional.resize(image, [50]), [50, 50])
    out, _ = build_transform(["smallest_resize", "center_crop"], 50)(image)
    assert torch.equal(out, expected / 255)


def test_downstream_tasks_crop_the_center_of_a_larger_image():
    image = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    expected = v2.functional.center_crop(v2.functional.resize(image, [80]), [50, 50])
    out, _ = build_transform(["smallest_resize", "center_crop"], 50, resize_size=80)(image)
    assert torch.equal(out, expected / 255)


def test_defaults_are_the_published_ones():
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


def test_a_crop_holds_no_less_than_its_scale_says():
    """Of an image whose left quarter is white, a crop of all of it shows the white."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :, :16] = 255
    text = "random_resized_crop::{'scale': (1.0, 1.0), 'ratio': (1.0, 1.0)}"
    out, _ = build_transform([text], 32)(image)
    assert out.mean().item() == pytest.approx(0.25, abs=0.02)
    means = {build_transform(["random_resized_crop"], 32)(image)[0].mean().item() for _ in range(9)}
    assert len(means) > 1


def test_random_numbers_come_from_torch_alone(image):
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


def test_a_transform_can_be_sent_to_another_process(image):
    transform = build_transform(TRAIN, 32)
    torch.manual_seed(0)
    here = transform(image, "left")
    torch.manual_seed(0)
    there = pickle.loads(pickle.dumps(transform))(image, "left")
    assert torch.equal(here[0], there[0])
    assert here[1] == there[1]


# Colors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 0.31, 0.5])
def test_hue_is_turned_as_torchvision_turns_it(turn):
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    image[:, :5] = image[:1, :5]  # grey
    image[:, 5], image[:, 6] = 0, 1
    image[0, 7:10] = image[1, 7:10]  # two channels alike
    torch.testing.assert_close(shift_hue(image, turn), F.adjust_hue(image, turn), atol=3e-6, rtol=0)


def test_each_strength_changes_colors_and_keeps_them_in_range(image):
    same = F.to_dtype(image, torch.float32, scale=True)
    for name in ("brightness", "contrast", "saturation", "hue"):
        strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
        torch.manual_seed(3)
        out = ColorJitter(**{**strengths, name: 0.4}, p=1.0)(image)
        assert not torch.allclose(out, same, atol=0.01), name
        assert out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(ColorJitter(**strengths, p=1.0)(image), same, atol=1e-5, rtol=0)


def test_brightness_goes_as_far_as_its_strength_both_ways():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    jitter = ColorJitter(0.4, 0.0, 0.0, 0.0, p=1.0)
    factors = torch.tensor([(jitter(grey)[0, 0, 0] * 255 / 100).item() for _ in range(400)])
    assert factors.min() + 1e-4 >= 0.6 and factors.max() <= 1.4 + 1e-4
    assert factors.min() < 0.63 and factors.max() > 1.37


def test_colors_are_left_alone_as_often_as_p_says(image):
    same = F.to_dtype(image, torch.float32, scale=True)
    torch.manual_seed(0)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    kept = sum(torch.equal(jitter(image), same) for _ in range(500))
    assert 0.14 < kept / 500 < 0.26


# What a config can say ---------------------------------------------------------------------------


def test_arguments_are_read_in_the_published_syntax():
    _, arguments = parse_transform("random_resized_crop::{'scale': (0.08, 1.0)}")
    assert arguments == {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def test_code_in_arguments_does_not_run(tmp_path):
    file = tmp_path / "ran"
    text = f"horizontal_flip::{{'p': open({str(file)!r}, 'w').close() or 0.5}}"
    with pytest.raises(UserError, match="the arguments of the image transform horizontal_flip"):
        build_transform(["center_crop", text], 32)
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "0.5", "{'p'", "('p', 0.5)", "{" * 5000, "{'p': 0.5}::{}"])
def test_arguments_that_are_no_dict_are_refused(text):
    with pytest.raises(UserError, match="the arguments of the image transform horizontal_flip"):
        parse_transform(f"horizontal_flip::{text}")


def test_an_unknown_transform_is_named_with_the_nearest():
    with pytest.raises(
        UserError, match=r"'random_resize_crop'; the nearest is random_resized_crop"
    ):
        build_transform(["random_resize_crop"], 32)


def test_an_unknown_argument_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"has no argument 'scales'; the nearest is scale"):
        parse_transform("random_resized_crop::{'scales': (0.1, 1.0)}")
    with pytest.raises(UserError, match=r"center_crop has no argument 'p'; it takes none"):
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
def test_values_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="must be"):
        parse_transform(text)


def test_every_default_passes_its_own_check():
    for name, recipe in TRANSFORMS.items():
        assert parse_transform(f"{name}::{recipe.arguments!r}") == (name, dict(recipe.arguments))


@pytest.mark.parametrize("names", [[], ["normalize"], VAL[:1], ["center_crop", "smallest_resize"]])
def test_images_of_different_sizes_are_refused(names):
    with pytest.raises(UserError, match="different sizes"):
        build_transform(names, 32)


@pytest.mark.parametrize("last", ["color_jitter", "normalize"])
def test_colors_cannot_be_changed_after_they_are_normalized(last):
    with pytest.raises(UserError, match="normalized already"):
        build_transform(["center_crop", "normalize", "horizontal_flip", last], 32)
