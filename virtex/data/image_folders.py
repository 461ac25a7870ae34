"""Images in class folders as in ImageNet: ``train/<class>/…`` and ``val/<class>/…``."""

import os
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from virtex.data.image_sets import ImageSet
from virtex.errors import UserError
from virtex.files import describe_folder, list_folder, walk
from virtex.text import join_first

# other names of the splits
OTHER_NAMES = {"train": ("training",), "val": ("test", "validation", "valid")}


def read_image_folder(folder: Path, name: str) -> tuple[ImageSet, ImageSet]:
    """Read ``folder/train`` and ``folder/val``, in the order of torchvision's ``ImageFolder``.

    A class is a folder directly below that of the split; it may have subfolders. Labels number
    the classes of train in the order of their names.

    Args:
        name: of the dataset; its splits are named ``<name>_train`` and ``<name>_val``.

    Raises:
        UserError: a split, its class folders or their images are missing, or train and
            val have different classes.
    """
    train, val = (_class_folders(Path(folder), split) for split in ("train", "val"))
    _require_same_classes(Path(folder), train, val)
    return (
        _read_split(Path(folder, "train"), train, f"{name}_train"),
        _read_split(Path(folder, "val"), train, f"{name}_val"),
    )


def _class_folders(folder: Path, split: str) -> list[str]:
    """Return the names of the classes of a split, sorted."""
    path = folder / split
    if not os.path.isdir(path):
        raise UserError(
            f"{folder} must contain a folder {split}, but {describe_folder(folder)}; "
            + _hint(folder, split),
            "data.missing",
        )
    files, classes = list_folder(path)
    if classes:
        return sorted(classes)
    hint = (
        "move its images into class folders (ImageNet's val images come without)"
        if any(has_file_allowed_extension(name, IMG_EXTENSIONS) for name in files)
        else "add one folder of images per class"
    )
    raise UserError(
        f"{path} must contain class folders, but {describe_folder(path)}; {hint}",
        "data.class_folders",
    )


def _hint(folder: Path, split: str) -> str:
    for other in OTHER_NAMES[split]:
        if (folder / other).is_dir():
            return f"rename or link its folder {other} to {split}"
    return "give a folder with train/<class>/ and val/<class>/"


def _require_same_classes(folder: Path, train: list[str], val: list[str]) -> None:
    if different := sorted(set(train) ^ set(val)):
        raise UserError(
            f"{folder}: train and val must have the same classes, but {len(different)} are only in "
            f"one of them: {join_first(different)}; give both the same class folders",
            "data.class_folders",
        )


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
            f"{len(empty)} class folders of {path} contain no image: {join_first(empty)}; restore "
            f"their images ({', '.join(IMG_EXTENSIONS)}) or remove the folders of train and val",
            "data.class_folders",
        )
    above = len(os.path.join(path, ""))
    files = [file[above:].replace(os.sep, "/") for file, _ in found]
    return ImageSet(name, path, files, labels, classes)


def sorted_images(folder: str) -> list[str]:
    """Return the images in a folder and below it, sorted by folder and then by name."""
    return [
        os.path.join(below, name)
        for below, names in sorted(walk(folder))
        for name in sorted(names)
        if has_file_allowed_extension(name, IMG_EXTENSIONS)
    ]
