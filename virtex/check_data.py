"""Check whether a data root holds what tasks need: missing paths, counts, missing images.

Nothing is changed. Without ``deep``, folders are listed and annotation files read, but no image is
opened. What to look for comes from the layouts in the Task registry.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from virtex.data.annotations import lvis_file, read_json
from virtex.data.cityscapes import DOWNLOADED, find_frames
from virtex.data.detection_sets import DETECTION_SETS
from virtex.data.layouts import TOY_HINT, Layout, Need, find_problem
from virtex.data.voc import VOC_CLASSES, read_stems
from virtex.errors import UserError
from virtex.files import describe_folder, find_missing, is_path_below, list_folder, walk
from virtex.tasks import TASKS, Task, get_task
from virtex.text import join_first, printable

# torchvision's IMG_EXTENSIONS; importing them takes seconds.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
Key = tuple[str, str]  # path and kind of a need
CHUNK = 32  # images that a decoding process gets at once


@dataclass
class PathReport:
    """One path that tasks need.

    Attributes:
        path: relative to the data root.
        kind: ``Need.kind``.
        missing: why it is unusable; "" if it is there.
        problems: what is malformed in it.
        counts: what was counted, for instance ``{"images": 8}``.
        published: the same counts of the published data.
        missing_files: files that it names and that are not on disk, relative to the data root.
        undecodable: image -> why it cannot be decoded; only of a deep check.
        images: all images it names or contains, relative to the data root.
    """

    path: str
    kind: str = ""
    missing: str = ""
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    missing_files: list[str] = field(default_factory=list)
    undecodable: dict[str, str] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "missing" if self.missing else "malformed" if self.problem() else "ok"

    @property
    def is_subset(self) -> bool:
        return any(n < self.published.get(name, n) for name, n in self.counts.items())

    def problem(self) -> str:
        """Return everything that is wrong in one sentence, "" if nothing is."""
        found = [self.missing] if self.missing else list(self.problems)
        if self.missing_files:
            found.append(
                f"{len(self.missing_files)} missing files: {join_first(self.missing_files)}"
            )
        if self.undecodable:
            found.append(
                f"{len(self.undecodable)} undecodable images: {join_first(list(self.undecodable))}"
            )
        return "; ".join(found)

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "problem": self.problem(),
            "counts": self.counts,
            "published": dict(self.published),
            "missing_files": self.missing_files,
            "undecodable": self.undecodable,
        }

    def as_text(self) -> str:
        """Return counts and problems, for one line of a table."""
        parts = []
        for name, count in self.counts.items():
            published = self.published.get(name, count)
            parts.append(f"{count} {name}" + f" (published: {published})" * (published != count))
        return ", ".join(filter(None, [*parts, self.problem()]))


@dataclass(frozen=True)
class TaskReport:
    """The data of one task.

    Attributes:
        error: the message with which the task's own reader rejects the data; "" if it does not.
    """

    name: str
    data_root: str
    source: str
    paths: Sequence[PathReport]
    error: str

    @property
    def is_complete(self) -> bool:
        return not self.error and all(path.state == "ok" for path in self.paths)

    @property
    def is_subset(self) -> bool:
        return any(path.is_subset for path in self.paths)

    def summary(self) -> str:
        """Return one line."""
        if self.is_complete:
            subset = ", a toy version or a subset of the published data" * self.is_subset
            return f"{self.name}: complete{subset}"
        found = [
            f"{Path(self.data_root, p.path)} ({p.problem()})" for p in self.paths if p.state != "ok"
        ]
        return f"{self.name}: incomplete: {'; '.join([*found, *filter(None, [self.error])])}"

    def as_json(self) -> dict[str, Any]:
        return {
            "is_complete": self.is_complete,
            "is_subset": self.is_subset,
            "paths": [path.path for path in self.paths],
            "error": self.error,
            "source": self.source,
        }


@dataclass(frozen=True)
class Report:
    """The result of ``check_data``."""

    data_root: str
    tasks: Sequence[TaskReport]

    @property
    def incomplete(self) -> list[TaskReport]:
        return [task for task in self.tasks if not task.is_complete]

    @property
    def paths(self) -> dict[str, PathReport]:
        named: dict[str, PathReport] = {}
        for path in (path for task in self.tasks for path in task.paths):
            # gtFine of Cityscapes has two kinds: annotations of objects, and label maps
            is_other = named.setdefault(path.path, path).kind != path.kind
            named[f"{path.path} ({path.kind})" if is_other else path.path] = path
        return named

    def as_json(self) -> dict[str, Any]:
        return {
            "data_root": self.data_root,
            "is_complete": not self.incomplete,
            "tasks": {task.name: task.as_json() for task in self.tasks},
            "paths": {name: path.as_json() for name, path in self.paths.items()},
        }

    def as_text(self) -> str:
        width = max(map(len, self.paths), default=0)
        lines = [f"The data root {self.data_root} {describe_folder(self.data_root)}.", ""]
        for name, path in self.paths.items():
            lines.append(f"{path.state:9}  {name:{width}}  {path.as_text()}".rstrip())
            lines += [f"           {why}" for why in path.undecodable.values()]
        lines += ["", *(task.summary() for task in self.tasks)]
        if self.incomplete:
            sources = dict.fromkeys(task.source for task in self.incomplete)
            lines += ["", *(f"Data: {source}" for source in sources)]
            lines.append(f"To try the tools without this data, {TOY_HINT}")
        return printable("\n".join(lines))


def check_data(
    data_root: str | os.PathLike[str],
    tasks: Sequence[str] = (),
    deep: bool = False,
    num_workers: int = 1,
) -> Report:
    """Check the data of tasks.

    Args:
        tasks: names in the Task registry; none for all.
        deep: also decode every image and, if all paths are well-formed, read the data as each task
            does.
        num_workers: processes that decode images.

    Raises:
        UserError: a task is unknown, or the data root cannot be listed.
    """
    root = Path(data_root)
    chosen = [get_task(name) for name in dict.fromkeys(tasks or TASKS)]
    list_folder(root)  # an unreadable data root would only look empty below
    paths: dict[Key, PathReport] = {}
    with tqdm(chosen, unit="task", leave=False, disable=None) as bar:
        for task in bar:
            bar.set_description(task.name)
            for need in task.layout.needs:
                if get_key(need) not in paths:
                    paths[get_key(need)] = check_path(root, need, task.layout)
            compare_classes(task.layout, paths)
    if deep:
        decode_all(root, paths.values(), num_workers)
    errors: dict[object, str] = {}
    return Report(str(data_root), [report(root, task, paths, deep, errors) for task in chosen])


def report(
    root: Path,
    task: Task,
    paths: Mapping[Key, PathReport],
    deep: bool,
    errors: dict[object, str],
) -> TaskReport:
    """Report on a task; ``errors`` keeps the results of readers that several tasks share."""
    own = [paths[get_key(need)] for need in task.layout.needs]
    read = task.read_data
    if not deep or read is None or any(path.state != "ok" for path in own):
        return TaskReport(task.name, str(root), task.layout.source, own, "")
    if read not in errors:
        errors[read] = ""
        try:
            read(root)
        except UserError as error:
            errors[read] = str(error)
    return TaskReport(task.name, str(root), task.layout.source, own, errors[read])


# One path ----


def get_key(need: Need) -> Key:
    return need.path, need.kind


def check_path(root: Path, need: Need, layout: Layout) -> PathReport:
    """Check one path of a layout."""
    found = PathReport(need.path, need.kind, published=need.counts)
    found.missing = find_problem(root / need.path, need) or ""
    if not found.missing and need.kind in CHECKS:
        try:
            CHECKS[need.kind](root, need, layout, found)
        except UserError as error:
            found.problems.append(str(error))
    return found


def check_images(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Count the images in a folder and below it."""
    images = images_below(root, need.path)
    found.counts["images"] = len(images)
    if not any(other.images for other in layout.needs):  # no list tells which of them are read
        found.images = images


