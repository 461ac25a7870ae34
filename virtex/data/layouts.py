"""What each task needs on disk, checked before anything is computed.

``LAYOUTS`` is the whole truth: a row is one path below the data root.
"""

import errno
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from virtex.data.listing import contents, is_folder
from virtex.errors import UserError

# the tools are called by their modules: an installed wheel has no folder eval_tools
TOY_HINT = (
    "a toy version of every data set is written by: python -m virtex.eval_tools.make_toy_data OUT"
)


@dataclass(frozen=True)
class Need:
    """One path a task needs, relative to the data root.

    ``kind`` is "file", "folder" (with something in it) or "class folders" (a folder with
    sub-folders, one a class).
    """

    path: str
    kind: str


@dataclass(frozen=True)
class Layout:
    """All a task needs, and where the real data come from."""

    needs: tuple[Need, ...]
    source: str


COCO_IMAGES = (Need("coco/train2017", "folder"), Need("coco/val2017", "folder"))
COCO_INSTANCES = (
    Need("coco/annotations/instances_train2017.json", "file"),
    Need("coco/annotations/instances_val2017.json", "file"),
)
COCO_CAPTIONS = (
    Need("coco/annotations/captions_train2017.json", "file"),
    Need("coco/annotations/captions_val2017.json", "file"),
)
# captioning is judged on val; the train captions are only for its vocabulary
COCO_VAL_CAPTIONS = (
    Need("coco/val2017", "folder"),
    Need("coco/annotations/captions_val2017.json", "file"),
)
VOC2007_IMAGES = (
    Need("VOC2007/JPEGImages", "folder"),
    Need("VOC2007/ImageSets/Main/trainval.txt", "file"),
    Need("VOC2007/ImageSets/Main/test.txt", "file"),
)
VOC2007 = (Need("VOC2007/Annotations", "folder"), *VOC2007_IMAGES)
VOC2012 = (
    Need("VOC2012/Annotations", "folder"),
    Need("VOC2012/JPEGImages", "folder"),
    Need("VOC2012/ImageSets/Main/trainval.txt", "file"),
)
# the first of a split's 20 files of labels stands for all; virtex.data.voc names those it lacks
VOC2007_LABELS = (
    Need("VOC2007/ImageSets/Main/aeroplane_trainval.txt", "file"),
    Need("VOC2007/ImageSets/Main/aeroplane_test.txt", "file"),
)
COCO_SOURCE = "COCO 2017 images and annotations: https://cocodataset.org/#download"
VOC_SOURCE = "Pascal VOC, the VOC2007 and VOC2012 folders of its VOCdevkit: http://host.robots.ox.ac.uk/pascal/VOC/"

LAYOUTS: dict[str, Layout] = {
    "coco": Layout(COCO_IMAGES + COCO_INSTANCES, COCO_SOURCE),
    "lvis": Layout(
        (
            *COCO_IMAGES,
            Need("lvis/lvis_v1_train.json", "file"),
            Need("lvis/lvis_v1_val.json", "file"),
        ),
        "LVIS v1 annotations: https://www.lvisdataset.org/dataset; "
        "their images are COCO's, of which LVIS val uses some from train2017",
    ),
    "voc": Layout(VOC2007 + VOC2012, VOC_SOURCE),
    "voc07_svm": Layout(VOC2007_IMAGES + VOC2007_LABELS, VOC_SOURCE),
    "imagenet": Layout(
        (Need("imagenet/train", "class folders"), Need("imagenet/val", "class folders")),
        "ImageNet (ILSVRC 2012): https://image-net.org/download; "
        "move the images of val into class folders as in train",
    ),
    "inaturalist": Layout(
        (
            Need("inaturalist/train_val2018", "folder"),
            Need("inaturalist/annotations/train2018.json", "file"),
            Need("inaturalist/annotations/val2018.json", "file"),
        ),
        "iNaturalist 2018: https://github.com/visipedia/inat_comp/tree/master/2018",
    ),
    "captioning": Layout(COCO_VAL_CAPTIONS, COCO_SOURCE),
    "pretraining": Layout(COCO_IMAGES + COCO_CAPTIONS, COCO_SOURCE),
    "multilabel_pretraining": Layout(COCO_IMAGES + COCO_INSTANCES, COCO_SOURCE),
}


def missing_paths(data_root: str | Path, task: str) -> list[str]:
    """Paths below ``data_root`` that ``task`` needs and cannot use, in the table's order.

    Each is joined with the root as it was given. A folder with nothing in it counts as missing.
    Raises UserError for a task that is not in ``LAYOUTS``.
    """
    return [str(Path(data_root, need.path)) for need, _ in _problems(data_root, task)]


def require_layout(data_root: str | Path, task: str) -> None:
    """Raise UserError unless ``task`` has all it needs: every missing path, and what was found."""
    problems = _problems(data_root, task)
    if not problems:
        return
    lines = [f"  {Path(data_root, need.path)}  ({problem})" for need, problem in problems]
    needed = ", ".join(need.path for need in LAYOUTS[task].needs)
    raise UserError(
        f"the data root {data_root} lacks what task {task} needs:\n"
        + "\n".join(lines)
        + f"\nThe data root must hold {needed}."
        + f"\nThe data root {data_root} {contents(data_root)}."
        + "\nWhat is there, and what fixes it: python -m virtex.eval_tools.check_data "
        + f"--data-root {shlex.quote(str(data_root))} --task {task}"
        + f"\nReal data: {LAYOUTS[task].source}"
        + f"\nTo try without: {TOY_HINT}"
    )


def _problems(data_root: str | Path, task: str) -> list[tuple[Need, str]]:
    if task not in LAYOUTS:
        raise UserError(f"there is no task {task!r}; the tasks are {', '.join(LAYOUTS)}")
    found = (
        (need, whats_wrong(Path(data_root, need.path), need.kind)) for need in LAYOUTS[task].needs
    )
    return [(need, problem) for need, problem in found if problem]


def whats_wrong(path: Path, kind: str) -> str | None:
    """Why ``path`` is not what a ``Need`` of this kind wants, in a few words; None if it is."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        absent = f"no such {'file' if kind == 'file' else 'folder'}"
        return "a link to nothing" if os.path.islink(path) else absent
    except OSError as error:
        looping = error.errno == errno.ELOOP
        return "a link to itself" if looping else f"it cannot be reached: {error.strerror}"
    if kind == "file":
        return None if stat.S_ISREG(mode) else "a folder, where a file is needed"
    if not stat.S_ISDIR(mode):
        return "a file, where a folder is needed"
    try:
        with os.scandir(path) as entries:
            if kind == "folder":
                return None if next(entries, None) else "an empty folder"
            return None if any(map(is_folder, entries)) else "without class folders"
    except OSError as error:
        return f"a folder that cannot be listed: {error.strerror}"
