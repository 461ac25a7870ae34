"""Datasets in Detectron2's catalog; those of the user are read and checked like built-in ones.

Sets that Detectron2's own functions registered (``register_coco_instances``, …) are read by
``virtex.detectron.readers``. Other sets are loaded by the user's function and converted to COCO's
format, in which they pass the checks of COCO's files, are hashed, and are scored, unless the
metadata names files to score against.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils import comm

from virtex.data.annotations import MAX_COORDINATE, check_coco_json, check_keypoints
from virtex.data.voc import is_stem
from virtex.detectron.ground_truth import scorable_json
from virtex.detectron.keypoints import count_keypoints
from virtex.detectron.readers import (
    LoadedSet,
    Samples,
    read_instances,
    read_voc_split,
    shift_keypoints,
)
from virtex.errors import UserError
from virtex.text import short_repr

# Modules whose functions read the files that the metadata names, as ours do.
FILE_READERS = tuple(f"detectron2.data.datasets.{name}" for name in ("coco", "lvis", "pascal_voc"))
VOC_EVALUATORS = ("voc", "pascal_voc")
VOC_YEARS = (2007, 2012)  # that Detectron2's evaluator accepts

NUMBERS = (int, float, np.integer, np.floating)
OPTIONAL = {"iscrowd": 0}  # fields of objects and their defaults
BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
SAMPLE_FIELDS: dict[str, tuple[Any, str]] = {
    "file_name": ((str, os.PathLike), "a path"),
    "height": (Integral, "a number of pixels"),
    "width": (Integral, "a number of pixels"),
    "image_id": ((Integral, str), "an integer or a string"),
    "annotations": (list, "a list of objects"),
}


class RegisteredSet:
    """The entry of a set in Detectron2's catalog, which reads the set at its first use.

    Attributes:
        function: what the user registered, if it is a custom set.
    """

    def __init__(
        self, name: str, read: Callable[[], LoadedSet], function: Callable[[], Any] | None = None
    ):
        self.name, self.function = name, function
        self.load = lru_cache(maxsize=1)(partial(self._load, read))

    def _load(self, read: Callable[[], LoadedSet]) -> LoadedSet:
        loaded, metadata = read(), MetadataCatalog.get(self.name)
        for key, value in loaded.metadata.items():
            if metadata.get(key, value) != value:  # Detectron2 forbids to change it
                raise UserError(
                    f"the metadata of dataset {self.name} has {key} "
                    f"{short_repr(metadata.get(key))}, but its files have {short_repr(value)}; "
                    "do not set it",
                    code="data.classes_differ",
                )
        metadata.set(**loaded.metadata)
        return loaded

    def __call__(self) -> Samples:
        return self.load().samples


def loaded_set(name: str) -> LoadedSet:
    """Return a set registered by ``register_detection_sets`` or ``register_custom_set``.

    Raises:
        UserError: it is not valid.
    """
    return DatasetCatalog[name].load()


def register_custom_set(name: str, scored: bool) -> None:
    """Replace the user's entry in the catalog by one that checks the set, and reads it anew.

    Args:
        scored: whether it is a test set.

    Raises:
        UserError: there is no such entry.
    """
    if name not in DatasetCatalog.list():
        raise UserError(
            f"dataset {name} is not registered; register it with Detectron2 before the run, or "
            f"name one of {', '.join(sorted(DatasetCatalog.list())[:8])}, … in DATASETS",
            code="data.set",
        )
    function = DatasetCatalog[name]
    function = getattr(function, "function", None) or function
    read = partial(read_custom_set, name, function, scored)
    DatasetCatalog[name] = RegisteredSet(name, read, function)


def read_custom_set(name: str, function: Callable[[], Any], scored: bool) -> LoadedSet:
    """Read and check a set of the user.

    Args:
        function: what the user registered.
        scored: whether it is a test set.

    Raises:
        UserError: the set, its files or its metadata are not valid.
    """
    module = getattr(function, "__module__", None)
    files = read_named_files(name, module, scored)
    if files is not None and module in FILE_READERS:
        return files
    try:
        samples = function()
    except UserError:
        raise
    except Exception as error:  # the user's code
        raise UserError(
            f"the function registered for dataset {name} failed: {type(error).__name__}: {error}",
            code="data.set",
        ) from error
    check_samples(name, samples)
    content, keypoints = coco_content(name, samples), count_keypoints(name)
    check_coco_json(content, f"dataset {name}")
    if keypoints:
        check_keypoints(content, f"dataset {name}", keypoints)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    if files is not None:
        digest.update(files.annotations_sha256.encode())
        if scored and _image_ids(files.samples) != _image_ids(samples):
            raise UserError(
                f"the samples of dataset {name} must be the images of the files that its metadata "
                "names, which it is scored against",
                code="data.samples",
            )
        return LoadedSet(samples, digest.hexdigest(), ground_truth=files.ground_truth)
    if scored and any(isinstance(sample["image_id"], str) for sample in samples):
        raise UserError(
            f"image_id must be an integer in dataset {name}, which is scored", code="data.samples"
        )
    has_keypoints = keypoints > 0
    truth = (
        scorable_json(content, "coco", has_keypoints) if scored and comm.is_main_process() else b""
    )
    return LoadedSet(samples, digest.hexdigest(), ground_truth=truth)


def _image_ids(samples: Samples) -> set[Any]:
    return {sample["image_id"] for sample in samples}


def read_named_files(name: str, module: str | None, scored: bool) -> LoadedSet | None:
    """Read the files that the metadata of a set names for its evaluator; None without any.

    Args:
        module: of the function that loads the set.
    """
    metadata = MetadataCatalog.get(name)
    is_voc = module == FILE_READERS[2]
    kind = metadata.get("evaluator_type") or ("pascal_voc" if is_voc else None)
    if kind in ("coco", "lvis") and metadata.get("json_file"):
        folder = Path(metadata.get("image_root") or "")
        keypoints = count_keypoints(name) if kind == "coco" else 0
        path = Path(metadata.json_file)
        return read_instances(path, folder, kind, scored, keypoints=keypoints)
    if kind not in VOC_EVALUATORS or not metadata.get("dirname"):
        return None
    classes = metadata.get("thing_classes") or ()
    if metadata.get("year") not in VOC_YEARS or not all(map(is_stem, classes)):
        raise UserError(
            f"the metadata of dataset {name} must have the year 2007 or 2012, not "
            f"{metadata.get('year')!r}, and classes that can be names of files",
            code="data.classes",
        )
    loaded = read_voc_split(Path(metadata.dirname), metadata.split, classes)
    return replace(loaded, metadata={**loaded.metadata, "evaluator_type": kind})


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
    keypoints = count_keypoints(name)
    for index, sample in enumerate(samples):
        if problem := find_problem(sample, len(classes), keypoints):
            raise UserError(f"dataset {name}: sample {index}: {problem}", code="data.samples")


def find_problem(sample: Any, num_classes: int, num_keypoints: int = 0) -> str:
    """Return the first problem of a sample, "" if there is none.

    Args:
        num_keypoints: of each object; 0: keypoints are not checked.
    """
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
            ("iscrowd", lambda v: isinstance(v, NUMBERS) and v in (0, 1), "0 or 1"),
        ):
            value = found.get(key, OPTIONAL.get(key))
            if not is_valid(value):
                return f"{where}: {key} must be {expected}, not {short_repr(value)}"
        mask = found.get("segmentation")
        if mask is not None and not is_mask(mask):
            return (
                f"{where}: segmentation must be a list of polygons [x, y, x, y, …] of at least 3 "
                f"points, or a dict with size and encoded counts, not {short_repr(mask)}"
            )
        keypoints: Any = found.get("keypoints")
        if num_keypoints and not (is_numbers(keypoints) and len(keypoints) == 3 * num_keypoints):
            return (
                f"{where}: keypoints must be [x, y, visibility, …], {3 * num_keypoints} numbers "
                f"for the {num_keypoints} keypoint_names of the set, not {short_repr(keypoints)}"
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
    return (
        isinstance(value, list | tuple | np.ndarray)
        and all(isinstance(number, NUMBERS) for number in value)
        and all(abs(number) <= MAX_COORDINATE for number in value)  # False for NaN
    )


def coco_content(name: str, samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """Convert checked samples to COCO's format, without folders of images.

    Boxes and areas are those of Detectron2's own conversion (``convert_to_coco_dict``). Image ids
    are positions if they are strings.
    """
    metadata = MetadataCatalog.get(name)
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {index: key for key, index in contiguous.items()}
    has_keypoints = count_keypoints(name) > 0
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
            if has_keypoints:
                annotation |= coco_keypoints(found["keypoints"])
            annotations.append(annotation)
    categories = [
        {"id": ids.get(index, index), "name": str(label)}
        for index, label in enumerate(metadata.thing_classes)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_keypoints(keypoints: Any) -> dict[str, Any]:
    """Return COCO's keypoint fields of an annotation.

    Args:
        keypoints: [x, y, visibility, …] in Detectron2's coordinates, see ``shift_keypoints``.
    """
    numbers = [float(value) for value in keypoints]
    visible = numbers[2::3]
    return {
        "keypoints": shift_keypoints(numbers, -0.5),
        "num_keypoints": sum(value > 0 for value in visible),
    }
