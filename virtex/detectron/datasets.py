"""Detection datasets, registered with Detectron2 under its own names, read and checked.

Classes are read from the annotations (those of PASCAL VOC are fixed), never assumed.
"""

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils import comm
from tqdm import tqdm

from virtex.data.decoding import read_size
from virtex.data.layouts import COCO_DETECTION, LVIS_DETECTION, VOC_DETECTION, require_layout
from virtex.data.voc import VOC_CLASSES
from virtex.detectron.custom_data import RegisteredSet, loaded_set, register_custom_set
from virtex.detectron.loading import SKIP_HINT, raise_if_error, test_batches
from virtex.detectron.readers import LoadedSet, Samples, read_instances, read_voc_split
from virtex.errors import UserError


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


def register_detection_sets(data_root: Path, scored: Collection[str] = ()) -> None:
    """Register ``DETECTION_SETS`` for this data root, replacing earlier registrations.

    Args:
        scored: names of the test sets.
    """
    for entry in DETECTION_SETS.values():
        if entry.name in DatasetCatalog.list():
            DatasetCatalog.remove(entry.name)
        if entry.name in MetadataCatalog.list():
            MetadataCatalog.remove(entry.name)
        read = partial(read_builtin_set, entry, data_root, entry.name in scored)
        DatasetCatalog.register(entry.name, RegisteredSet(entry.name, read))


def read_builtin_set(entry: DetectionSet, data_root: Path, scored: bool) -> LoadedSet:
    annotations, folder = data_root / entry.annotations, data_root / entry.images
    if entry.task != "voc":
        loaded = read_instances(annotations, folder, entry.task, scored)
        files = {"json_file": str(annotations), "image_root": str(folder)}
        metadata = {**loaded.metadata, **files, "evaluator_type": entry.task}
        return replace(loaded, metadata=metadata)
    split, year = annotations.stem, int(entry.images.removeprefix("VOC"))
    loaded = read_voc_split(folder, split, VOC_CLASSES)
    # for Detectron2's evaluator
    voc = {"dirname": str(folder), "split": split, "year": year, "evaluator_type": "voc"}
    return replace(loaded, metadata={**loaded.metadata, **voc})


def read_voc(data_root: Path) -> None:
    """Read and check the annotations of all PASCAL VOC splits."""
    register_detection_sets(data_root)
    for entry in DETECTION_SETS.values():
        if entry.task == "voc":
            loaded_set(entry.name)


def read_data(cfg: CfgNode, data_root: Path, eval_only: bool) -> tuple[Samples, dict[str, Samples]]:
    """Read the training images (none with ``eval_only``) and, by set, the test images.

    Raises:
        UserError: files are missing (all are listed) or broken.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST must name at least one test set", code="config.no_test_set")
    test_sets = cfg.DATASETS.TEST
    register_detection_sets(data_root, test_sets)
    names = sorted({*test_sets, *(() if eval_only else cfg.DATASETS.TRAIN)})
    known = [DETECTION_SETS[name] for name in names if name in DETECTION_SETS]
    if eval_only:
        require_paths(
            data_root / path for entry in known for path in (entry.annotations, entry.images)
        )
    for task in sorted({entry.task for entry in known if not eval_only}):
        require_layout(data_root, LAYOUTS[task], task)
    for name in names:
        if name not in DETECTION_SETS:
            register_custom_set(name, name in test_sets)
        loaded_set(name)
    class_names(cfg)
    train = [] if eval_only else training_samples(cfg)
    test = {name: loaded_set(name).samples for name in test_sets}
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
    """Return the images to train on, without those without objects if the config says so.

    Raises:
        UserError: a set cannot be read; no image is left.
    """
    try:
        samples = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except AssertionError:  # newer versions of Detectron2
        samples = []
    if not samples:
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise UserError(f"no image of {names} has an object", code="data.empty")
    return samples


def check_images(
    cfg: CfgNode, train: Samples, test: Mapping[str, Samples], skip_bad_images: bool = False
) -> None:
    """Check the images before training, each process its share.

    Training images must have the size of their annotation; test images are loaded as they will be
    for evaluation, because a score must cover every one of them.

    Args:
        skip_bad_images: do not check the training images.

    Raises:
        UserError: an image cannot be read, or does not have the size of its annotation.
    """
    if not skip_bad_images:
        for sample in train[comm.get_rank() :: comm.get_world_size()]:
            check_image_header(sample)
    for name, samples in test.items():
        batches = test_batches(cfg, samples)
        for batch in tqdm(batches, f"checking {name}", disable=not comm.is_main_process()):
            raise_if_error(batch)


def check_image_header(sample: dict[str, Any]) -> None:
    """Check that an image has the size of its annotation, turned as its EXIF says."""
    name = sample["file_name"]
    try:
        size = read_size(name)
    except UserError as error:
        raise UserError(f"{error}{SKIP_HINT}", code=error.code) from error
    if size != (expected := (sample["width"], sample["height"])):
        raise UserError(
            f"{name} must have {expected[0]} x {expected[1]} pixels as in its annotation, but has "
            f"{size[0]} x {size[1]} (turned as its EXIF data says){SKIP_HINT}",
            code="data.image_size",
        )


def require_paths(
    paths: Iterable[Path | str], exists: Callable[[Path | str], bool] = os.path.exists
) -> None:
    """Raise ``UserError`` that names the first missing files or folders; none is opened."""
    missing = [str(path) for path in paths if not exists(path)]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if missing[5:] else "")
        raise UserError(f"{len(missing)} files are missing: {shown}", code="data.missing")
