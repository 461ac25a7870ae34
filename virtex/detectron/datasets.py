"""Detection datasets, registered with Detectron2 under its own names, read and checked.

Classes are read from the annotations (those of PASCAL VOC are fixed), never assumed.
"""

import hashlib
import io
import itertools
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pycocotools.mask
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from virtex.data.annotations import (
    MAX_COORDINATE,
    check_coco_json,
    check_lvis_json,
    lvis_file,
    read_json,
)
from virtex.data.layouts import COCO_DETECTION, LVIS_DETECTION, VOC_DETECTION, require_layout
from virtex.data.masks import MAX_SIDE
from virtex.data.voc import VOC_CLASSES, read_stems
from virtex.detectron.custom_data import Samples, describe_custom_set, read_custom_set
from virtex.errors import UserError
from virtex.files import read_file, sha256_of


@dataclass(frozen=True)
class DetectionSet:
    """One split on disk.

    Attributes:
        name: Detectron2's name of it.
        task: ``coco``, ``lvis`` or ``voc``.
        annotations: JSON file, or VOC's list of images, relative to the data root.
        images: folder that file names are relative to, relative to the data root.
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
LAYOUTS = {"coco": COCO_DETECTION, "lvis": LVIS_DETECTION, "voc": VOC_DETECTION}


def register_detection_sets(data_root: Path) -> None:
    """Register ``DETECTION_SETS`` for this data root, replacing earlier registrations.

    The sets are read once, at their first use.
    """
    for entry in DETECTION_SETS.values():
        if entry.name in DatasetCatalog.list():
            DatasetCatalog.remove(entry.name)
        if entry.name in MetadataCatalog.list():
            MetadataCatalog.remove(entry.name)
        DatasetCatalog.register(entry.name, cached_reader(entry, data_root))


def cached_reader(entry: DetectionSet, data_root: Path) -> Callable[[], Samples]:
    read = load_voc if entry.task == "voc" else load_json
    return lru_cache(maxsize=1)(lambda: read(entry, data_root))


def load_json(entry: DetectionSet, data_root: Path) -> Samples:
    """Load a COCO or LVIS v1 instances file and set the metadata of the set.

    Raises:
        UserError: the JSON is broken, not of its format, or has no images.
    """
    path = data_root / entry.annotations
    content = read_json(path, f"the annotations of {entry.name}")
    (check_lvis_json if entry.task == "lvis" else check_coco_json)(content, path)
    if not content["images"]:
        raise UserError(f"{path} lists no images; download it again", code="data.empty")
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
            # LVIS has no file_name: folder and file are the end of coco_url
            "file_name": str(
                folder / (lvis_file(image) if entry.task == "lvis" else image["file_name"])
            ),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    }
    for annotation in content["annotations"]:
        converted = convert_annotation(annotation, contiguous)
        if converted is not None:
            samples[annotation["image_id"]]["annotations"].append(converted)
    return list(samples.values())


def convert_annotation(
    annotation: dict[str, Any], contiguous: dict[int, int]
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
    elif mask is not None:
        polygons = [p for p in mask if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        converted["segmentation"] = polygons
    return converted


def load_voc(entry: DetectionSet, data_root: Path) -> Samples:
    """Load a PASCAL VOC split and set the metadata of the set.

    Boxes in the devkit are 1-based and inclusive: 1 is subtracted from the upper left corner.

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
        raise UserError(
            f"{split_file} lists no images; restore it from VOCdevkit", code="data.empty"
        )
    return [voc_sample(folder, stem, scored) for stem in stems]


def read_voc(data_root: Path) -> None:
    """Read and check the annotations of all PASCAL VOC splits."""
    register_detection_sets(data_root)
    for entry in DETECTION_SETS.values():
        if entry.task == "voc":
            DatasetCatalog.get(entry.name)


def voc_sample(folder: Path, stem: str, scored: bool = False) -> dict[str, Any]:
    """Load the annotation of one VOC image.

    Args:
        scored: also require the fields that Detectron2's VOC evaluator reads after training.

    Raises:
        UserError: the annotation is missing or broken.
    """
    path = folder / "Annotations" / f"{stem}.xml"
    try:
        # decoded first, as the evaluator opens it in text mode
        tree = ElementTree.parse(io.StringIO(read_file(path).decode())).getroot()
        return {
            "file_name": str(folder / "JPEGImages" / f"{stem}.jpg"),
            "image_id": stem,
            "height": voc_length(tree, "height"),
            "width": voc_length(tree, "width"),
            "annotations": [voc_instance(element, scored) for element in tree.iter("object")],
        }
    except OSError as error:
        raise UserError(
            f"{path}, an annotation of the split, cannot be read ({error.strerror}); restore it",
            code="data.missing" if isinstance(error, FileNotFoundError) else "data.unreadable",
        ) from error
    except (ElementTree.ParseError, TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{path} is not a VOC annotation: {error}; restore it", code="data.annotation"
        ) from error


