"""The annotations that detections are scored against, with what a scorer asks for and no more.

Scorers trip over what does not concern them, hours into a run: an odd license, a null, a mask of
two points; and one of them never finds the object whose id is 0.
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
POINTS = 3  # of a polygon, at least


@contextlib.contextmanager
def ground_truth(annotations: Path) -> Iterator[Path]:
    """A file like ``annotations``, with the fields that a score depends on; it goes with the block.

    Args:
        annotations: COCO or LVIS v1 instances, as ``virtex.data.annotations`` checks them.

    Raises:
        UserError: it cannot be read any more.
    """
    content = read_json(annotations, "annotations")
    truth: dict[str, list[dict[str, Any]]] = {
        key: [{name: item[name] for name in names if name in item} for item in content[key]]
        for key, names in FIELDS.items()
    }
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    pairs = zip(truth["annotations"], content["annotations"], strict=True)
    for number, (kept, found) in enumerate(pairs, 1):
        size = sizes[found["image_id"]]
        kept |= {"id": number, "iscrowd": int(found.get("iscrowd", 0))}
        kept["segmentation"] = scorable_mask(found.get("segmentation", []), size)
    with tempfile.TemporaryDirectory(prefix="virtex-truth-") as folder:
        path = Path(folder, annotations.name)
        path.write_text(json.dumps({"info": {}, "licenses": [], **truth}), encoding="utf-8")
        yield path


def scorable_mask(mask: list | dict, size: tuple[int, int]) -> list | dict[str, Any]:
    """A mask of which every polygon is one; an empty one where none is.

    Args:
        size: height and width of its image, in pixels.
    """
    if isinstance(mask, dict):
        return {"size": mask["size"], "counts": mask["counts"]}
    polygons = [list(map(float, p)) for p in mask if len(p) >= 2 * POINTS and len(p) % 2 == 0]
    return polygons or {"size": list(size), "counts": [size[0] * size[1]]}
