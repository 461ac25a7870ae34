"""What lies at each path that tasks need, by file lists and by what annotation files name."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtex.data.annotations import lvis_file, read_json
from virtex.data.check.disk import IMAGE_SUFFIXES, Disk
from virtex.data.listing import is_path_below, some_of
from virtex.data.voc import VOC_CLASSES, read_stems
from virtex.errors import UserError

DATA_SUFFIXES = (*IMAGE_SUFFIXES, ".xml")  # of files in folders that tasks need


@dataclass(frozen=True)
class Found:
    """What lies at one path.

    Attributes:
        counts: what is counted -> how much there is of it.
        named: the images that a list names, relative to the data root.
        lacking: what is named and not on disk.
        problem: what else keeps the tools from using it, in a few words.
    """

    counts: Mapping[str, int]
    named: Sequence[str] = ()
    lacking: Sequence[str] = ()
    problem: str = ""


@dataclass(frozen=True)
class Held:
    """What a path should hold.

    Attributes:
        look: finds it out.
        published: the same counts of the published data.
    """

    look: Callable[[Disk, str], Found]
    published: Mapping[str, int] = field(default_factory=dict)


# ---- folders


def flat_images(disk: Disk, path: str) -> Found:
    return Found({"images": sum(1 for _ in disk.images(path))})


def nested_images(disk: Disk, path: str) -> Found:
    images = sum(1 for _ in disk.all_images(path))
    return Found({"images": images}, problem="; ".join(obstacles(disk, path)))


def class_folders(disk: Disk, path: str) -> Found:
    """Images in class folders; every class has some, and val those of train."""
    names, tree, sizes = classes(disk, path), disk.tree(path), Counter[str]()
    for folder in tree.folders:
        sizes[folder[len(path) + 1 :].split("/")[0]] += sum(1 for _ in disk.images(folder))
    problems = obstacles(disk, path)
    problems += [f"its classes lie one folder too deep, in {name}" for name in too_deep(disk, path)]
    empty = [n for n in sorted(names) if not sizes[n] and f"{path}/{n}" not in tree.closed]
    if empty:
        problems.append(f"{len(empty)} class folders without images ({some_of(empty)})")
    train = classes(disk, "imagenet/train")
    if train and (different := sorted(train ^ names)):
        said = some_of(different)
        problems.append(
            f"{len(different)} class folders are in one of train and val alone ({said})"
        )
    images = sum(sizes[name] for name in names)
    return Found({"images": images, "classes": len(names)}, problem="; ".join(problems))


def classes(disk: Disk, path: str) -> frozenset[str]:
    """The names of class folders."""
    _, loops, _ = disk.tree(path)
    return disk.seen(path).folders.difference(loop.removeprefix(f"{path}/") for loop in loops)


def obstacles(disk: Disk, path: str) -> list[str]:
    """What keeps a folder from being walked through, the first of it."""
    _, loops, closed = disk.tree(path)
    said = [*(f"{loop} is a link into itself" for loop in loops), *closed.values()]
    return [some_of(said, 3)] if said else []


def only_folder(disk: Disk, path: str) -> str:
    """The one folder in ``path``, where no data lie beside it; "" if that is not so."""
    files, folders = disk.seen(path)
    if len(folders) != 1 or any(name.lower().endswith(DATA_SUFFIXES) for name in files):
        return ""
    (inner,) = folders
    return "" if f"{path}/{inner}" in disk.tree(path).loops else inner


def too_deep(disk: Disk, path: str) -> list[str]:
    """The one folder in which class folders lie instead of in ``path``, if they do."""
    name = only_folder(disk, path)
    inner = f"{path}/{name}"
    return [name] if name and disk.seen(inner).folders and not any(disk.images(inner)) else []


def voc_objects(disk: Disk, path: str) -> Found:
    """An XML file for each image that the lists beside it name; VOC2012's test has none."""
    year, _ = path.split("/")
    splits = ("trainval", "test") if year == "VOC2007" else ("trainval",)
    lists = [f"{year}/ImageSets/Main/{split}.txt" for split in splits]
    stems = [stem for file in lists if disk.has(file) for stem in read_stems(disk.root / file)]
    files = disk.listing(path).files
    lacking = [f"{path}/{stem}.xml" for stem in stems if f"{stem}.xml" not in files]
    return Found({"files": sum(name.endswith(".xml") for name in files)}, lacking=lacking)


# ---- lists


def voc_list(disk: Disk, path: str) -> Found:
    year, _ = path.split("/", 1)
    named = [f"{year}/JPEGImages/{stem}.jpg" for stem in read_stems(disk.root / path)]
    return of_list(disk, named, {"images": len(named)})


def voc_labels(disk: Disk, path: str) -> Found:
    """Of the files that say in which images a class is, one a class."""
    folder, _, name = path.rpartition("/")
    split = name.partition("_")[2]
    files = [f"{folder}/{label}_{split}" for label in VOC_CLASSES]
    lacking = [file for file in files if not disk.has(file)]
    return Found({"classes": len(files) - len(lacking)}, lacking=lacking)


