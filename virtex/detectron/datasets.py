"""Data sets from a data root, registered with Detectron2 under its own names.

Classes are read from the annotations (PASCAL VOC's are fixed), never assumed.
"""

import hashlib
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pycocotools.mask
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from virtex.checkpoints.hashing import sha256_of
from virtex.data.annotations import (
    MAX_COORDINATE,
    check_coco_json,
    check_lvis_json,
    lvis_file,
    read_json,
)
from virtex.data.listing import read_file
from virtex.data.masks import MAX_SIDE
from virtex.data.voc import VOC_CLASSES, read_stems
from virtex.errors import UserError


@dataclass(frozen=True)
class DetectionSet:
    """One split on disk.

    Attributes:
        name: Detectron2's name for it.
        task: ``coco``, ``lvis`` or ``voc``.
        annotations: the JSON file, or the VOC split's list of images, below the data root.
        images: the folder its file names are relative to, below the data root.
    """

    name: str
    task: str
    annotations: str
    images: str


DETECTION_SETS = {
    entry.name: entry
    for entry in (
        DetectionSet("coco_2017_train", "coco", "coco/annotations/instances_train2017.json",
                     "coco/train2017"),
        DetectionSet("coco_2017_val", "coco", "coco/annotations/instances_val2017.json",
                     "coco/val2017"),
        DetectionSet("lvis_v1_train", "lvis", "lvis/lvis_v1_train.json", "coco"),
        DetectionSet("lvis_v1_val", "lvis", "lvis/lvis_v1_val.json", "coco"),
        DetectionSet("voc_2007_trainval", "voc", "VOC2007/ImageSets/Main/trainval.txt", "VOC2007"),
        DetectionSet("voc_2012_trainval", "voc", "VOC2012/ImageSets/Main/trainval.txt", "VOC2012"),
        DetectionSet("voc_2007_test", "voc", "VOC2007/ImageSets/Main/test.txt", "VOC2007"),
    )
}  # fmt: skip


def register_detection_sets(data_root: Path) -> None:
    """Point Detectron2's names at this data root, whatever they pointed at before.

    Nothing is read yet; reading is done once, at the first use.
    """
    for entry in DETECTION_SETS.values():
        if entry.name in DatasetCatalog.list():
            DatasetCatalog.remove(entry.name)
        if entry.name in MetadataCatalog.list():
            MetadataCatalog.remove(entry.name)
        DatasetCatalog.register(entry.name, loader(entry, data_root))


def loader(entry: DetectionSet, data_root: Path) -> Callable[[], list[dict[str, Any]]]:
    """The function that reads this set and fills its metadata."""
    read = load_voc if entry.task == "voc" else load_json
    return lru_cache(maxsize=1)(lambda: read(entry, data_root))


