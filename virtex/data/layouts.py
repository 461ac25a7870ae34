"""Layouts of datasets on disk, checked before a task runs.

A task declares its ``Layout``: paths below the data root, their contents, and the sizes of the
published data. This module defines the types and the layouts of the built-in datasets.
"""

import errno
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from virtex.errors import UserError
from virtex.files import describe_folder, is_folder

# Modules, because an installed wheel has no folder eval_tools.
TOY_HINT = "generate toy data: python -m virtex.eval_tools.make_toy_data OUT"

# Kinds of paths; ``virtex.check_data`` checks the contents of each kind.
FOLDER_KINDS = frozenset(
    {"folder", "images", "class_folders", "label_maps", "voc_xml", "cityscapes"}
)
FILE_KINDS = frozenset(
    {"file", "coco_json", "keypoints_json", "lvis_json", "captions_json", "inaturalist_json"}
    | {"image_list", "voc_labels"}
)


@dataclass(frozen=True)
class Need:
    """One path that a task needs.

    Attributes:
        path: relative to the data root, with "/" between its parts.
        kind: one of ``FOLDER_KINDS`` or ``FILE_KINDS``:

            - "folder", "file": must exist; a folder must not be empty
            - "images": a folder of images, at any depth
            - "class_folders": one folder of images per class
            - "label_maps": a folder of label maps for semantic segmentation, one PNG per image
            - "voc_xml": a folder of one XML file per image
            - "cityscapes": folders of cities with the annotations of a split of Cityscapes
            - "coco_json", "keypoints_json" (COCO's person_keypoints), "lvis_json",
              "captions_json", "inaturalist_json": annotations
            - "image_list": a text file with the name of one image per line
            - "voc_labels": the first of VOC's 20 files of labels, one per class
        counts: the sizes of the published data, for instance ``{"images": 5000}``.
        images: path template, relative to the data root, of the images that a file names, for
            instance "coco/val2017/{}".
    """

    path: str
    kind: str
    counts: Mapping[str, int] = field(default_factory=dict)
    images: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FOLDER_KINDS | FILE_KINDS:
            raise ValueError(f"unknown kind {self.kind!r} of {self.path}")

    @property
    def is_folder(self) -> bool:
        return self.kind in FOLDER_KINDS


@dataclass(frozen=True)
class Layout:
    """All paths that a task reads below the data root.

    Attributes:
        source: name and URL of the published data.
        has_toy_data: whether ``make_toy_data`` writes it.
    """

    needs: tuple[Need, ...]
    source: str
    has_toy_data: bool = True


# Built-in datasets. Sizes are from the datasets' web pages.

COCO_SOURCE = "COCO 2017 images and annotations: https://cocodataset.org/#download"
COCO_SIZES = {"train": 118287, "val": 5000}
COCO_CAPTION_COUNTS = {"train": 591753, "val": 25014}
LVIS_SIZES = {"train": 100170, "val": 19809}
VOC_SOURCE = "Pascal VOC, the VOC2007 and VOC2012 folders of its VOCdevkit: http://host.robots.ox.ac.uk/pascal/VOC/"


def _coco_images(split: str) -> Need:
    return Need(f"coco/{split}2017", "images", {"images": COCO_SIZES[split]})


def _coco_instances(split: str) -> Need:
    return Need(
        f"coco/annotations/instances_{split}2017.json",
        "coco_json",
        {"images": COCO_SIZES[split], "categories": 80},
        f"coco/{split}2017/{{}}",
    )


def _coco_keypoints(split: str) -> Need:
    return Need(
        f"coco/annotations/person_keypoints_{split}2017.json",
        "keypoints_json",
        {"images": COCO_SIZES[split], "categories": 1},
        f"coco/{split}2017/{{}}",
    )


def _coco_captions(split: str) -> Need:
    return Need(
        f"coco/annotations/captions_{split}2017.json",
        "captions_json",
        {"images": COCO_SIZES[split], "captions": COCO_CAPTION_COUNTS[split]},
        f"coco/{split}2017/{{}}",
    )


def _lvis(split: str) -> Need:
    counts = {"images": LVIS_SIZES[split], "categories": 1203}
    return Need(f"lvis/lvis_v1_{split}.json", "lvis_json", counts, "coco/{}")


