"""Decode image files to 8-bit RGB: one decoder for all tasks, detection included."""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from virtex.errors import UserError
from virtex.files import require_file

# Pillow's other formats are rare, and some start programs or open images inside the file (EPS,
# IPTC). MPO files of cameras are opened as JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**30 // 12  # 89 million, above which Pillow warns of decompression bombs
MAX_ASPECT_RATIO = 100  # beyond it, resizing the short side makes the long side huge
# Every exception that Pillow raises for a corrupt file.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, RuntimeError)

BITS_PER_SAMPLE = 258  # TIFF tag
# Value of EXIF's orientation tag -> the transpose that turns the image upright
ORIENTATION = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)

SCALED, COMPOSITED = "16-bit, scaled to 8 bits", "transparent, composited on white"
TO_8_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)  # 65535 becomes 255

_new: dict[str, str] = {}
_conversions: dict[str, str] = {}


def decode_image(path: str | Path) -> Tensor:
    """Decode an image as RGB, (3, height, width) uint8; see ``load_rgb``."""
    # channels_last in memory, as all transforms work on pixels
    return torch.from_numpy(load_rgb(path)).permute(2, 0, 1)


def load_rgb(path: str | Path) -> np.ndarray:
    """Decode an image as RGB, (height, width, 3) uint8, rotated according to its EXIF data.

    Grayscale, palette and CMYK images are converted by Pillow, color profiles are ignored.
    Transparent pixels are composited on white, 16-bit gray is scaled by 255 / 65535; both are
    counted, see ``conversions``.

    Raises:
        UserError: the file is missing, truncated, not an image of one of ``FORMATS``, has an
            unsupported pixel type, too many pixels, or an extreme aspect ratio.
    """
    with _open(path) as image:
        image.load()  # rotates a TIFF
        transpose = TRANSPOSES.get(_orientation(image))
        rgb = _convert(image, str(path))
        return np.array(rgb if transpose is None else rgb.transpose(transpose))


def load_indices(path: str | Path) -> np.ndarray:
    """Decode an 8-bit image of one channel: (height, width) uint8, gray values or palette indices.

    Raises:
        UserError: as ``load_rgb``; or the image has other pixels.
    """
    with _open(path) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(
                f"expected one channel of 8 bits, but its pixels are of mode {image.mode}"
            )
        return np.array(image)


def read_size(path: str | Path) -> tuple[int, int]:
    """Return width and height in pixels of what ``load_rgb`` returns, from the file's header.

    Raises:
        UserError: the file cannot be opened; corrupt pixel data is not detected.
    """
    with _open(path) as image:
        width, height = image.size
        if _orientation(image) in QUARTER_TURNS and not isinstance(image, TiffImageFile):
            return height, width
        return width, height  # Pillow has already swapped those of a TIFF


@contextmanager
def _open(path: str | Path) -> Iterator[Image.Image]:
    """Open an image of acceptable size; errors inside the context become ``UserError``."""
    try:
        require_file(path)
        with Image.open(path, formats=FORMATS) as image:
            check_size(*image.size)
            yield image
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "not found"
        elif isinstance(error, UnidentifiedImageError):
            reason = f"it is not a valid file of one of the formats {', '.join(FORMATS)}"
        raise UserError(
            f"cannot decode the image {path}: {reason}; restore or replace it", "data.image"
        ) from error


def check_size(width: int, height: int) -> None:
    """Reject images that need too much memory, before they are decoded.

    Raises:
        ValueError: the image has too many pixels, or an extreme aspect ratio.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, but at most {MAX_PIXELS:,} are supported"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"it has {width} x {height} pixels, but its aspect ratio must be at most "
            f"{MAX_ASPECT_RATIO}"
        )


def _orientation(image: Image.Image) -> Any:
    """Return the value of the EXIF tag, valid or not; None without one."""
    try:
        return image.getexif().get(ORIENTATION)
    except (SyntaxError, ValueError, KeyError, struct.error):  # corrupt EXIF in a valid image
        return None


def _convert(image: Image.Image, path: str) -> Image.Image:
    """Convert an image to 8-bit RGB without losing information silently.

    Raises:
        ValueError: the value range of the pixels is unknown.
    """
    key = image.info.get("transparency")  # the transparent color, in PNG
    if image.mode == "RGB" and key is None:
        return image
    if image.mode.startswith(("I", "F")):
        if not _is_16_bit(image) or key is not None:
            raise ValueError(f"pixels of type {image.mode} are not supported, convert it to 8 bits")
        _new[path] = SCALED
        image = Image.fromarray(TO_8_BITS[np.asarray(image)])
    if isinstance(key, tuple) and max(key) > 255:  # Pillow converts the pixels, not the key
        raise ValueError("a transparent color of 16 bits is not supported, convert it to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
        if rgba.getchannel("A").getextrema() != (255, 255):
            _new[path] = COMPOSITED
    return image.convert("RGB")


def _is_16_bit(image: Image.Image) -> bool:
    """Return whether the gray values of an image with mode I or I;16… are from 0 to 65535."""
    if isinstance(image, TiffImageFile):  # mode I: signed, or of 32 bits; I;16: also of 12 bits
        return image.mode != "I" and image.tag_v2.get(BITS_PER_SAMPLE) == (16,)
    return image.mode != "F"


# Conversions -------------------------------------------------------------------------------------


def take_conversions() -> dict[str, str]:
    """Return path -> conversion of the images that this process converted since the last call."""
    taken = dict(_new)
    _new.clear()
    return taken


def report_conversions(found: Mapping[str, str]) -> None:
    """Add what ``take_conversions`` returned in this process or in a worker."""
    _conversions.update(found)


def conversions() -> dict[str, str]:
    """Return path -> conversion of all images reported in this process."""
    return dict(_conversions)


def count_conversions(found: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Return conversion -> number of images, from the ``conversions()`` of all processes."""
    return dict(Counter({path: kind for part in found for path, kind in part.items()}.values()))
