"""Image transforms that keep the caption true: a mirrored image has its left at the right.

Named and written in configs as published: ``"center_crop"``, or with arguments
``"random_resized_crop::{'scale': (0.08, 1.0)}"``. All random numbers come from torch's global
generator, so that a seed set before a call decides all of it.
"""

import ast
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from virtex.data.color import ColorJitter
from virtex.errors import UserError
from virtex.files import require_file
from virtex.text import nearest, short_repr

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0 … 1
IMAGENET_STD = (0.229, 0.224, 0.225)

# EXIF's orientation (tag 0x0112) -> what turns the image upright
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PROGRAMS = ("EPS",)  # Pillow has it run by Ghostscript, whatever the file is called
# What Pillow raises for a file that is broken in one way or another.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError),
    RuntimeError,  # AVIF; NotImplementedError, of DDS, is one
)


def decode_image(path: str | Path) -> Tensor:
    """Decode an image as RGB, (3, height, width) uint8, rotated according to its EXIF data.

    Grey, palette, CMYK and 16-bit images become RGB as in Detectron2, by Pillow's ``convert``.

    Raises:
        UserError: the file is missing, truncated or not an image.
    """
    try:
        require_file(path)
        with Image.open(path) as image:
            if image.format in PROGRAMS:
                raise ValueError(f"{image.format} files are programs")
            upright = UPRIGHT.get(_orientation(image))
            rgb = image.convert("RGB")
    except BROKEN as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"cannot decode the image {path}: {reason or type(error).__name__}; restore it",
            "data.image",
        ) from error
    if upright is not None:
        rgb = rgb.transpose(upright)
    # channels last in memory, which is cropped and resized twice as fast
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _orientation(image: Image.Image) -> Any:
    """What the file says of it, whatever that is; None if it says nothing."""
    try:
        return image.getexif().get(ORIENTATION)
    except (SyntaxError, ValueError, KeyError, struct.error):  # broken EXIF in a sound image
        return None


Step = Callable[[Tensor, str], tuple[Tensor, str]]


@dataclass(frozen=True)
class OnImage:
    """A transform of torchvision's that leaves the caption as it is."""

    module: Callable[[Tensor], Tensor]

    def __call__(self, image: Tensor, caption: str) -> tuple[Tensor, str]:
        return self.module(image), caption


@dataclass(frozen=True)
class HorizontalFlip:
    """With probability ``p``: mirror the image, and swap the words left and right."""

    p: float

    def __call__(self, image: Tensor, caption: str) -> tuple[Tensor, str]:
        if torch.rand(()).item() >= self.p:
            return image, caption
        return image.flip(-1), swap_left_and_right(caption)


_SIDES = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def swap_left_and_right(caption: str) -> str:
    """``caption`` of the mirrored image: the words left and right swapped, case kept.

    Whole words alone: "bright" and "leftover" stay as they are.
    """
    return _SIDE.sub(_other_side, caption)


def _other_side(found: re.Match[str]) -> str:
    word = found[0]
    other = _SIDES[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _random_resized_crop(size: int, scale: Sequence[float], ratio: Sequence[float]) -> Step:
    return OnImage(v2.RandomResizedCrop(size, scale, ratio, antialias=True))


def _center_crop(size: int) -> Step:
    return OnImage(v2.CenterCrop(size))


def _smallest_resize(size: int) -> Step:
    return OnImage(v2.Resize(size, antialias=True))


def _global_resize(size: int) -> Step:
    return OnImage(v2.Resize((size, size), antialias=True))


def _color_jitter(**arguments: float) -> Step:
    return OnImage(ColorJitter(**arguments))


def _normalize(mean: Sequence[float], std: Sequence[float]) -> Step:
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return OnImage(nn.Sequential(*steps))


@dataclass(frozen=True)
class Recipe:
    """How a transform is built.

    Attributes:
        arguments: those a config can set, with the published defaults.
        size: "crop" or "resize": which size it is given; None: it keeps the image's.
        fixed: all images come out of it with the same height and width.
    """

    build: Callable[..., Step]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: str | None = None
    fixed: bool = False


TRANSFORMS: Mapping[str, Recipe] = MappingProxyType(
    {
        "random_resized_crop": Recipe(
            _random_resized_crop, {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}, "crop", True
        ),
        "center_crop": Recipe(_center_crop, {}, "crop", True),
        "smallest_resize": Recipe(_smallest_resize, {}, "resize"),
        "global_resize": Recipe(_global_resize, {}, "crop", True),
        # hue changes little, for captions name colors
        "color_jitter": Recipe(
            _color_jitter,
            {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8},
        ),
        "horizontal_flip": Recipe(HorizontalFlip, {"p": 0.5}),
        "normalize": Recipe(_normalize, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}),
    }
)


