"""Masks in COCO's and LVIS's annotations: polygons, or a run-length encoding of pixels.

What rasterises them is written in C and believes what it is told: numbers that are none end in an
error deep inside of it, and runs that are longer than the image are written beyond its end.
"""

from typing import Any

LARGEST_SIDE = 100_000  # pixels; beyond all formats' images
BITS, SIGN, MORE = 0x1F, 0x10, 0x20  # of a character of an encoding


def is_mask(value: Any) -> bool:
    """Whether it is made as a mask is; what is inside is not looked at."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        return isinstance(size, list) and len(size) == 2 and isinstance(counts, list | str)
    return isinstance(value, list) and all(isinstance(polygon, list) for polygon in value)


def whats_wrong_in_mask(mask: list | dict, height: int, width: int) -> str:
    """Why a mask cannot be one of an image of this size, in words; "" if it can."""
    if isinstance(mask, list):
        side = max(height, width)
        if all(is_polygon(polygon, side) for polygon in mask):
            return ""
        return f"polygons hold numbers that lie in or near the image of {width} x {height} pixels"
    size, counts = mask["size"], mask["counts"]
    if size != [height, width] or not all(type(side) is int for side in size):
        return f"size is [{height}, {width}], that of its image"
    runs = counts if isinstance(counts, list) else runs_in(counts)
    sound = all(type(run) is int and run >= 0 for run in runs)
    if not sound or sum(runs) != height * width or height * width >= 2**32:
        return f"counts are numbers of pixels, {height * width} in all as there are in its image"
    return ""


def is_polygon(polygon: list, side: int) -> bool:
    """Whether it holds numbers, none further out of an image than the image is long.

    Whole lists are compared and added, not number by number, which takes five times as long: of
    COCO there are fifty million.
    """
    if not polygon:
        return True
    try:
        if min(polygon) < -side or max(polygon) > 2 * side:
            return False
        total = sum(polygon)  # NaN is found by nothing else, and text cannot be added
    except (TypeError, OverflowError):
        return False
    return total == total


def runs_in(text: str) -> list[int]:
    """The runs in a compressed encoding; one that is negative where the text is none.

    As pycocotools' ``rleFrString`` reads it: five bits a character, the lowest first, and from the
    third run on the difference to the one before the last.
    """
    runs: list[int] = []
    value = place = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or place > 30:
            return [-1]
        value |= (code & BITS) << place
        place += 5
        if code & MORE:
            continue
        if code & SIGN:
            value -= 1 << place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = place = 0
    return [-1] if place else runs
