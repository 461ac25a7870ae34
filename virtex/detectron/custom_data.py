"""Custom datasets, registered with Detectron2 by the user: checked and hashed like built-in ones.

Sets are loaded by the function they were registered with and converted to COCO's format. In this
form they pass the checks of COCO's annotation files, are hashed, and are the ground truth of
scores, unless the metadata names a COCO or LVIS file (``register_coco_instances``): then that
file is checked and scored against.
"""

import hashlib
import json
import os
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks

from virtex.data.annotations import check_coco_json, check_lvis_json, read_json
from virtex.errors import UserError
from virtex.files import sha256_of
from virtex.text import short_repr

Samples = list[dict[str, Any]]  # Detectron2's standard dicts, one per image

BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
SAMPLE_FIELDS: dict[str, tuple[Any, str]] = {
    "file_name": ((str, os.PathLike), "a path"),
    "height": (Integral, "a number of pixels"),
    "width": (Integral, "a number of pixels"),
    "image_id": ((Integral, str), "an integer or a string"),
    "annotations": (list, "a list of objects"),
}


def read_custom_set(name: str, scored: bool) -> Samples:
    """Load and check a registered set. The catalog returns the same samples from then on.

    Args:
        scored: whether it is a test set.

    Raises:
        UserError: the set, its JSON file or its metadata is not valid.
    """
    loader = DatasetCatalog[name]
    loader = getattr(loader, "uncached", loader)
    cached = lru_cache(maxsize=1)(loader)
    vars(cached)["uncached"] = loader
    DatasetCatalog[name] = cached

    content = None
    if path := annotation_file(name):
        content = read_json(path, f"the annotations of {name}")
        is_lvis = MetadataCatalog.get(name).evaluator_type == "lvis"
        (check_lvis_json if is_lvis else check_coco_json)(content, path)
    samples = cached()
    check_samples(name, samples)
    check_coco_json(coco_content(name, samples), f"dataset {name}")
    is_voc = MetadataCatalog.get(name).get("evaluator_type") in ("voc", "pascal_voc")
    if scored and not is_voc and any(isinstance(s["image_id"], str) for s in samples):
        raise UserError(
            f"image_id must be an integer in dataset {name}, which is scored", code="data.samples"
        )
    if scored and content is not None:
        listed = {image["id"] for image in content["images"]}
        if listed != {sample["image_id"] for sample in samples}:
            raise UserError(
                f"the samples of dataset {name} must be the images of {path}, which it is scored "
                "against",
                code="data.samples",
            )
    return samples


def annotation_file(name: str) -> Path | None:
    """Return the COCO or LVIS file that the metadata of a set names, if any."""
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file")
    return Path(path) if path and metadata.get("evaluator_type") in ("coco", "lvis") else None


def check_samples(name: str, samples: Any) -> None:
    """Check the types of Detectron2's standard dicts.

    Raises:
        UserError: the first problem; or the metadata has no classes.
    """
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise UserError(
            f"dataset {name} has no classes; set MetadataCatalog.get({name!r}).thing_classes",
            code="data.no_classes",
        )
    if not isinstance(samples, list) or not samples:
        raise UserError(
            f"the function registered for dataset {name} must return a list of dicts, one per "
            f"image, not {short_repr(samples)}",
            code="data.samples",
        )
    for index, sample in enumerate(samples):
        if problem := find_problem(sample, len(classes)):
            raise UserError(f"dataset {name}: sample {index}: {problem}", code="data.samples")


def find_problem(sample: Any, num_classes: int) -> str:
    """Return the first problem of a sample, "" if there is none."""
    if not isinstance(sample, dict):
        return f"must be a dict, not {short_repr(sample)}"
    for key, (kind, expected) in SAMPLE_FIELDS.items():
        if not isinstance(sample.get(key), kind):
            return f"{key} must be {expected}, not {short_repr(sample.get(key))}"
    for index, found in enumerate(sample["annotations"]):
        where = f"annotations[{index}]"
        if not isinstance(found, dict):
            return f"{where} must be a dict, not {short_repr(found)}"
        for key, is_valid, expected in (
            ("bbox", is_box, "4 numbers"),
            ("bbox_mode", lambda v: v in BOX_MODES, "BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"),
            (
                "category_id",
                lambda v: isinstance(v, Integral) and 0 <= int(v) < num_classes,
                f"an index of the {num_classes} classes",
            ),
        ):
            if not is_valid(found.get(key)):
                return f"{where}: {key} must be {expected}, not {short_repr(found.get(key))}"
        mask = found.get("segmentation")
        if mask is not None and not is_mask(mask):
            return (
                f"{where}: segmentation must be a list of polygons [x, y, x, y, …] of at least 3 "
                f"points, or a dict with size and encoded counts, not {short_repr(mask)}"
            )
    return ""


def is_box(value: Any) -> bool:
    return is_numbers(value) and len(value) == 4


def is_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("counts"), str | bytes) and "size" in value
    return (
        isinstance(value, list)
        and value != []
        and all(is_numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in value)
    )


def is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and all(isinstance(n, Real) for n in value)


def coco_content(name: str, samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """Convert checked samples to COCO's format, without folders of images.

    Boxes and areas are those of Detectron2's own conversion (``convert_to_coco_dict``). Image ids
    are positions if they are strings.
    """
    metadata = MetadataCatalog.get(name)
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {index: key for key, index in contiguous.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, sample in enumerate(samples):
        image_id = index if isinstance(sample["image_id"], str) else int(sample["image_id"])
        images.append(
            {
                "id": image_id,
                "file_name": Path(sample["file_name"]).name,
                "height": int(sample["height"]),
                "width": int(sample["width"]),
            }
        )
        for found in sample["annotations"]:
            box = [float(value) for value in found["bbox"]]
            box = BoxMode.convert(box, found["bbox_mode"], BoxMode.XYWH_ABS)
            category_id = int(found["category_id"])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": ids.get(category_id, category_id),
                "bbox": [round(value, 3) for value in box],
                "area": box[2] * box[3],
                "iscrowd": int(found.get("iscrowd", 0)),
            }
            mask = found.get("segmentation")
            if isinstance(mask, dict):
                counts = mask["counts"]
                counts = counts.decode() if isinstance(counts, bytes) else counts
                mask = {"size": [int(side) for side in mask["size"]], "counts": counts}
                annotation |= {"segmentation": mask, "area": float(pycocotools.mask.area(mask))}
            elif mask is not None:
                polygons = [[float(value) for value in polygon] for polygon in mask]
                area = PolygonMasks([polygons]).area()[0].item()
                annotation |= {"segmentation": polygons, "area": area}
            annotations.append(annotation)
    categories = [
        {"id": ids.get(index, index), "name": str(label)}
        for index, label in enumerate(metadata.thing_classes)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def describe_custom_set(name: str, samples: Samples) -> dict[str, Any]:
    """Return the hashes of a set: of its JSON file, if any, and of what was loaded."""
    content = json.dumps(coco_content(name, samples), sort_keys=True)
    loaded = hashlib.sha256(content.encode()).hexdigest()
    path = annotation_file(name)
    if path is None:
        return {"annotations_sha256": loaded}
    return {"annotations_sha256": sha256_of(path), "samples_sha256": loaded}
