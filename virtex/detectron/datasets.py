"""Detection datasets, registered with Detectron2 under its own names, read and checked.

Classes are read from the annotations (those of PASCAL VOC are fixed), never assumed.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils import comm
from tqdm import tqdm

from virtex.data.decoding import read_size
from virtex.data.detection_sets import DETECTION_SETS, DetectionSet
from virtex.data.layouts import require_layout
from virtex.data.segmentation import SEGMENTATION
from virtex.data.voc import VOC_CLASSES
from virtex.detectron.cityscapes import read_cityscapes_set
from virtex.detectron.custom_data import RegisteredSet, loaded_set, register_custom_set
from virtex.detectron.keypoints import COCO_PERSON, count_keypoints, validate_keypoints
from virtex.detectron.loading import SKIP_HINT, raise_if_error, test_batches
from virtex.detectron.readers import LoadedSet, Samples, read_instances, read_voc_split
from virtex.detectron.semantic import ARCHITECTURE, is_semantic, read_semantic_set
from virtex.errors import UserError
from virtex.text import join_first, one_line, printable

# Key of DATASETS -> name of the custom dataset of --train-json or --val-json.
CUSTOM_SETS = {"TRAIN": "custom_train", "TEST": "custom_val"}


def custom_overrides(args: argparse.Namespace) -> list[str]:
    """Return the settings that ``--train-json`` and ``--val-json`` imply, as KEY VALUE overrides.

    Raises:
        UserError: an override also sets one of them.
    """
    if args.val_json is None:
        return []
    settings = {f"DATASETS.{key}": repr((name,)) for key, name in CUSTOM_SETS.items()}
    for key in settings.keys() & set(args.overrides[0::2]):
        raise UserError(
            f"{key} is set by --train-json and --val-json; remove the override",
            code="config.invalid_override",
        )
    return [word for pair in settings.items() for word in pair]


def custom_sets(args: argparse.Namespace, protocol: CfgNode) -> list[DetectionSet]:
    """Return the datasets of ``--train-json`` and ``--val-json``, if any.

    Args:
        protocol: the settings of the protocol, whose data they replace.

    Raises:
        UserError: the protocol's data has another format than JSON; a file or folder is missing.
    """
    if args.val_json is None:
        return []
    test = next(iter(protocol.DATASETS.TEST), "")
    kind = DETECTION_SETS[test].kind if test in DETECTION_SETS else "coco"
    if READERS[kind] is not read_instance_set:
        tasks = (e.task for e in DETECTION_SETS.values() if READERS[e.kind] is read_instance_set)
        raise UserError(
            f"--val-json requires a protocol with JSON annotations, but {test} has another format; "
            f"use --task {' or '.join(dict.fromkeys(tasks))}",
            code="data.kind",
        )
    paths = [(args.val_json, args.val_images)]
    if args.train_json is not None and not args.eval_only:
        paths.insert(0, (args.train_json, args.train_images))
    names = list(CUSTOM_SETS.values())[-len(paths) :]
    sets = [
        DetectionSet(name, kind, *map(os.path.abspath, (path, folder or Path(path).parent)))
        for name, (path, folder) in zip(names, paths, strict=True)
    ]
    require_paths((entry.annotations for entry in sets), os.path.isfile)
    require_paths((entry.images for entry in sets), os.path.isdir)
    return sets


def register_detection_sets(
    data_root: Path, scored: Collection[str] = (), custom: Iterable[DetectionSet] = ()
) -> None:
    """Register ``DETECTION_SETS`` for this data root, replacing earlier registrations.

    Args:
        scored: names of the test sets.
        custom: custom datasets to register as well.
    """
    for entry in (*DETECTION_SETS.values(), *custom):
        if entry.name in DatasetCatalog.list():
            DatasetCatalog.remove(entry.name)
        if entry.name in MetadataCatalog.list():
            MetadataCatalog.remove(entry.name)
        read = partial(READERS[entry.kind], entry, data_root, entry.name in scored)
        DatasetCatalog.register(entry.name, RegisteredSet(entry.name, read))
        # also for sets that are not read: Detectron2's mapper needs that of the training sets
        MetadataCatalog.get(entry.name).set(**METADATA.get(entry.kind, {}))


def read_instance_set(entry: DetectionSet, data_root: Path, scored: bool) -> LoadedSet:
    """Read a set in COCO's or LVIS's format, with keypoints if its metadata names them.

    Raises:
        UserError: it is not valid, or it is a custom test set without objects.
    """
    annotations, folder = data_root / entry.annotations, data_root / entry.images
    style, keypoints = STYLES.get(entry.kind, entry.kind), count_keypoints(entry.name)
    loaded = read_instances(annotations, folder, style, scored, entry.is_custom, keypoints)
    if entry.is_custom and scored and not any(s["annotations"] for s in loaded.samples):
        raise UserError(
            f"{annotations} must contain objects to score detections against, but has none",
            code="data.empty",
        )
    files = {"json_file": str(annotations), "image_root": str(folder)}
    metadata = {**loaded.metadata, **files, "evaluator_type": style}
    return replace(loaded, metadata=metadata)


def read_voc_set(entry: DetectionSet, data_root: Path, scored: bool) -> LoadedSet:
    folder, split = data_root / entry.images, Path(entry.annotations).stem
    year = int(entry.images.removeprefix("VOC"))
    loaded = read_voc_split(folder, split, VOC_CLASSES)
    # for Detectron2's evaluator
    voc = {"dirname": str(folder), "split": split, "year": year, "evaluator_type": "voc"}
    return replace(loaded, metadata={**loaded.metadata, **voc})


# Kind of a set -> (set, data root, whether it is scored) -> the set
READERS: dict[str, Callable[[DetectionSet, Path, bool], LoadedSet]] = {
    "coco": read_instance_set,
    "cityscapes_instance": read_cityscapes_set,
    "coco_keypoints": read_instance_set,
    "lvis": read_instance_set,
    "voc": read_voc_set,
    **dict.fromkeys(SEGMENTATION, read_semantic_set),
}
# Kind of a set -> its format
STYLES = {"coco_keypoints": "coco"}
# Kind of a set -> metadata that its files do not hold
METADATA: dict[str, dict[str, Any]] = {"coco_keypoints": COCO_PERSON}


def read_voc(data_root: Path) -> None:
    """Read and check the annotations of all PASCAL VOC splits."""
    register_detection_sets(data_root)
    for entry in DETECTION_SETS.values():
        if entry.kind == "voc":
            loaded_set(entry.name)


def read_data(
    cfg: CfgNode, data_root: Path, eval_only: bool, custom: Sequence[DetectionSet] = ()
) -> tuple[Samples, dict[str, Samples]]:
    """Read the training images (none with ``eval_only``) and, by set, the test images.

    Args:
        custom: the sets of ``custom_sets``.

    Raises:
        UserError: files are missing (all are listed) or broken.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST must name at least one test set", code="config.no_test_set")
    test_sets = cfg.DATASETS.TEST
    register_detection_sets(data_root, test_sets, custom)
    own = {entry.name for entry in custom}
    names = sorted({*test_sets, *(() if eval_only else cfg.DATASETS.TRAIN)})
    known = [DETECTION_SETS[name] for name in names if name in DETECTION_SETS]
    if eval_only:
        require_paths(
            data_root / path for entry in known for path in (entry.annotations, entry.images)
        )
    layouts = {} if eval_only else {id(entry.layout): entry for entry in known}
    for entry in layouts.values():
        assert entry.layout is not None  # of every registered set
        require_layout(data_root, entry.layout, entry.task)
    for name in names:
        kind = DETECTION_SETS[name].kind if name in DETECTION_SETS else ""
        if is_semantic(cfg) != (kind in SEGMENTATION):
            raise UserError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} cannot be used with the "
                f"dataset {name}: {ARCHITECTURE} requires datasets with label maps, such as "
                "ade20k_sem_seg_val, and other architectures datasets with objects",
                code="data.architecture",
            )
        if name not in own and not kind:
            register_custom_set(name, name in test_sets)
    validate_keypoints(cfg, names)
    for name in names:
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
    metadata = {name: MetadataCatalog.get(name) for name in names}
    classes = {n: m.get("thing_classes") or m.get("stuff_classes") for n, m in metadata.items()}
    classes = {name: list(found) for name, found in classes.items() if found}
    first = next(iter(classes), "")
    for name, found in classes.items():
        if found != classes[first]:
            raise UserError(
                f"{first} and {name} must have the same classes, in the same order of their ids, "
                f"but {describe_difference(first, classes[first], name, found)}",
                code="data.classes_differ",
            )
    return classes.get(first)