def coco_json(folder: str, counted: str) -> Callable[[Disk, str], Found]:
    """How COCO's, LVIS's and iNaturalist's files are looked at.

    Args:
        folder: that the names of images are relative to.
        counted: what the annotations are.
    """

    def look(disk: Disk, path: str) -> Found:
        content = read_json(disk.root / path, "annotations", keep_names)
        lists = ["images", "annotations"] + ["categories"] * (counted != "captions")
        of = content if isinstance(content, dict) else {}
        if absent := [name for name in lists if not isinstance(of.get(name), list)]:
            return Found({}, problem=f"it has no list of {' or of '.join(absent)}")
        counts = {name: len(of[name]) for name in lists}
        counts[counted] = counts.pop("annotations")
        names = [name for name in of["images"] if isinstance(name, str)]
        named = [f"{folder}/{name}" for name in names if is_path_below(name)]
        found = of_list(disk, named, counts)
        said = []
        if unnamed := len(of["images"]) - len(names):
            said.append(f"{unnamed} of its images have no file name")
        if odd := len(names) - len(named):
            said.append(f"the file names of {odd} of its images are no paths below {folder}")
        if not said:
            return found
        return Found(found.counts, named, found.lacking, problem="; ".join(said))

    return look


def keep_names(item: dict[str, Any]) -> Any:
    """Of an image its file's name, and all lists; anything else will only be counted."""
    if any(isinstance(item.get(name), list) for name in ("images", "annotations", "categories")):
        return item
    if "image_id" in item:
        return None
    if "file_name" in item:
        return item["file_name"]
    address = item.get("coco_url")
    return lvis_file(item) if isinstance(address, str) else None


def of_list(disk: Disk, named: Sequence[str], counts: Mapping[str, int]) -> Found:
    if not named:
        return Found(counts, problem="it names no image")
    return Found(counts, named, [file for file in named if not disk.has(file)])


# ---- what each path should hold


def instances(split: str, images: int) -> Held:
    look = coco_json(f"coco/{split}2017", "objects")
    return Held(look, {"images": images, "categories": 80})


def captions(split: str, images: int, written: int) -> Held:
    look = coco_json(f"coco/{split}2017", "captions")
    return Held(look, {"images": images, "captions": written})


def lvis(images: int) -> Held:
    return Held(coco_json("coco", "objects"), {"images": images, "categories": 1203})


def species(images: int) -> Held:
    return Held(coco_json("inaturalist", "labels"), {"images": images, "categories": 8142})


# Sizes: the data sets' own pages. The protocols' (Protocol.images) are the same, which a test sees.
HELD: dict[str, Held] = {
    "coco/train2017": Held(flat_images, {"images": 118287}),
    "coco/val2017": Held(flat_images, {"images": 5000}),
    "coco/annotations/instances_train2017.json": instances("train", 118287),
    "coco/annotations/instances_val2017.json": instances("val", 5000),
    "coco/annotations/captions_train2017.json": captions("train", 118287, 591753),
    "coco/annotations/captions_val2017.json": captions("val", 5000, 25014),
    "lvis/lvis_v1_train.json": lvis(100170),
    "lvis/lvis_v1_val.json": lvis(19809),
    "VOC2007/Annotations": Held(voc_objects, {"files": 9963}),
    "VOC2007/JPEGImages": Held(flat_images, {"images": 9963}),
    "VOC2007/ImageSets/Main/trainval.txt": Held(voc_list, {"images": 5011}),
    "VOC2007/ImageSets/Main/test.txt": Held(voc_list, {"images": 4952}),
    "VOC2007/ImageSets/Main/aeroplane_trainval.txt": Held(voc_labels),
    "VOC2007/ImageSets/Main/aeroplane_test.txt": Held(voc_labels),
    "VOC2012/Annotations": Held(voc_objects, {"files": 17125}),
    "VOC2012/JPEGImages": Held(flat_images, {"images": 17125}),
    "VOC2012/ImageSets/Main/trainval.txt": Held(voc_list, {"images": 11540}),
    "imagenet/train": Held(class_folders, {"images": 1281167, "classes": 1000}),
    "imagenet/val": Held(class_folders, {"images": 50000, "classes": 1000}),
    "inaturalist/train_val2018": Held(nested_images, {"images": 461939}),
    "inaturalist/annotations/train2018.json": species(437513),
    "inaturalist/annotations/val2018.json": species(24426),
}


def look_at(disk: Disk, path: str) -> Found:
    """What lies at a path that is there.

    A file or folder that cannot be read is a problem of what is found, no error.
    """
    try:
        return HELD[path].look(disk, path)
    except UserError as error:
        return Found({}, problem=str(error))