def check_class_folders(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Count images and classes; every class needs images."""
    found.images = images_below(root, need.path)
    classes = list_folder(root / need.path).folders
    above = len(need.path) + 1
    filled = {image[above:].split("/")[0] for image in found.images if "/" in image[above:]}
    found.counts |= {"images": len(found.images), "classes": len(classes)}
    if empty := sorted(classes - filled):
        found.problems.append(f"{len(empty)} class folders without images: {join_first(empty)}")


def images_below(root: Path, path: str) -> list[str]:
    """Return the images in a folder and below it, relative to ``root``."""
    above = len(prefix_of(root))
    return [
        os.path.join(folder, name)[above:]
        for folder, names in walk(root / path)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]


def prefix_of(root: Path) -> str:
    """Return what stands before the relative path in ``str(root / path)``."""
    return str(root / "x")[:-1]


def compare_classes(layout: Layout, paths: Mapping[Key, PathReport]) -> None:
    """Add a problem to class folders whose classes differ from those of the first split."""
    splits = [paths[get_key(need)] for need in layout.needs if need.kind == "class_folders"]
    splits = [split for split in splits if split.images]
    sets = [{i[len(s.path) + 1 :].split("/")[0] for i in s.images} for s in splits]
    for split, classes in zip(splits[1:], sets[1:], strict=True):
        different = sorted(classes ^ sets[0])
        problem = (
            f"{len(different)} classes are only in one of this and {splits[0].path}: "
            + join_first(different)
        )
        if different and problem not in split.problems:
            split.problems.append(problem)


def check_voc_xml(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Expect an XML file for each image of the layout's lists in the same year's folder."""
    files = list_folder(root / need.path).files
    found.counts["files"] = sum(name.endswith(".xml") for name in files)
    year = need.path.split("/")[0]
    for other in layout.needs:
        path = root / other.path
        if other.kind == "image_list" and other.path.startswith(f"{year}/") and path.is_file():
            names = (f"{stem}.xml" for stem in read_stems(path))
            found.missing_files += [f"{need.path}/{name}" for name in names if name not in files]


def check_voc_labels(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Expect a file of labels for each class."""
    folder, _, name = need.path.rpartition("/")
    split = name.partition("_")[2]
    files = list_folder(root / folder).files
    names = [f"{label}_{split}" for label in VOC_CLASSES]
    found.missing_files = [f"{folder}/{name}" for name in names if name not in files]
    found.counts["classes"] = len(names) - len(found.missing_files)


def check_label_maps(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Expect an image for each label map of the layout's sets, and vice versa."""
    from virtex.data.segmentation import find_pairs

    above = len(prefix_of(root))
    sets = [entry for entry in DETECTION_SETS.values() if entry.layout is layout]
    pairs = [pair for entry in sets for pair in find_pairs(entry, root)]
    pairs = [pair for pair in pairs if pair[1].startswith(f"{root / need.path}{os.sep}")]
    files = [file for kind in zip(*pairs, strict=True) for file in kind]
    missing = find_missing(files)
    gone = set(missing)
    found.missing_files = [file[above:] for file in missing]
    found.counts["images"] = sum(gone.isdisjoint(pair) for pair in pairs)
    if not files:
        found.problems.append("it contains no label maps")


def check_cityscapes(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Expect an image for the annotations, and annotations for each image."""
    images = root / need.images.removesuffix("/{}")
    frames, missing = find_frames(images, root / need.path, DOWNLOADED)
    if not frames:
        found.problems.append("it contains no annotations of any city")
    above = len(prefix_of(root))
    found.counts["images"] = len(frames)
    found.missing_files = [path[above:] for path in missing]
    files = [str(frame.image)[above:] for frame in frames]
    found.images = [file for file in files if file not in set(found.missing_files)]


def check_image_list(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Expect every image that a text file lists."""
    stems = read_stems(root / need.path)
    found.counts["images"] = len(stems)
    check_named_images(root, need, stems, found)


def check_json(root: Path, need: Need, layout: Layout, found: PathReport) -> None:
    """Count the items of an annotation file and expect every image that it names."""
    content = read_json(root / need.path, need.kind.replace("_json", " annotations"), keep_names)
    annotations = ANNOTATIONS[need.kind]
    lists = {"images": "images", "annotations": annotations, "categories": "categories"}
    if annotations == "captions":
        del lists["categories"]
    top = content if isinstance(content, dict) else {}
    if absent := [key for key in lists if not isinstance(top.get(key), list)]:
        found.problems.append(f"missing lists: {', '.join(absent)}")
        return
    found.counts |= {name: len(top[key]) for key, name in lists.items()}
    names = [name for name in top["images"] if is_path_below(name)]
    if invalid := len(top["images"]) - len(names):
        found.problems.append(f"{invalid} images without a file name, a path below its folder")
    check_named_images(root, need, names, found)


def keep_names(item: dict[str, Any]) -> Any:
    """Reduce an image to its file name and drop annotations, to save memory."""
    if any(isinstance(item.get(name), list) for name in ("images", "annotations", "categories")):
        return item
    if "image_id" in item:
        return None
    if "file_name" in item:
        return item["file_name"]
    url = item.get("coco_url")
    return lvis_file(item) if isinstance(url, str) else None


def check_named_images(root: Path, need: Need, names: Sequence[str], found: PathReport) -> None:
    if not names:
        found.problems.append("it names no image")
    prefix = prefix_of(root)
    above = len(prefix)
    files = [prefix + need.images.replace("{}", name) for name in names]
    missing = find_missing(files)
    gone = set(missing)
    found.missing_files += [file[above:] for file in missing]
    found.images = [file[above:] for file in files if file not in gone]


ANNOTATIONS = {
    "coco_json": "objects",
    "keypoints_json": "persons",
    "lvis_json": "objects",
    "captions_json": "captions",
    "inaturalist_json": "labels",
}
CHECKS: dict[str, Callable[[Path, Need, Layout, PathReport], None]] = {
    "images": check_images,
    "class_folders": check_class_folders,
    "voc_xml": check_voc_xml,
    "voc_labels": check_voc_labels,
    "cityscapes": check_cityscapes,
    "image_list": check_image_list,
    "label_maps": check_label_maps,
    **dict.fromkeys(ANNOTATIONS, check_json),
}


# Images ----


def decode_all(root: Path, reports: Iterable[PathReport], num_workers: int) -> None:
    """Decode all images, each once, and fill in ``undecodable``.

    Raises:
        UserError: a decoding process is killed.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    import virtex.data.decoding  # noqa: F401  once, for all processes that are forked

    reports = list(reports)
    files = list(dict.fromkeys(file for found in reports for file in found.images))
    try:
        with ProcessPoolExecutor(num_workers) as pool:
            reasons = pool.map(
                decoding_error, [str(root / file) for file in files], chunksize=CHUNK
            )
            bar = tqdm(reasons, "decoding", len(files), unit="image", disable=None)
            broken = {file: why for file, why in zip(files, bar, strict=True) if why}
    except BrokenProcessPool as error:
        raise UserError(
            "a decoding process was killed, probably because memory ran out; "
            "use fewer of them (--num-workers 1)",
            code="data.worker_killed",
        ) from error
    for found in reports:
        found.undecodable = {file: broken[file] for file in found.images if file in broken}


def decoding_error(path: str) -> str:
    """Return why an image cannot be decoded, "" if it can."""
    from virtex.data.decoding import decode_image

    try:
        decode_image(path)
    except UserError as error:
        return str(error)
    return ""