def _inaturalist(split: str, images: int) -> Need:
    return Need(
        f"inaturalist/annotations/{split}2018.json",
        "inaturalist_json",
        {"images": images, "categories": 8142},
        "inaturalist/{}",
    )


def _voc_list(year: str, split: str, images: int) -> Need:
    path = f"{year}/ImageSets/Main/{split}.txt"
    return Need(path, "image_list", {"images": images}, f"{year}/JPEGImages/{{}}.jpg")


def _cityscapes(split: str, images: int) -> tuple[Need, Need]:
    folder, counts = f"cityscapes/leftImg8bit/{split}", {"images": images}
    annotations = f"cityscapes/gtFine/{split}"
    return (
        Need(folder, "images", counts),
        Need(annotations, "cityscapes", counts, f"{folder}/{{}}"),
    )


COCO_IMAGES = (_coco_images("train"), _coco_images("val"))
COCO_INSTANCES = (_coco_instances("train"), _coco_instances("val"))
COCO_KEYPOINTS = (_coco_keypoints("train"), _coco_keypoints("val"))
COCO_CAPTIONS = (_coco_captions("train"), _coco_captions("val"))
VOC2007_IMAGES = (
    Need("VOC2007/JPEGImages", "images", {"images": 9963}),
    _voc_list("VOC2007", "trainval", 5011),
    _voc_list("VOC2007", "test", 4952),
)
VOC2007 = (Need("VOC2007/Annotations", "voc_xml", {"files": 9963}), *VOC2007_IMAGES)
VOC2012 = (
    Need("VOC2012/Annotations", "voc_xml", {"files": 17125}),
    Need("VOC2012/JPEGImages", "images", {"images": 17125}),
    _voc_list("VOC2012", "trainval", 11540),
)
VOC2007_LABELS = (
    Need("VOC2007/ImageSets/Main/aeroplane_trainval.txt", "voc_labels", {"classes": 20}),
    Need("VOC2007/ImageSets/Main/aeroplane_test.txt", "voc_labels", {"classes": 20}),
)

VOC_SEGMENTATION_LISTS = tuple(
    Need(
        f"VOC2012/ImageSets/Segmentation/{split}.txt",
        "image_list",
        {"images": images},
        "VOC2012/JPEGImages/{}.jpg",
    )
    for split, images in (("train", 1464), ("val", 1449))
)

