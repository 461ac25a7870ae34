"""Complete instances in COCO's format, as exported by labeling tools, to what COCO's files contain.

CVAT, Roboflow, labelme2coco and other tools omit fields, or write numbers as text. Fields whose
meaning is unambiguous are filled in; anything else is left to the checks of ``annotations``, whose
errors name the item and the field.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pycocotools.mask

from virtex.data.annotations import is_id
from virtex.data.decoding import read_size
from virtex.data.masks import find_mask_problem, is_mask

INTEGERS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "categories": ("id",),
}
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)

Item = dict[str, Any]


def complete_coco(content: Any, folder: Path) -> list[str]:
    """Complete the content of a JSON file in place.

    Args:
        content: of the file, not checked yet.
        folder: file names are relative to it.

    Returns:
        Notes about what was changed or assumed, for the log and the record.

    Raises:
        UserError: the size of an image is missing, and its file cannot be read.
    """
    if not isinstance(content, dict):
        return []
    notes: Counter[str] = Counter()
    items = {
        key: [item for item in found if isinstance(item, dict)]
        for key in INTEGERS
        if isinstance(found := content.get(key, []), list)
    }
    for key, names in INTEGERS.items():
        for item in items.get(key, ()):
            for name in names:
                number = to_integer(item.get(name))
                if type(number) is not type(item.get(name)):
                    item[name] = number
                    notes["ids, sizes or values of iscrowd were text or fractions"] += 1
    images = {}
    for image in items.get("images", ()):
        complete_image(image, folder, notes)
        if is_id(image.get("id")):
            images[image["id"]] = image
    annotations = items.get("annotations", [])
    for annotation in annotations:
        found = annotation.get("image_id")
        complete_annotation(annotation, images.get(found, {}) if is_id(found) else {}, notes)
    ids = [annotation.get("id") for annotation in annotations]
    if not all(map(is_id, ids)) or len(set(ids)) < len(ids):
        for number, annotation in enumerate(annotations, 1):  # nothing refers to them
            annotation["id"] = number
        notes["objects were given new ids"] += len(annotations)
    return [f"{count} {text}" for text, count in notes.items()]


def to_integer(value: Any) -> Any:
    """Return the integer that is written as text or as a fraction; any other value unchanged."""
    number = to_number(value)
    is_whole = isinstance(number, float) and number.is_integer()
    return int(number) if is_whole else value if isinstance(number, float) else number


def to_number(value: Any) -> Any:
    """Return the number that is written as text; any other value unchanged."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return float(value) if "." in value else int(value)
    return value


def complete_image(image: Item, folder: Path, notes: Counter[str]) -> None:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        return
    if "\\" in name and not os.path.isfile(folder / name):
        image["file_name"] = name = name.replace("\\", "/")
        notes["file names had Windows path separators"] += 1
    if image.get("height") is None or image.get("width") is None:
        image["width"], image["height"] = read_size(folder / name)
        notes["image sizes were read from the image files"] += 1


def complete_annotation(annotation: Item, image: Item, notes: Counter[str]) -> None:
    """Complete an object.

    Args:
        image: its image; empty if unknown.
    """
    if annotation.get("iscrowd") is None:
        annotation["iscrowd"] = 0
        notes["objects without iscrowd were read as iscrowd 0"] += 1
    elif annotation["iscrowd"] == 1:
        notes["objects are crowds (iscrowd 1), which are neither trained on nor scored"] += 1
    keypoints = annotation.get("keypoints")
    if isinstance(keypoints, list) and annotation.get("num_keypoints") is None:
        annotation["num_keypoints"] = sum(value in (1, 2) for value in keypoints[2::3])
        notes["objects without num_keypoints: their labeled keypoints were counted"] += 1
    height: Any = image.get("height")
    width: Any = image.get("width")
    has_size = type(height) is int and type(width) is int
    mask = simplify_mask(annotation.pop("segmentation", None))
    if mask is not None:
        annotation["segmentation"] = mask
        if not has_size or not is_mask(mask) or find_mask_problem(mask, height, width):
            return  # the checks of annotations report it
    box: Any = annotation.get("bbox")
    if isinstance(box, list):
        annotation["bbox"] = box = [to_number(value) for value in box]
    elif box is None and mask is not None:
        annotation["bbox"] = box = mask_box(mask, height, width)
        notes["boxes were computed from masks"] += 1
    is_box = isinstance(box, list) and len(box) == 4
    if not is_box or not all(type(value) in (int, float) for value in box):
        return
    if has_size and is_outside(box, height, width):
        notes["boxes reach beyond their image; expected [x, y, width, height] in pixels"] += 1
    if annotation.get("area") is None:
        rle = None if mask is None else to_rle(mask, height, width)
        annotation["area"] = box[2] * box[3] if rle is None else float(pycocotools.mask.area(rle))
        notes["areas of objects were computed from their masks or boxes"] += 1
    else:
        annotation["area"] = to_number(annotation["area"])


def simplify_mask(mask: Any) -> Any:
    """Return a mask as a list of its non-empty polygons; None if there are none.

    A single polygon, [x, y, x, y, …], becomes a list of one. Other masks are returned unchanged,
    valid or not.
    """
    if isinstance(mask, list):
        if mask and all(type(number) in (int, float) for number in mask):
            mask = [mask]
        mask = [polygon for polygon in mask if polygon != []]
    return mask or None


def is_outside(box: list[float], height: int, width: int) -> bool:
    """Return whether a box reaches more than a pixel beyond its image."""
    x, y, w, h = box
    return x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1


def mask_box(mask: Any, height: int, width: int) -> list[float] | None:
    """Return the box of a valid mask, x, y, width and height in pixels; None if it is empty."""
    if isinstance(mask, list):
        xs = [x for polygon in mask for x in polygon[0::2]]
        ys = [y for polygon in mask for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if ys else None
    return pycocotools.mask.toBbox(to_rle(mask, height, width)).tolist()


def to_rle(mask: Any, height: int, width: int) -> Item | None:
    """Return a valid mask as a run-length encoding; None if it has no polygon of 3 points."""
    if isinstance(mask, list):
        polygons = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not polygons:
            return None
        return pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygons, height, width))
    is_encoded = isinstance(mask["counts"], str)
    return mask if is_encoded else pycocotools.mask.frPyObjects(mask, height, width)
