"""Whether a data root holds what tasks need: what is missing, how much there is, what fixes it.

Nothing is changed, and unless a deep check is asked for, no image is opened.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from virtex.data.check.disk import FOLDERS, Disk
from virtex.data.check.quick import HELD, Found, class_folders, look_at
from virtex.data.check.report import PathReport, Report, TaskReport
from virtex.data.layouts import LAYOUTS, find_problem
from virtex.data.listing import contents
from virtex.errors import UserError

# What a task is called by the tools that run it -> what it needs of the data root. The names of
# ``LAYOUTS`` do as well.
TASKS = {
    "coco": "coco",
    "lvis": "lvis",
    "voc": "voc",
    "voc07_svm": "voc07_svm",
    "imagenet_linear": "imagenet",
    "imagenet_knn": "imagenet",
    "imagenet_semi_supervised": "imagenet",
    "inaturalist": "inaturalist",
    "coco_captioning": "captioning",
    "pretraining": "pretraining",
    "multilabel_pretraining": "multilabel_pretraining",
}


def check_data(
    data_root: str | os.PathLike[str],
    tasks: Sequence[str] = (),
    deep: bool = False,
    processes: int = 1,
) -> Report:
    """Look at the data of tasks.

    Args:
        tasks: names of ``TASKS`` or ``LAYOUTS``; none: all of ``TASKS``.
        deep: also decode every image, and read all annotations as the tools do, where all files
            of a task are there.
        processes: that decode images.

    Raises:
        UserError: there is no such task, or the data root cannot be listed.
    """
    layouts = asked_layouts(tasks)
    disk = Disk(Path(data_root))
    disk.listing("")  # refused here, it would only look empty below
    needs = {need.path: need for layout in layouts for need in LAYOUTS[layout].needs}
    missing = {path: find_problem(disk.root / path, need) for path, need in needs.items()}
    there = [path for path in needs if missing[path] is None]
    found = {path: look_at(disk, path) for path in announced(there)}
    broken = decode(disk, found, processes) if deep else {}
    paths = {
        path: PathReport(str(disk.root / path), missing=why) for path, why in missing.items() if why
    }
    paths |= {path: path_report(disk, path, found[path], broken) for path in there}
    reports = [task_report(disk, layout, names, paths, deep) for layout, names in layouts.items()]
    read = what_was_read(disk, there) + (", every image" if deep else "; no image opened")
    return Report(str(data_root), contents(data_root), read, reports)


def asked_layouts(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Layout -> the names by which it was asked for."""
    known = {**{name: name for name in LAYOUTS}, **TASKS}
    layouts: dict[str, list[str]] = {}
    for name in dict.fromkeys(tasks or TASKS):
        if name not in known:
            raise UserError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
        layouts.setdefault(known[name], []).append(name)
    return layouts


def announced(paths: Sequence[str]) -> Iterator[str]:
    """The paths; on a terminal, with the one that is being looked at."""
    with tqdm(paths, unit="path", leave=False, disable=None) as bar:
        for path in bar:
            bar.set_description(path)
            yield path


def decode(disk: Disk, found: Mapping[str, Found], processes: int) -> dict[str, str]:
    """The images of all paths, each decoded once: those that cannot be, and why."""
    from virtex.data.check.deep import broken_images

    files = (file for path in found for file in images_of(disk, path, found[path]))
    return broken_images(disk.root, list(dict.fromkeys(files)), processes)


def images_of(disk: Disk, path: str, found: Found) -> Iterable[str]:
    """What a task would open: the images that a list names, or those in class folders."""
    if HELD[path].look is class_folders:
        return disk.all_images(path)
    gone = set(found.lacking)
    return (file for file in found.named if file not in gone)


def path_report(disk: Disk, path: str, found: Found, broken: Mapping[str, str]) -> PathReport:
    undecodable = {}
    if broken:
        undecodable = {f: broken[f] for f in images_of(disk, path, found) if f in broken}
    return PathReport(
        str(disk.root / path),
        problem=found.problem,
        counts=found.counts,
        published=HELD[path].published,
        lacking=found.lacking,
        undecodable=undecodable,
    )


def task_report(
    disk: Disk, layout: str, names: Sequence[str], paths: Mapping[str, PathReport], deep: bool
) -> TaskReport:
    needs = LAYOUTS[layout].needs
    own = [paths[need.path] for need in needs]
    missing = [need for need in needs if paths[need.path].missing]
    unreadable = ""
    if deep and all(path.state == "ok" for path in own):
        from virtex.data.check.deep import whats_unreadable

        unreadable = whats_unreadable(disk.root, layout)
    notes = without_vocabulary(disk) if layout == "pretraining" and not missing else []
    return TaskReport(
        names,
        own,
        unreadable,
        notes,
        LAYOUTS[layout].source,
    )


def without_vocabulary(disk: Disk) -> list[str]:
    """What is made of the captions before they are trained on."""
    if any(name.endswith(".model") for name in disk.seen("vocab").files):
        return []
    captions = disk.root / "coco/annotations/captions_train2017.json"
    return [
        "there is no vocabulary yet; train one: python -m virtex.data.tokenizer "
        f"--captions {shlex.quote(str(captions))} --vocab-size 10000 "
        f"--output {shlex.quote(str(disk.root / 'vocab/coco_10k.model'))}"
    ]


def what_was_read(disk: Disk, paths: Sequence[str]) -> str:
    files = [disk.root / path for path in paths if (disk.root / path).is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    cut = f" (data that lie elsewhere are looked for in {FOLDERS} of them, not in all there are)"
    return (
        f"the names in {disk.listed} folders{cut * disk.cut}, "
        f"{len(files)} annotation files ({size:.1f} MB)"
    )
