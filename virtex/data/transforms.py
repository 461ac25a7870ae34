"""Transforms of images and their captions: a horizontal flip swaps "left" and "right".

Configs name them as published: ``"center_crop"``, or with arguments
``"random_resized_crop::{'scale': (0.08, 1.0)}"``. All random numbers come from torch's global
generator, so that seeding it makes a call deterministic.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from virtex.data.color import ColorJitter
from virtex.data.resampling import INTERPOLATIONS, RandomResizedCrop, Range, Resampling
from virtex.errors import UserError
from virtex.text import nearest, short_repr

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)

Step = Callable[[Tensor, str], tuple[Tensor, str]]


@dataclass(frozen=True)
class ImageTransform:
    """A transform of the image that does not change the caption."""

    module: Callable[[Tensor], Tensor]

    def __call__(self, image: Tensor, caption: str) -> tuple[Tensor, str]:
        return self.module(image), caption


@dataclass(frozen=True)
class HorizontalFlip:
    """Flip the image and swap the words left and right with probability ``p``."""

    p: float

    def __call__(self, image: Tensor, caption: str) -> tuple[Tensor, str]:
        if torch.rand(()).item() >= self.p:
            return image, caption
        return image.flip(-1), swap_left_and_right(caption)


_SIDES = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def swap_left_and_right(caption: str) -> str:
    """Swap the words "left" and "right", preserving case.

    Changes whole words only, not "bright" or "leftover".
    """
    return _SIDE.sub(_swap_side, caption)


def _swap_side(found: re.Match[str]) -> str:
    word = found[0]
    other = _SIDES[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _random_resized_crop(
    size: int, scale: Range, ratio: Range, interpolation: str, antialias: bool
) -> Step:
    return ImageTransform(
        RandomResizedCrop(size, scale, ratio, Resampling(interpolation, antialias))
    )


def _center_crop(size: int) -> Step:
    return ImageTransform(partial(Resampling().center_crop, size=size))


def _smallest_resize(size: int, interpolation: str, antialias: bool) -> Step:
    resampling = Resampling(interpolation, antialias)
    return ImageTransform(partial(resampling.resize_short_side, size=size))


def _global_resize(size: int, interpolation: str, antialias: bool) -> Step:
    resampling = Resampling(interpolation, antialias)
    return ImageTransform(partial(resampling.resize, height=size, width=size))


def _color_jitter(**arguments: float) -> Step:
    return ImageTransform(ColorJitter(**arguments))


def _normalize(mean: Sequence[float], std: Sequence[float]) -> Step:
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    return ImageTransform(nn.Sequential(*steps))


@dataclass(frozen=True)
class TransformSpec:
    """How to build a transform.

    Attributes:
        build: takes ``arguments``, and ``size`` unless that is None.
        arguments: those that a config can set, with the published defaults.
        size: "crop" or "resize", the size that it takes; None if it does not resize.
        fixed: its output always has the same height and width.
    """

    build: Callable[..., Step]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: str | None = None
    fixed: bool = False


RESAMPLING = {"interpolation": "bilinear", "antialias": False}
TRANSFORMS: Mapping[str, TransformSpec] = MappingProxyType(
    {
        "random_resized_crop": TransformSpec(
            _random_resized_crop,
            {"scale": (0.2, 1.0), "ratio": (0.75, 1.333), **RESAMPLING},
            "crop",
            True,
        ),
        "center_crop": TransformSpec(_center_crop, {}, "crop", True),
        "smallest_resize": TransformSpec(_smallest_resize, RESAMPLING, "resize"),
        "global_resize": TransformSpec(_global_resize, RESAMPLING, "crop", True),
        # a small hue range, because captions name colors
        "color_jitter": TransformSpec(
            _color_jitter,
            {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8},
        ),
        "horizontal_flip": TransformSpec(HorizontalFlip, {"p": 0.5}),
        "normalize": TransformSpec(_normalize, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}),
    }
)


def _is_numbers(value: Any, count: int, low: float, high: float = float("inf")) -> bool:
    """Return whether ``value`` is ``count`` numbers (1: a plain number) in [low, high]."""
    items = [value] if count == 1 else value
    return (
        isinstance(items, list | tuple)
        and len(items) == count
        and all(type(item) in (int, float) and low <= item <= high for item in items)
    )


def _is_range(value: Any) -> bool:
    return _is_numbers(value, 2, 0) and 0 < value[0] <= value[1] < float("inf")


def _is_fraction(value: Any) -> bool:
    return _is_numbers(value, 1, 0, 1)


def _is_strength(value: Any) -> bool:
    return _is_numbers(value, 1, 0)


# argument -> predicate of valid values, and its description
ARGUMENT_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "scale": (lambda v: _is_range(v) and v[1] <= 1, "two numbers in (0, 1], ascending"),
        "ratio": (_is_range, "two positive numbers, ascending"),
        "brightness": (_is_strength, "a number of 0 or more"),
        "contrast": (_is_strength, "a number of 0 or more"),
        "saturation": (_is_strength, "a number of 0 or more"),
        "hue": (lambda v: _is_numbers(v, 1, 0, 0.5), "a number from 0 to 0.5"),
        "interpolation": (lambda v: v in list(INTERPOLATIONS), " or ".join(INTERPOLATIONS)),
        "antialias": (lambda v: isinstance(v, bool), "True or False"),
        "p": (_is_fraction, "a probability from 0 to 1"),
        "mean": (lambda v: _is_numbers(v, 3, 0, 1), "three numbers from 0 to 1"),
        "std": (lambda v: _is_numbers(v, 3, 1e-6), "three positive numbers"),
    }
)


def parse_transform(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name`` or ``name::{'argument': value}``; return name and arguments with defaults.

    Values are Python literals; no code is evaluated.

    Raises:
        UserError: unknown name or argument, or an invalid value.
    """
    name, separator, literal = text.partition("::")
    if name not in TRANSFORMS:
        raise UserError(
            f"unknown image transform {short_repr(name)}; {nearest(name, TRANSFORMS)}",
            "config.unknown_transform",
        )
    arguments: Any = {}
    if separator:
        try:
            arguments = ast.literal_eval(literal.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise UserError(
            f"the arguments of the image transform {name} must be a dict, not "
            f"{short_repr(literal)}; write {name} or {name}::{{'argument': value}}",
            "config.transform_arguments",
        )
    known = TRANSFORMS[name].arguments
    for argument, value in arguments.items():
        if argument not in known:
            hint = nearest(str(argument), known) if known else "it takes none"
            raise UserError(
                f"the image transform {name} has no argument {argument!r}; {hint}",
                "config.transform_arguments",
            )
        is_valid, expected = ARGUMENT_CHECKS[argument]
        if not is_valid(value):
            raise UserError(
                f"{argument} of the image transform {name} must be {expected}, not "
                f"{short_repr(value)}",
                "config.transform_arguments",
            )
    return name, {**known, **arguments}


class CaptionTransform:
    """A sequence of transforms of an image and its caption."""

    def __init__(self, steps: Sequence[Step]):
        self.steps = tuple(steps)

    def __call__(self, image: Tensor, caption: str = "") -> tuple[Tensor, str]:
        """
        Args:
            image: (3, height, width), uint8.

        Returns:
            The image (3, size, size), float32 in [0, 1] or normalized, and the caption.
        """
        for step in self.steps:
            image, caption = step(image, caption)
        if image.dtype == torch.uint8:
            image = image.float() / 255
        return image.contiguous(), caption


def build_transform(
    names: Sequence[str], crop_size: int, resize_size: int | None = None
) -> CaptionTransform:
    """Build the transform that a config's list of names describes.

    Args:
        names: names in ``TRANSFORMS``, with or without arguments.
        crop_size: height and width of the output in pixels.
        resize_size: shorter side after ``smallest_resize`` in pixels; default: ``crop_size``.

    Raises:
        UserError: an entry is invalid (see ``parse_transform``), the outputs would differ in
            size, or colors would be jittered after normalization.
    """
    parsed = [parse_transform(text) for text in names]
    order = [name for name, _ in parsed]
    sized = [name for name in order if TRANSFORMS[name].size]
    if not sized or not TRANSFORMS[sized[-1]].fixed:
        fixed = ", ".join(name for name, spec in TRANSFORMS.items() if spec.fixed)
        raise UserError(
            f"the image transforms {', '.join(order) or '(none)'} give images of different "
            f"sizes; end all resizing with one of {fixed}",
            "config.transform_order",
        )
    colors = [name for name in order if name in ("color_jitter", "normalize")]
    if "normalize" in colors[:-1]:
        raise UserError(
            f"the image transforms {', '.join(order)} change colors after normalize; use "
            "normalize once, after color_jitter",
            "config.transform_order",
        )
    sizes = {"crop": crop_size, "resize": resize_size or crop_size}
    steps = []
    for name, arguments in parsed:
        spec = TRANSFORMS[name]
        size = {"size": sizes[spec.size]} if spec.size else {}
        steps.append(spec.build(**size, **arguments))
    return CaptionTransform(steps)