COCO_DETECTION = Layout(COCO_IMAGES + COCO_INSTANCES, COCO_SOURCE)
COCO_KEYPOINT_DETECTION = Layout(COCO_IMAGES + COCO_KEYPOINTS, COCO_SOURCE)
LVIS_DETECTION = Layout(
    (*COCO_IMAGES, _lvis("train"), _lvis("val")),
    "LVIS v1 annotations: https://www.lvisdataset.org/dataset; "
    "their images are COCO's, of which LVIS val uses some from train2017",
)
VOC_DETECTION = Layout(VOC2007 + VOC2012, VOC_SOURCE)
VOC_SEGMENTATION = Layout(
    (
        Need("VOC2012/JPEGImages", "images", {"images": 17125}),
        *VOC_SEGMENTATION_LISTS,
        Need("VOC2012/SegmentationClass", "label_maps", {"images": 2913}),
    ),
    VOC_SOURCE,
)
VOC_SEGMENTATION_AUG = Layout(
    (
        VOC_SEGMENTATION.needs[0],
        Need(
            "VOC2012/ImageSets/Segmentation/trainaug.txt",
            "image_list",
            {"images": 10582},
            "VOC2012/JPEGImages/{}.jpg",
        ),
        Need("VOC2012/SegmentationClassAug", "label_maps", {"images": 10582}),
    ),
    "SBD (Semantic Boundaries Dataset), converted to label maps with VOC's values in "
    "VOC2012/SegmentationClassAug, and the list trainaug.txt: "
    "http://home.bharathh.info/pubs/codes/SBD/download.html",
)
CITYSCAPES_SEGMENTATION = Layout(
    tuple(
        Need(f"cityscapes/{folder}/{split}", kind, {"images": images})
        for split, images in (("train", 2975), ("val", 500))
        for folder, kind in (("leftImg8bit", "images"), ("gtFine", "label_maps"))
    ),
    "Cityscapes, gtFine_trainvaltest and leftImg8bit_trainvaltest: "
    "https://www.cityscapes-dataset.com/downloads; create the label maps with train ids with "
    "csCreateTrainIdLabelImgs of the package cityscapesScripts",
)
ADE20K = Layout(
    tuple(
        Need(f"ADEChallengeData2016/{folder}/{split}", kind, {"images": images})
        for split, images in (("training", 20210), ("validation", 2000))
        for folder, kind in (("images", "images"), ("annotations", "label_maps"))
    ),
    "ADE20K SceneParsing 2016 (ADEChallengeData2016): http://sceneparsing.csail.mit.edu",
)
VOC07_CLASSIFICATION = Layout(VOC2007_IMAGES + VOC2007_LABELS, VOC_SOURCE)
IMAGENET = Layout(
    (
        Need("imagenet/train", "class_folders", {"images": 1281167, "classes": 1000}),
        Need("imagenet/val", "class_folders", {"images": 50000, "classes": 1000}),
    ),
    "ImageNet (ILSVRC 2012): https://image-net.org/download; "
    "move the images of val into class folders as in train",
)
INATURALIST_2018 = Layout(
    (
        Need("inaturalist/train_val2018", "images", {"images": 461939}),
        _inaturalist("train", 437513),
        _inaturalist("val", 24426),
    ),
    "iNaturalist 2018: https://github.com/visipedia/inat_comp/tree/master/2018",
)
CITYSCAPES = Layout(
    (*_cityscapes("train", 2975), *_cityscapes("val", 500)),
    "Cityscapes, leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip: "
    "https://www.cityscapes-dataset.com/downloads/",
)
# Captioning is evaluated on val; the captions of train serve only to train a vocabulary.
COCO_CAPTIONING = Layout((_coco_images("val"), _coco_captions("val")), COCO_SOURCE)
COCO_CAPTION_PRETRAINING = Layout(COCO_IMAGES + COCO_CAPTIONS, COCO_SOURCE)
COCO_MULTILABEL_PRETRAINING = COCO_DETECTION

# Checks


def missing_paths(data_root: str | Path, layout: Layout) -> list[str]:
    """Return the paths of ``layout`` that are missing or unusable, joined with ``data_root``.

    An empty folder counts as missing.
    """
    return [str(Path(data_root, need.path)) for need, _ in _problems(data_root, layout)]


def require_layout(data_root: str | Path, layout: Layout, task: str) -> None:
    """Check that all paths of ``layout`` exist.

    Args:
        task: name of the task, for the error message.

    Raises:
        UserError: paths are missing (``data.missing``); the message names all of them.
    """
    problems = _problems(data_root, layout)
    if not problems:
        return
    lines = [f"  {Path(data_root, need.path)}  ({problem})" for need, problem in problems]
    needed = ", ".join(need.path for need in layout.needs)
    raise UserError(
        f"{task} needs {needed} below the data root {data_root}, "
        f"which {describe_folder(data_root)}. Missing:\n"
        + "\n".join(lines)
        + f"\nData: {layout.source}"
        + "\nDetails: python -m virtex.eval_tools.check_data "
        + f"--data-root {shlex.quote(str(data_root))} --task {task}"
        + f"\nTo try it without this data, {TOY_HINT}" * layout.has_toy_data,
        code="data.missing",
    )


def _problems(data_root: str | Path, layout: Layout) -> list[tuple[Need, str]]:
    found = ((need, find_problem(Path(data_root, need.path), need)) for need in layout.needs)
    return [(need, problem) for need, problem in found if problem]


def find_problem(path: Path, need: Need) -> str | None:
    """Return why ``path`` does not satisfy ``need``, or None if it does."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "broken symbolic link" if os.path.islink(path) else "not found"
    except OSError as error:
        looping = error.errno == errno.ELOOP
        return "symbolic link loop" if looping else f"not accessible: {error.strerror}"
    if not need.is_folder:
        return None if stat.S_ISREG(mode) else "expected a file"
    if not stat.S_ISDIR(mode):
        return "expected a folder, found a file"
    try:
        with os.scandir(path) as entries:
            if need.kind == "class_folders":
                return None if any(map(is_folder, entries)) else "no class folders in it"
            return None if next(entries, None) else "empty folder"
    except OSError as error:
        return f"not readable: {error.strerror}"
