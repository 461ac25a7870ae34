"""Masks in COCO's and LVIS's annotations: polygons or run-length encodings (RLE).

pycocotools' C code trusts its input: invalid numbers fail deep inside it, and runs beyond the size
of the image are written outside of its buffer. So masks are validated first.
"""

from typing import Any

MAX_SIDE = 100_000  # pixels, more than any image format of the datasets
BITS, SIGN, MORE = 0x1F, 0x10, 0x20  # of a character of a compressed RLE


def is_mask(value: Any) -> bool:
    """Return whether ``value`` has the structure of a mask, whatever numbers it contains."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        return isinstance(size, list) and len(size) == 2 and isinstance(counts, list | str)
    return isinstance(value, list) and all(isinstance(polygon, list) for polygon in value)


def find_mask_problem(mask: list | dict, height: int, width: int) -> str:
    """Return what an image of this size requires of a mask and is not met, "" if it is valid."""
    if isinstance(mask, list):
        side = max(height, width)
        if all(is_polygon(polygon, side) for polygon in mask):
            return ""
        return f"expected polygons of numbers in or near the image of {width} x {height} pixels"
    size, counts = mask["size"], mask["counts"]
    if size != [height, width] or not all(type(side) is int for side in size):
        return f"expected size [{height}, {width}], that of its image"
    runs = counts if isinstance(counts, list) else decode_runs(counts)
    is_valid = all(type(run) is int and run >= 0 for run in runs)
    if not is_valid or sum(runs) != height * width or height * width >= 2**32:
        return f"expected counts that sum to the {height * width} pixels of its image"
    return ""


def is_polygon(polygon: list, side: int) -> bool:
    """Return whether all entries are numbers, none more than ``side`` outside of the image.

    min, max and sum of the whole list are five times as fast as a Python loop: COCO has fifty
    million coordinates.
    """
    if not polygon:
        return True
    try:
        if min(polygon) < -side or max(polygon) > 2 * side:
            return False
        total = sum(polygon)  # NaN for any NaN; TypeError for strings
    except (TypeError, OverflowError):
        return False
    return total == total


def decode_runs(text: str) -> list[int]:
    """Decode a compressed RLE as pycocotools' ``rleFrString``; ``[-1]`` if it is invalid.

    Each character holds five bits, the lowest first; from the third run on, a run is stored as the
    difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return [-1]
        value |= (code & BITS) << shift
        shift += 5
        if code & MORE:
            continue
        if code & SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return [-1] if shift else runs