def describe_difference(first: str, classes: list[str], second: str, others: list[str]) -> str:
    """Describe how two lists of classes differ."""
    parts = [
        f"only {name} has {join_first([printable(one_line(label)) for label in only])}"
        for name, only in (
            (first, [label for label in classes if label not in others]),
            (second, [label for label in others if label not in classes]),
        )
        if only
    ]
    return " and ".join(parts) or "their order differs"


def data_notes(names: Sequence[str]) -> list[str]:
    """Return notes about assumptions made when reading datasets, and about images they share."""
    notes = [f"{name}: {note}" for name in names for note in loaded_set(name).notes]
    files = {
        name: {os.path.realpath(s["file_name"]) for s in loaded_set(name).samples} for name in names
    }
    notes += [
        f"{first} and {second} have {count} images in common"
        for first, second in itertools.combinations(files, 2)
        if (count := len(files[first] & files[second]))
    ]
    return notes


def training_samples(cfg: CfgNode) -> Samples:
    """Return the images to train on, without those without objects if the config says so.

    Keypoint detectors are not trained on images with fewer labeled keypoints than
    ``MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE``.

    Raises:
        UserError: a set cannot be read; no image is left.
    """
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    min_keypoints = head.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    try:
        samples = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=min_keypoints,
        )
    except AssertionError:  # newer versions of Detectron2
        samples = []
    if not samples:
        names = ", ".join(cfg.DATASETS.TRAIN)
        keypoints = f" and at least {min_keypoints} labeled keypoints" * (min_keypoints > 0)
        raise UserError(f"no image of {names} has an object{keypoints}", code="data.empty")
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