def _numbers(value: Any, count: int, least: float, most: float = float("inf")) -> bool:
    """Whether ``value`` is so many numbers (1: not in a list), each from ``least`` to ``most``."""
    items = [value] if count == 1 else value
    return (
        isinstance(items, list | tuple)
        and len(items) == count
        and all(type(item) in (int, float) and least <= item <= most for item in items)
    )


def _is_range(value: Any) -> bool:
    return _numbers(value, 2, 0) and 0 < value[0] <= value[1] < float("inf")


def _is_share(value: Any) -> bool:
    return _numbers(value, 1, 0, 1)


def _is_strength(value: Any) -> bool:
    return _numbers(value, 1, 0)


# argument -> what holds for its values, and that in words
VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "scale": (lambda v: _is_range(v) and v[1] <= 1, "two numbers in (0, 1], ascending"),
        "ratio": (_is_range, "two positive numbers, ascending"),
        "brightness": (_is_strength, "a number of 0 or more"),
        "contrast": (_is_strength, "a number of 0 or more"),
        "saturation": (_is_strength, "a number of 0 or more"),
        "hue": (lambda v: _numbers(v, 1, 0, 0.5), "a number from 0 to 0.5"),
        "p": (_is_share, "a probability from 0 to 1"),
        "mean": (lambda v: _numbers(v, 3, 0, 1), "three numbers from 0 to 1"),
        "std": (lambda v: _numbers(v, 3, 1e-6), "three positive numbers"),
    }
)


def parse_transform(text: str) -> tuple[str, dict[str, Any]]:
    """``name`` or ``name::{'argument': value}`` as the name and its arguments, defaults included.

    Values are literals; code is not run.

    Raises:
        UserError: unknown name or argument (the nearest is told), or a value that cannot be.
    """
    name, separator, literal = text.partition("::")
    if name not in TRANSFORMS:
        raise UserError(
            f"there is no image transform {short_repr(name)}; {nearest(name, TRANSFORMS)}"
        )
    arguments: Any = {}
    if separator:
        try:
            arguments = ast.literal_eval(literal.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise UserError(
            f"the arguments of the image transform {name} cannot be {short_repr(literal)}; "
            f"write {name} alone or {name}::{{'argument': value}} with numbers as values"
        )
    known = TRANSFORMS[name].arguments
    for argument, value in arguments.items():
        if argument not in known:
            hint = nearest(str(argument), known) if known else "it takes none"
            raise UserError(f"the image transform {name} has no argument {argument!r}; {hint}")
        holds, words = VALUES[argument]
        if not holds(value):
            raise UserError(
                f"the image transform {name}: {argument} must be {words}, not {short_repr(value)}"
            )
    return name, {**known, **arguments}


class CaptionTransform:
    """Transforms applied in turn to an image and its caption."""

    def __init__(self, steps: Sequence[Step]):
        self.steps = tuple(steps)

    def __call__(self, image: Tensor, caption: str = "") -> tuple[Tensor, str]:
        """
        Args:
            image: (3, height, width), uint8.

        Returns:
            the image (3, size, size), float32: 0 … 1, or what "normalize" makes of that; and
            the caption.
        """
        for step in self.steps:
            image, caption = step(image, caption)
        if image.dtype == torch.uint8:
            image = image.float() / 255
        return image.contiguous(), caption


def build_transform(
    names: Sequence[str], crop_size: int, resize_size: int | None = None
) -> CaptionTransform:
    """The transform a config's list of names describes.

    Args:
        names: of ``TRANSFORMS``, with or without arguments.
        crop_size: height and width, in pixels, of the images that come out.
        resize_size: what ``smallest_resize`` makes the short side; None: ``crop_size``.

    Raises:
        UserError: see ``parse_transform``; the images would come out in different sizes; colors
            would be jittered after they were normalized.
    """
    parsed = [parse_transform(text) for text in names]
    order = [name for name, _ in parsed]
    sized = [name for name in order if TRANSFORMS[name].size]
    if not sized or not TRANSFORMS[sized[-1]].fixed:
        fixed = ", ".join(name for name, recipe in TRANSFORMS.items() if recipe.fixed)
        raise UserError(
            f"the image transforms {', '.join(order) or '(none)'} give images of different "
            f"sizes; let one of {fixed} come after all resizing"
        )
    colors = [name for name in order if name in ("color_jitter", "normalize")]
    if "normalize" in colors[:-1]:
        raise UserError(
            f"the image transforms {', '.join(order)} change colors that are normalized already; "
            "let normalize come once, after color_jitter"
        )
    sizes = {"crop": crop_size, "resize": resize_size or crop_size}
    steps = []
    for name, arguments in parsed:
        recipe = TRANSFORMS[name]
        size = {"size": sizes[recipe.size]} if recipe.size else {}
        steps.append(recipe.build(**size, **arguments))
    return CaptionTransform(steps)
