"""Images in class folders, as ImageNet has them: ``train/<class>/…`` and ``val/<class>/…``."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from virtex.data.image_sets import ImageSet
from virtex.errors import UserError
from virtex.files import describe_folder, list_folder
from virtex.text import join_first

# what a split is called elsewhere
OTHER_NAMES = {"train": ("training",), "val": ("test", "validation", "valid")}


def read_image_folder(folder: Path, name: str) -> tuple[ImageSet, ImageSet]:
    """The images of ``folder/train`` and of ``folder/val``, in torchvision's order.

    A class is a folder right below the split's; it may have folders of its own. Labels count the
    classes of train in the order of their names.

    Args:
        name: of the data set; its splits are called ``<name>_train`` and ``<name>_val``.

    Raises:
        UserError: a split, its class folders or their images are missing, or val has other
            classes than train.
    """
    train, val = (_class_folders(Path(folder), split) for split in ("train", "val"))
    _require_same_classes(Path(folder), train, val)
    return (
        _read_split(Path(folder, "train"), train, f"{name}_train"),
        _read_split(Path(folder, "val"), train, f"{name}_val"),
    )


def _class_folders(folder: Path, split: str) -> list[str]:
    """The names of a split's classes, ascending."""
    path = folder / split
    if not os.path.isdir(path):
        raise UserError(
            f"{folder} has no folder {split}: it {describe_folder(folder)}; "
            + _remedy(folder, split)
        )
    files, classes = list_folder(path)
    if classes:
        return sorted(classes)
    remedy = (
        "move its images into one folder a class (ImageNet's val images come without)"
        if any(has_file_allowed_extension(name, IMG_EXTENSIONS) for name in files)
        else "give it one folder of images a class"
    )
    raise UserError(f"{path} has no class folders: it {describe_folder(path)}; {remedy}")


def _remedy(folder: Path, split: str) -> str:
    for other in OTHER_NAMES[split]:
        if (folder / other).is_dir():
            return f"rename or link its folder {other} to {split}"
    return "give a folder that holds train/<class>/ and val/<class>/"


def _require_same_classes(folder: Path, train: list[str], val: list[str]) -> None:
    said = [
        f"{len(lacked)} class folders of {has} are not in {lacks} ({join_first(lacked)})"
        for has, lacks, lacked in (
            ("val", "train", sorted(set(val) - set(train))),
            ("train", "val", sorted(set(train) - set(val))),
        )
        if lacked
    ]
    if said:
        raise UserError(f"{folder}: {', and '.join(said)}; give both the same class folders")


def _read_split(path: Path, classes: list[str], name: str) -> ImageSet:
    found = [
        (file, number)
        for number, label in enumerate(classes)
        for file in sorted_images(os.path.join(path, label))
    ]
    labels = np.array([label for _, label in found], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(classes))
    empty = [label for label, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"{len(empty)} class folders of {path} hold no image: {join_first(empty)}; restore "
            f"their images ({', '.join(IMG_EXTENSIONS)}) or remove the folders of train and val"
        )
    above = len(os.path.join(path, ""))
    files = [file[above:].replace(os.sep, "/") for file, _ in found]
    return ImageSet(name, path, files, labels, classes)


def sorted_images(folder: str) -> list[str]:
    """The images in a folder and in those below it, by folder and then by name."""
    return [
        os.path.join(below, name)
        for below, names in sorted(folders_below(folder))
        for name in sorted(names)
        if has_file_allowed_extension(name, IMG_EXTENSIONS)
    ]


def folders_below(top: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, links followed, with the names of their files.

    Raises:
        UserError: a link leads to a folder that it lies in; two of these would be followed 2^40
            times.
    """
    above = {top: {identity(top)}}
    for folder, names, files in os.walk(top, followlinks=True):
        for name in names:
            path = os.path.join(folder, name)
            if identity(path) in above[folder]:
                raise UserError(f"{path} is a link into itself; remove it")
            above[path] = above[folder] | {identity(path)}
        del above[folder]
        yield folder, files


def identity(folder: str) -> tuple[int, int]:
    """The same for a folder, whatever links lead to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino
