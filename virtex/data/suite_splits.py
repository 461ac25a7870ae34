"""Training, validation and test images of a dataset, and checks that they are consistent."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from virtex.data.image_sets import ImageSet, PackedImageSet, require_images
from virtex.data.suite_sets import Splits
from virtex.errors import UserError
from virtex.text import join_first

SEED = 0  # of every random split


def make_splits(sets: Sequence[ImageSet], name: str) -> Splits:
    """Return checked splits named ``<name>_train``, ``<name>_val`` and ``<name>_test``.

    Args:
        sets: train, validation and test; or train and test, see ``hold_out``.

    Raises:
        UserError: see ``check_splits``.
    """
    train, *published, test = sets
    train, val = (train, published[0]) if published else hold_out(train)
    named = (
        replace(images, name=f"{name}_{split}")
        for images, split in zip((train, val, test), ("train", "val", "test"), strict=True)
    )
    return check_splits(Splits(*named))


def hold_out(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return ``images`` without a random fifth of them, and that fifth.

    It is the fifth that ssl-transfer's ``linear.py`` holds out, if it reads the images in the same
    order: the first floor(0.2 * images) indices, shuffled by NumPy's RandomState(0). Of a class
    whose images would all be held out, the first one is kept.
    """
    order = np.arange(len(images))
    np.random.RandomState(SEED).shuffle(order)
    is_val = np.zeros(len(images), dtype=bool)
    is_val[order[: int(np.floor(0.2 * len(images)))]] = True
    left = set(images.labels[~is_val].tolist())
    for index in np.flatnonzero(is_val):
        label = int(images.labels[index])
        if label not in left:
            is_val[index] = False
            left.add(label)
    return images.subset(np.flatnonzero(~is_val)), images.subset(np.flatnonzero(is_val))


def check_splits(splits: Splits) -> Splits:
    """Return ``splits`` if they are consistent and all images exist.

    Raises:
        UserError: a split is empty or has other classes than train, a label is not a class, an
            image is listed twice or missing, or a class has no training image (for images with one
            label; with several labels, the probe skips such classes).
    """
    train = splits.train
    for images in (train, splits.val, splits.test):
        if list(images.class_names) != list(train.class_names):
            different = sorted(set(images.class_names) ^ set(train.class_names))
            raise UserError(
                f"{images.name} and {train.name} must have the same classes, but "
                f"{len(different)} are only in one of them: {join_first(different)}; "
                f"restore the split files in {images.root}",
                "data.classes_differ",
            )
        if not len(images):
            raise UserError(
                f"{images.name} must contain images, but none were found in {images.root}; restore "
                "its images and split files",
                "data.empty",
            )
        check_labels(images)
        if not isinstance(images, PackedImageSet):
            require_images(images, f"{images.name} in {images.root}")
    counts = Counter([*train.files, *splits.val.files, *splits.test.files])
    if twice := sorted(file for file, count in counts.items() if count > 1):
        raise UserError(
            f"{train.root}: every image must be listed once in train, val and test, but "
            f"{len(twice)} are listed several times: {join_first(twice)}; restore the split files",
            "data.annotations",
        )
    names = train.class_names if train.labels.ndim == 1 else []
    if empty := [name for label, name in enumerate(names) if not (train.labels == label).any()]:
        raise UserError(
            f"{train.root}: every class needs training images, but {len(empty)} have none: "
            f"{join_first(empty)}; restore the images and split files",
            "data.annotations",
        )
    return splits


def check_labels(images: ImageSet) -> None:
    """Raise UserError if a label is not a class, or, with several labels, not -1, 0 or 1."""
    lowest, highest = (0, len(images.class_names) - 1) if images.labels.ndim == 1 else (-1, 1)
    invalid = np.flatnonzero(
        ((images.labels < lowest) | (images.labels > highest)).reshape(len(images), -1).any(axis=1)
    )
    if len(invalid):
        first = int(invalid[0])
        raise UserError(
            f"{images.root}: labels of {images.name} must be from {lowest} to {highest}, but "
            f"{images.files[first]} has {images.labels[first]}; restore the annotations",
            "data.annotations",
        )
