"""Ground truth reduced to the fields that scores depend on, in a form all scorers read alike.

hotcoco, pycocotools and lvis fail on fields that do not affect a score (a null license, a
polygon of two points), and two of them never match the object whose id is 0. hotcoco differs from
lvis where lvis differs from COCO: it keeps empty objects, and honors ``iscrowd`` but not
``ignore``. So both get the same file, in which these differences cannot appear.
"""

import json
from typing import Any

import pycocotools.mask

FIELDS = {
    "images": ("id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "name", "frequency"),
    "annotations": ("image_id", "category_id", "bbox", "area"),
}
KEYPOINT_FIELDS = ("keypoints", "num_keypoints")  # of annotations
MIN_POLYGON_POINTS = 3
IGNORED_AREA = 1e11  # square pixels; outside of every range of areas, whose limit is 1e10


def scorable_json(content: dict[str, Any], style: str, has_keypoints: bool = False) -> bytes:
    """Return ground truth as JSON for any scorer.

    Args:
        content: COCO or LVIS v1 instances that passed the checks of ``virtex.data.annotations``.
        style: ``"coco"`` or ``"lvis"``.
        has_keypoints: whether the checks included keypoints.
    """
    fields = {**FIELDS, "annotations": FIELDS["annotations"] + KEYPOINT_FIELDS * has_keypoints}
    reduced: dict[str, list[dict[str, Any]]] = {
        key: [{name: item[name] for name in names if name in item} for item in content[key]]
        for key, names in fields.items()
    }
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    pairs = zip(reduced["annotations"], content["annotations"], strict=True)
    for number, (kept, original) in enumerate(pairs, 1):
        size = sizes[original["image_id"]]
        kept |= {"id": number, "iscrowd": int(original.get("iscrowd", 0))}
        kept["segmentation"] = scorable_mask(original.get("segmentation", []), size)
        if style == "lvis":
            kept["iscrowd"] = 0  # lvis has no crowds
            if original.get("ignore") and kept["area"] > 0:
                kept["area"] = IGNORED_AREA
    if style == "lvis":  # as LVIS.get_ann_ids, which LVISEval calls
        reduced["annotations"] = [a for a in reduced["annotations"] if a["area"] > 0]
    return json.dumps({"info": {}, "licenses": [], **reduced}).encode()


def scorable_mask(mask: list | dict, size: tuple[int, int]) -> list | dict[str, Any]:
    """Return the mask; degenerate polygons as pycocotools rasterizes them, empty if it cannot.

    Args:
        size: (height, width) of the image in pixels.
    """
    if isinstance(mask, dict):
        return {"size": mask["size"], "counts": mask["counts"]}
    if mask and all(len(p) >= 2 * MIN_POLYGON_POINTS and len(p) % 2 == 0 for p in mask):
        return [list(map(float, polygon)) for polygon in mask]
    try:
        found = pycocotools.mask.merge(pycocotools.mask.frPyObjects(mask, *size))
    except Exception:  # IndexError, ValueError, or a plain Exception for a point
        return {"size": list(size), "counts": [size[0] * size[1]]}
    return {"size": list(size), "counts": found["counts"].decode()}
