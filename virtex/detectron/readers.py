"""Annotations on disk, read and checked once: COCO and LVIS v1 in JSON, PASCAL VOC in XML."""

import hashlib
import io
import json
import logging
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pycocotools.mask
from detectron2.structures import BoxMode
from detectron2.utils import comm

from virtex.data.annotations import (
    MAX_COORDINATE,
    check_coco_json,
    check_custom_json,
    check_keypoints,
    check_lvis_json,
    lvis_file,
    read_json,
)
from virtex.data.custom_coco import complete_coco
from virtex.data.masks import MAX_SIDE
from virtex.data.voc import read_stems
from virtex.detectron.ground_truth import scorable_json
from virtex.errors import UserError
from virtex.files import read_file

logger = logging.getLogger(__name__)

Samples = list[dict[str, Any]]  # Detectron2's standard dicts, one per image
VOCObjects = dict[str, list[dict[str, Any]]]  # image -> name, bbox, difficult of its objects


@dataclass(frozen=True)
class LoadedSet:
    """A detection dataset that has been read and checked.

    Attributes:
        samples: its images and their objects.
        annotations_sha256: identifies the annotations.
        metadata: values for Detectron2's ``MetadataCatalog``: classes, category ids.
        ground_truth: what detections are scored against, in the main process: JSON for any COCO
            or LVIS scorer (if it was requested), or the objects of PASCAL VOC.
        notes: about what was assumed, for the log and the record.
    """

    samples: Samples
    annotations_sha256: str
    metadata: dict[str, Any] = field(default_factory=dict)
    ground_truth: bytes | VOCObjects = b""
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def describe(self) -> dict[str, Any]:
        """Return the number of images, and the hashes of annotations and files, for the record."""
        return {
            "images": len(self.samples),
            "annotations_sha256": self.annotations_sha256,
            "files_sha256": hash_files([sample["file_name"] for sample in self.samples]),
        }


def hash_files(paths: Sequence[str]) -> str:
    """Return the SHA-256 of the files' sizes and names below their common folder."""
    paths = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath({os.path.dirname(path) for path in paths})
    digest = hashlib.sha256()
    for path in paths:
        size = os.path.getsize(path) if os.path.isfile(path) else -1  # --skip-bad-images
        digest.update(b"%s\0%d\0" % (os.fsencode(os.path.relpath(path, root)), size))
    return digest.hexdigest()


# COCO and LVIS ----


