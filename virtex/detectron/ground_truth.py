"""Annotation files reduced to the fields that the scorers need.

hotcoco, pycocotools and lvis fail on fields that do not affect a score (a null license, a
polygon of two points), and one of them never matches the object whose id is 0.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virtex.data.annotations import read_json

FIELDS = {
    "images": ("id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "name", "frequency"),
    "annotations": ("image_id", "category_id", "bbox", "area"),
}
MIN_POLYGON_POINTS = 3


@contextlib.contextmanager
def minimal_annotations(annotations: Path | dict[str, Any]) -> Iterator[Path]:
    """Write the fields that scores depend on to a temporary file, removed after the block.

    Args:
        annotations: a COCO or LVIS v1 instances file, or the content of one, that passed the
            checks of ``virtex.data.annotations``.

    Raises:
        UserError: the file can no longer be read.
    """
    content = (
        annotations if isinstance(annotations, dict) else read_json(annotations, "annotations")
    )
    reduced: dict[str, list[dict[str, Any]]] = {
        key: [{name: item[name] for name in names if name in item} for item in content[key]]
        for key, names in FIELDS.items()
    }
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    pairs = zip(reduced["annotations"], content["annotations"], strict=True)
    for number, (kept, original) in enumerate(pairs, 1):
        size = sizes[original["image_id"]]
        kept |= {"id": number, "iscrowd": int(original.get("iscrowd", 0))}
        kept["segmentation"] = scorable_mask(original.get("segmentation", []), size)
    with tempfile.TemporaryDirectory(prefix="virtex-annotations-") as folder:
        path = Path(folder, "annotations.json")
        path.write_text(json.dumps({"info": {}, "licenses": [], **reduced}), encoding="utf-8")
        yield path


def scorable_mask(mask: list | dict, size: tuple[int, int]) -> list | dict[str, Any]:
    """Return the mask without degenerate polygons; an empty run-length mask if none is left.

    Args:
        size: (height, width) of the image in pixels.
    """
    if isinstance(mask, dict):
        return {"size": mask["size"], "counts": mask["counts"]}
    polygons = [
        list(map(float, polygon))
        for polygon in mask
        if len(polygon) >= 2 * MIN_POLYGON_POINTS and len(polygon) % 2 == 0
    ]
    return polygons or {"size": list(size), "counts": [size[0] * size[1]]}