def voc_length(tree: ElementTree.Element, side: str) -> int:
    """Return a side of the image in pixels; ``ValueError`` if it is out of range."""
    length = int(tree.findtext(f"./size/{side}", ""))
    if not 0 < length <= MAX_SIDE:
        raise ValueError(f"{side} must be in [1, {MAX_SIDE}], not {length}")
    return length


def voc_instance(element: ElementTree.Element, scored: bool) -> dict[str, Any]:
    """Convert an object to Detectron2's format; ``ValueError`` if it is not valid."""
    name = element.findtext("name")
    if name not in VOC_CLASSES:
        raise ValueError(f"{name!r:.40} is not a VOC class")
    sides = [f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
    corners = [float(element.findtext(side, "")) for side in sides]
    left, top, right, bottom = corners
    limit = MAX_COORDINATE
    if not (-limit < left <= right < limit and -limit < top <= bottom < limit):
        raise ValueError(f"invalid box {corners} of the object {name}")
    if scored:
        for field in ("truncated", "difficult", *sides):
            int(element.findtext(field, ""))
        if element.find("pose") is None:
            raise ValueError(f"the object {name} has no pose, which the evaluator reads")
    return {
        "category_id": VOC_CLASSES.index(name),
        "bbox": [left - 1, top - 1, right, bottom],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def read_data(cfg: CfgNode, data_root: Path, eval_only: bool) -> tuple[Samples, dict[str, Samples]]:
    """Read the training images (none with ``eval_only``) and, by set, the test images.

    Raises:
        UserError: files are missing (all are listed) or broken.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST must name at least one test set", code="config.no_test_set")
    register_detection_sets(data_root)
    names = {*cfg.DATASETS.TEST, *(() if eval_only else cfg.DATASETS.TRAIN)}
    known = [DETECTION_SETS[name] for name in sorted(names) if name in DETECTION_SETS]
    if eval_only:
        require_paths(
            data_root / path for entry in known for path in (entry.annotations, entry.images)
        )
    for task in sorted({entry.task for entry in known if not eval_only}):
        require_layout(data_root, LAYOUTS[task], task)
    for name in sorted(names - DETECTION_SETS.keys()):
        with dataset_errors(name):
            read_custom_set(name, scored=name in cfg.DATASETS.TEST)
    train = [] if eval_only else training_samples(cfg)
    test = test_samples(cfg)
    if cfg.MODEL.MASK_ON:
        for sample in itertools.chain(train, *test.values()):
            if not all("segmentation" in found for found in sample["annotations"]):
                raise UserError(
                    f"an object of {sample['file_name']} has no mask; set MODEL.MASK_ON False to "
                    "train on boxes only",
                    code="data.mask_missing",
                )
    return train, test


def class_names(cfg: CfgNode) -> list[str] | None:
    """Return the classes of the datasets, which have been read; None if no set names them.

    Raises:
        UserError: the sets have different classes.
    """
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    classes = {name: list(found) for name, found in classes.items() if found}
    first = next(iter(classes), None)
    for name, found in classes.items():
        if found != classes[first]:
            raise UserError(
                f"{first} and {name} must have the same classes, in the same order",
                code="data.classes_differ",
            )
    return classes.get(first)


def training_samples(cfg: CfgNode) -> Samples:
    """Read the images to train on, without those without objects if the config says so.

    Raises:
        UserError: a set is unknown or its files cannot be read; no image is left.
    """
    names = ", ".join(cfg.DATASETS.TRAIN)
    with dataset_errors(names):
        samples = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if not samples:
        raise UserError(f"no image of {names} has an object", code="data.empty")
    return samples


def test_samples(cfg: CfgNode) -> dict[str, Samples]:
    """Read the images of every test set.

    Raises:
        UserError: a set is unknown or its files cannot be read.
    """
    with dataset_errors(", ".join(cfg.DATASETS.TEST)):
        return {name: DatasetCatalog.get(name) for name in cfg.DATASETS.TEST}


@contextmanager
def dataset_errors(names: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, KeyError, OSError) as error:
        raise UserError(f"cannot load the datasets {names}: {error}", code="data.set") from error


def require_paths(
    paths: Iterable[Path | str], exists: Callable[[Path | str], bool] = os.path.exists
) -> None:
    """Raise ``UserError`` that names the first missing files or folders; none is opened."""
    missing = [str(path) for path in paths if not exists(path)]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if missing[5:] else "")
        raise UserError(f"{len(missing)} files are missing: {shown}", code="data.missing")


def describe(name: str, data_root: Path, samples: Samples) -> dict[str, Any]:
    """Return the number of images and the hash of the annotations, for the record."""
    summary: dict[str, Any] = {"images": len(samples)}
    entry = DETECTION_SETS.get(name)
    if entry is None:
        return {**summary, **describe_custom_set(name, samples)}
    if entry.task == "voc":
        parts = [{k: v for k, v in s.items() if k != "file_name"} for s in samples]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    else:
        digest = sha256_of(data_root / entry.annotations)
    return {**summary, "annotations_sha256": digest}