def load_json(entry: DetectionSet, data_root: Path) -> list[dict[str, Any]]:
    """Detectron2's standard dicts from a COCO or LVIS v1 instances file.

    Raises:
        UserError: the JSON is broken, not of its format, or describes no image.
    """
    path = data_root / entry.annotations
    content = read_json(path, f"the annotations of {entry.name}")
    (check_lvis_json if entry.task == "lvis" else check_coco_json)(content, path)
    if not content["images"]:
        raise UserError(f"{path} describes no image; download or write it again")
    categories = sorted(content["categories"], key=lambda c: c["id"])
    contiguous = {category["id"]: i for i, category in enumerate(categories)}
    MetadataCatalog.get(entry.name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(path),
        evaluator_type=entry.task,
    )
    folder = data_root / entry.images
    samples = {
        image["id"]: {
            "file_name": str(folder / image_file(image, entry.task)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    }
    for annotation in content["annotations"]:
        found = instance(annotation, contiguous)
        if found is not None:
            samples[annotation["image_id"]]["annotations"].append(found)
    return list(samples.values())


def image_file(image: dict[str, Any], task: str) -> str:
    """COCO names a file of its split; LVIS names COCO's split and file in ``coco_url``."""
    return lvis_file(image) if task == "lvis" else image["file_name"]


def instance(annotation: dict[str, Any], contiguous: dict[int, int]) -> dict[str, Any] | None:
    """One object in Detectron2's terms; None where its mask has no valid polygon."""
    found = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    mask = annotation.get("segmentation")
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            mask = pycocotools.mask.frPyObjects(mask, *mask["size"])
        found["segmentation"] = mask
    elif mask is not None:
        polygons = [p for p in mask if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        found["segmentation"] = polygons
    return found


def load_voc(entry: DetectionSet, data_root: Path) -> list[dict[str, Any]]:
    """Detectron2's standard dicts from a PASCAL VOC split.

    Boxes are 1-based and inclusive in the devkit: one is taken off the upper left corner.

    Raises:
        UserError: the split's list or an annotation file is missing or broken.
    """
    folder, split_file = data_root / entry.images, data_root / entry.annotations
    MetadataCatalog.get(entry.name).set(
        thing_classes=list(VOC_CLASSES),
        dirname=str(folder),
        split=split_file.stem,
        year=int(entry.images.removeprefix("VOC")),
        evaluator_type="voc",
    )
    scored = split_file.stem == "test"
    stems = read_stems(split_file, forbid_empty_lines=scored)
    if not stems:
        raise UserError(f"{split_file} lists no image; restore it from VOCdevkit")
    return [voc_sample(folder, stem, scored) for stem in stems]


def voc_sample(folder: Path, stem: str, scored: bool = False) -> dict[str, Any]:
    """An image of VOC and its objects in Detectron2's terms.

    Args:
        scored: also require what Detectron2's scoring reads, hours later.

    Raises:
        UserError: its annotation is missing or broken.
    """
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        # as text, as scoring reads it
        tree = ElementTree.parse(io.StringIO(read_file(path).decode())).getroot()
        return {
            "file_name": str(folder / "JPEGImages" / f"{stem}.jpg"),
            "image_id": stem,
            "height": voc_length(tree, "height"),
            "width": voc_length(tree, "width"),
            "annotations": [voc_instance(element, scored) for element in tree.iter("object")],
        }
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, though the split lists {stem}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore the file") from error
    except (ElementTree.ParseError, TypeError, ValueError, LookupError) as error:
        raise UserError(f"{path} is not a VOC annotation: {error}; restore the file") from error


def voc_length(tree: ElementTree.Element, side: str) -> int:
    """Pixels; ``ValueError`` where there can be none so long."""
    length = int(tree.findtext(f"./size/{side}", ""))
    if not 0 < length <= MAX_SIDE:
        raise ValueError(f"its {side} is {length} pixels")
    return length


def voc_instance(element: ElementTree.Element, scored: bool) -> dict[str, Any]:
    """An object; ``ValueError`` where it cannot be one."""
    name = element.findtext("name")
    if name not in VOC_CLASSES:
        raise ValueError(f"an object is of the class {name!r:.40}, which VOC does not have")
    sides = [f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
    corners = [float(element.findtext(side, "")) for side in sides]
    left, top, right, bottom = corners
    if not (
        -MAX_COORDINATE < left <= right < MAX_COORDINATE
        and -MAX_COORDINATE < top <= bottom < MAX_COORDINATE
    ):
        raise ValueError(f"a box of {name} has the corners {corners}")
    if scored:
        for field in ("truncated", "difficult", *sides):
            int(element.findtext(field, ""))
        if element.find("pose") is None:
            raise ValueError(f"an object, {name}, has no pose, which scoring asks for")
    return {
        "category_id": VOC_CLASSES.index(name),
        "bbox": [corners[0] - 1, corners[1] - 1, corners[2], corners[3]],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def describe(name: str, data_root: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Size and annotation hash of a data set, for the record."""
    summary: dict[str, Any] = {"images": len(samples)}
    entry = DETECTION_SETS.get(name)
    if entry is None:
        return summary
    if entry.task == "voc":
        parts = [{k: v for k, v in s.items() if k != "file_name"} for s in samples]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    else:
        digest = sha256_of(data_root / entry.annotations)
    return {**summary, "annotations_sha256": digest}
