"""Decoding images: formats, pixel types, orientation, limits, and the count of conversions."""

import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.errors import raises_code
from virtex.data import decoding
from virtex.data.classification import ClassificationSet, evaluation_transform
from virtex.data.decoding import COMPOSITED, ORIENTATION, SCALED, decode_image, load_rgb
from virtex.data.image_sets import ImageSet
from virtex.data.loading import validation_loader
from virtex.errors import UserError


@pytest.fixture
def pixels() -> np.ndarray:
    """(48, 64, 3): smooth, another color in every corner."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, 255 - rows * 2 - columns * 2], -1).astype(np.uint8)


def test_decode_image(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png")
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [*itertools.product(["L", "1", "P"], [".png", ".tiff"]), ("CMYK", ".tiff"), ("CMYK", ".jpg")],
)
def test_decode_converts_modes_to_rgb(tmp_path, pixels, mode, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).convert(mode).save(path)
    with Image.open(path) as image:
        assert np.array_equal(load_rgb(path), np.array(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bit_gray_is_scaled(tmp_path, suffix):
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5000].reshape(50, 100)
    path = tmp_path / f"a{suffix}"
    if suffix == ".pgm":
        path.write_bytes(b"P5 100 50 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, values)  # an independent reader
    expected = np.floor(found * (255 / 65535) + 0.5)
    assert np.array_equal(load_rgb(path), expected[..., None].repeat(3, -1))
    assert decoding.take_conversions() == {str(path): SCALED}


@pytest.mark.parametrize("kind", ["RGBA", "LA", "RGBA 16-bit", "P", "L with color key", "webp"])
def test_transparent_pixels_are_composited_on_white(tmp_path, pixels, kind):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 20:40], alpha[:, 40:] = 100, 255
    rgba = np.dstack([pixels, alpha])
    path = tmp_path / ("a.webp" if kind == "webp" else "a.png")
    if kind == "RGBA 16-bit":
        cv2.imwrite(str(path), rgba[..., [2, 1, 0, 3]].astype(np.uint16) * 257)
    elif kind == "P":
        image = Image.fromarray(pixels).quantize(16)
        transparent = image.getpixel((0, 0))
        image.save(path, transparency=transparent)
        alpha = np.where(np.array(image) == transparent, 0, 255)
        rgba = np.dstack([np.array(image.convert("RGB")), alpha])
    elif kind == "L with color key":
        Image.fromarray(pixels[..., 0]).save(path, transparency=40)
        rgba = np.dstack([pixels[..., :1].repeat(3, -1), 255 * (pixels[..., 0] != 40)])
    else:
        image = Image.fromarray(rgba).convert("LA" if kind == "LA" else "RGBA")
        image.save(path, **({"lossless": True, "exact": True} if kind == "webp" else {}))
        rgba = np.array(image.convert("RGBA"))
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + 255 * (1 - share)
    assert np.abs(load_rgb(path) - expected).max() <= 1
    assert decoding.take_conversions() == {str(path): COMPOSITED}


def test_opaque_alpha_channel_is_dropped(tmp_path, pixels):
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(load_rgb(tmp_path / "a.png"), pixels)
    assert decoding.take_conversions() == {}


@pytest.mark.parametrize("kind", ["float", "32-bit", "12-bit"])
def test_pixels_of_unknown_range_are_refused(tmp_path, kind):
    path = tmp_path / "a.tiff"
    if kind == "12-bit":
        path.write_bytes(tiff_of_12_bits())
    else:
        Image.new("F" if kind == "float" else "I", (8, 8), 1000).save(path)
    with raises_code("data.image", path):
        decode_image(path)


def tiff_of_12_bits() -> bytes:
    """A 8 x 8 TIFF whose gray values have 12 bits."""
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8)]
    tags += [(279, 96)]
    directory = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    strip = bytes(96)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    return head + strip + struct.pack("<H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_applies_exif_orientation(tmp_path, pixels, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    decoded = load_rgb(path)
    with Image.open(path) as stored:
        stored.load()  # Pillow rotates a TIFF here
        assert np.array_equal(decoded, np.array(ImageOps.exif_transpose(stored)))
    assert decoded.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))


@pytest.mark.parametrize("suffix", ["gif", "jpg", "png", "tif", "webp"])
def test_corrupted_file_raises_only_user_errors(tmp_path, suffix):
    path, rng = tmp_path / f"image.{suffix}", np.random.default_rng(0)
    Image.new("RGB", (48, 32), "teal").save(path)
    original, num_errors = np.frombuffer(path.read_bytes(), np.uint8), 0
    for _ in range(100):
        damaged = original.copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 8))
        damaged[places] = rng.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            decode_image(path)
        except UserError:
            num_errors += 1
    assert num_errors


def test_invalid_exif_data_are_ignored(tmp_path, pixels):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0not a directory")
    assert decode_image(path).shape == (3, 48, 64)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_image(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with raises_code("data.image", path):
        decode_image(path)


def test_missing_or_invalid_image(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    for name in ("none.jpg", "text.jpg"):
        with raises_code("data.image", tmp_path / name):
            decode_image(tmp_path / name)


# Limits ------------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """The head of a PNG that states a size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(1, 170_000), (170_000, 1), (13_300, 13_400), (1, 101)])
def test_too_large_or_elongated_image_is_not_decoded(tmp_path, monkeypatch, size):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(png_of_size(*size))
    with raises_code("data.image", tmp_path / "a.png", str(size[0]), str(size[1])):
        decode_image(tmp_path / "a.png")


def test_elongated_image_within_the_limit(tmp_path):
    Image.new("RGB", (100, 1)).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").shape == (3, 1, 100)


# Conversions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_conversions_in_workers_are_counted_once(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(decoding, "_conversions", {})
    Image.new("RGBA", (40, 40)).save(tmp_path / "0.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    Image.fromarray(np.full((40, 40), 999, np.uint16)).save(tmp_path / "2.png")
    images = ImageSet("x", tmp_path, ["0.png", "1.png", "2.png"], np.zeros(3, np.int64), ["a"])
    data = ClassificationSet(images, evaluation_transform(32, 32), training=False)
    for _ in range(2):
        for batch in validation_loader(data, 1, num_workers=num_workers):
            assert set(batch) == {"image", "label", "image_id"}
    found = decoding.conversions()
    assert found == {str(tmp_path / "0.png"): COMPOSITED, str(tmp_path / "2.png"): SCALED}
    assert decoding.count_conversions([found, found]) == {COMPOSITED: 1, SCALED: 1}