def read_instances(
    path: Path,
    folder: Path,
    style: str,
    scored: bool,
    custom: bool = False,
    keypoints: int = 0,
) -> LoadedSet:
    """Read a COCO or LVIS v1 instances file.

    Args:
        folder: file names are relative to it.
        style: ``"coco"`` or ``"lvis"``.
        scored: whether ground truth is needed.
        custom: whether to complete a file in COCO's format and check it as custom data.
        keypoints: number of keypoints per object in a COCO file; 0: they are not read.

    Raises:
        UserError: the JSON is broken, not of its format, or has no images.
    """
    digest = hashlib.sha256()
    content = read_json(path, f"{style.upper()} instances", digest=digest)
    notes = []
    if custom and style != "lvis":
        notes = complete_coco(content, folder)
        check_custom_json(content, path)
    else:
        (check_lvis_json if style == "lvis" else check_coco_json)(content, path)
    if keypoints:
        check_keypoints(content, path, keypoints)
    if not content["images"]:
        raise UserError(f"{path} lists no images; download it again", code="data.empty")
    categories = sorted(content["categories"], key=lambda c: c["id"])
    contiguous = {category["id"]: i for i, category in enumerate(categories)}
    samples = {
        image["id"]: {
            # LVIS has no file_name: folder and file are the end of coco_url
            "file_name": str(
                folder / (lvis_file(image) if style == "lvis" else image["file_name"])
            ),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    }
    for annotation in content["annotations"]:
        converted = convert_annotation(annotation, contiguous, keypoints > 0)
        if converted is not None:
            samples[annotation["image_id"]]["annotations"].append(converted)
    return LoadedSet(
        list(samples.values()),
        digest.hexdigest(),
        {
            "thing_classes": [category["name"] for category in categories],
            "thing_dataset_id_to_contiguous_id": contiguous,
        },
        scorable_json(content, style, keypoints > 0) if scored and comm.is_main_process() else b"",
        notes,
    )


def convert_annotation(
    annotation: dict[str, Any], contiguous: dict[int, int], has_keypoints: bool = False
) -> dict[str, Any] | None:
    """Convert an object to Detectron2's format; None if its mask has no valid polygon."""
    converted = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    mask = annotation.get("segmentation")
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            mask = pycocotools.mask.frPyObjects(mask, *mask["size"])
        converted["segmentation"] = mask
    elif mask:  # an empty list is no mask, as in Detectron2
        polygons = [p for p in mask if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        converted["segmentation"] = polygons
    if has_keypoints:
        converted["keypoints"] = shift_keypoints(annotation["keypoints"], 0.5)
    return converted


def shift_keypoints(keypoints: Sequence[float], offset: float) -> list[float]:
    """Add ``offset`` (pixels) to the coordinates of [x, y, visibility, …].

    COCO's keypoints are pixel indices, Detectron2's are coordinates in [0, width] and [0, height],
    where the center of a pixel is its index plus 0.5.
    """
    return [n if i % 3 == 2 else n + offset for i, n in enumerate(keypoints)]


# PASCAL VOC ----


def read_voc_split(folder: Path, split: str, classes: Sequence[str]) -> LoadedSet:
    """Read a split of PASCAL VOC.

    Args:
        folder: contains ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: name of the list of images, such as "trainval".

    Raises:
        UserError: the split's list or an annotation file is missing or broken.
    """
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    stems = read_stems(listed)
    if not stems:
        raise UserError(f"{listed} lists no images; restore it from VOCdevkit", code="data.empty")
    objects: VOCObjects = {}
    samples = [read_voc_image(folder, stem, classes, objects) for stem in stems]
    unmarked = sum(found["difficult"] is None for image in objects.values() for found in image)
    if unmarked:
        logger.warning(
            "%s: %d objects have no field difficult, and count as not difficult", listed, unmarked
        )
    for found in (found for image in objects.values() for found in image):
        found["difficult"] = found["difficult"] or 0
    parts = [{k: v for k, v in sample.items() if k != "file_name"} for sample in samples]
    return LoadedSet(
        samples,
        hashlib.sha256(json.dumps([parts, objects], sort_keys=True).encode()).hexdigest(),
        {"thing_classes": list(classes)},
        objects,
    )


def read_voc_image(
    folder: Path, stem: str, classes: Sequence[str], objects: VOCObjects
) -> dict[str, Any]:
    """Read the annotation of one VOC image, and add its objects to ``objects``.

    Boxes in the devkit are 1-based and inclusive: in the sample, 1 is subtracted from the upper
    left corner.

    Raises:
        UserError: the annotation is missing or broken.
    """
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        # decoded first, as Detectron2 opens it in text mode
        tree = ElementTree.parse(io.StringIO(read_file(path).decode())).getroot()
        sides = {side: voc_number(tree, f"size/{side}", int) for side in ("height", "width")}
        for side, length in sides.items():
            if not 0 < length <= MAX_SIDE:
                raise ValueError(f"size/{side} must be in [1, {MAX_SIDE}], not {length}")
        objects[stem] = [voc_object(element, classes) for element in tree.iter("object")]
    except OSError as error:
        raise UserError(
            f"{path}, an annotation of the split, cannot be read ({error.strerror}); restore it",
            code="data.missing" if isinstance(error, FileNotFoundError) else "data.unreadable",
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(
            f"{path} is not a VOC annotation: {error}; restore it", code="data.annotation"
        ) from error
    return {
        "file_name": str(folder / "JPEGImages" / f"{stem}.jpg"),
        "image_id": stem,
        **sides,
        "annotations": [
            {
                "category_id": classes.index(found["name"]),
                "bbox": [found["bbox"][0] - 1, found["bbox"][1] - 1, *found["bbox"][2:]],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for found in objects[stem]
        ],
    }


def voc_object(element: ElementTree.Element, classes: Sequence[str]) -> dict[str, Any]:
    """Return name, bbox and difficult (None if missing); ``ValueError`` if one is not valid."""
    name = element.findtext("name")
    if name not in classes:
        problem = "has no field name" if name is None else f"has the unknown class {name!r:.40}"
        raise ValueError(f"an object {problem}")
    try:
        corners = [
            voc_number(element, f"bndbox/{side}", float)
            for side in ("xmin", "ymin", "xmax", "ymax")
        ]
        difficult = None
        if element.find("difficult") is not None:
            difficult = voc_number(element, "difficult", int)
    except ValueError as error:
        raise ValueError(f"the object {name}: {error}") from error
    left, top, right, bottom = corners
    limit = MAX_COORDINATE
    if not (-limit < left <= right < limit and -limit < top <= bottom < limit):
        raise ValueError(f"the object {name}: invalid bndbox {corners}")
    return {"name": name, "bbox": corners, "difficult": difficult}


def voc_number(element: ElementTree.Element, path: str, kind: type) -> Any:
    """Return the number in a field; ``ValueError`` names the field if it is missing or not one."""
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"the field {path} is missing")
    try:
        return kind(text)
    except ValueError as error:
        expected = "an integer" if kind is int else "a number"
        raise ValueError(f"the field {path} must be {expected}, not {text!r:.40}") from error
