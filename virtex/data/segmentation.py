"""Semantic segmentation sets on disk: images and their label maps.

A label map is a PNG file of one channel, gray or with a palette, whose values are class indices.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtex.data.cityscapes import CLASSES, TRAIN_IDS_FILE, find_frames
from virtex.data.decoding import load_indices
from virtex.data.detection_sets import DetectionSet
from virtex.data.voc import read_stems
from virtex.errors import UserError
from virtex.files import find_missing, walk
from virtex.text import join_first

IGNORED = 255  # label of the pixels that are neither trained on nor scored

Pairs = list[tuple[str, str]]  # paths of an image and its label map


def ade20k_pairs(images: Path, labels: Path) -> Pairs:
    """Return the pairs of a split's folders in ``images`` and ``annotations``."""
    stems = sorted({*names_below(images, ".jpg"), *names_below(labels, ".png")})
    return [(f"{images / stem}.jpg", f"{labels / stem}.png") for stem in stems]


def cityscapes_pairs(images: Path, labels: Path) -> Pairs:
    """Return the pairs of a split's folders in ``leftImg8bit`` and ``gtFine``, of all cities."""
    frames, _ = find_frames(images, labels, [TRAIN_IDS_FILE])
    return [(str(frame.image), str(frame.annotation(TRAIN_IDS_FILE))) for frame in frames]


def voc_pairs(images: Path, listed: Path) -> Pairs:
    """Return the pairs of a list in ``ImageSets/Segmentation``.

    The label maps of ``trainaug.txt``, which are those of SBD, are in ``SegmentationClassAug``.

    Args:
        images: contains ``JPEGImages`` and the label maps.
    """
    labels = images / ("SegmentationClassAug" if listed.stem == "trainaug" else "SegmentationClass")
    return [
        (f"{images / 'JPEGImages' / stem}.jpg", f"{labels / stem}.png")
        for stem in read_stems(listed)
    ]


def names_below(folder: Path, end: str) -> list[str]:
    """Return the files below ``folder`` that end in ``end``: relative paths without that end."""
    above = len(str(folder / "x")) - 1
    return [
        os.path.join(place, name)[above : -len(end)]
        for place, names in walk(folder)
        for name in names
        if name.endswith(end) and not name.startswith(".")
    ]


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of one kind of dataset.

    Attributes:
        find_pairs: (folder of images, annotations) -> pairs, whether or not the files exist.
        classes: number of classes.
        first: value of the first class in the files; if it is 1, pixels of value 0 are ignored.
    """

    find_pairs: Callable[[Path, Path], Pairs]
    classes: int
    first: int = 0


# Kind of a set -> its label maps
SEGMENTATION: dict[str, LabelMaps] = {
    "ade20k": LabelMaps(ade20k_pairs, 150, first=1),  # SceneParsing; 0: other objects
    "cityscapes_seg": LabelMaps(cityscapes_pairs, len(CLASSES)),  # train ids
    "voc_seg": LabelMaps(voc_pairs, 21),  # 0: background
}


def find_pairs(entry: DetectionSet, data_root: Path) -> Pairs:
    """Return the pairs of a set, whether or not the files exist.

    Raises:
        UserError: a folder or list cannot be read.
    """
    find = SEGMENTATION[entry.kind].find_pairs
    return find(data_root / entry.images, data_root / entry.annotations)


def require_pairs(entry: DetectionSet, data_root: Path) -> Pairs:
    """Return the pairs of a set, whose files all exist.

    Raises:
        UserError: there are no pairs, or an image or a label map is missing.
    """
    pairs = find_pairs(entry, data_root)
    if not pairs:
        raise UserError(
            f"{data_root / entry.annotations} has no label maps; download it again", "data.empty"
        )
    # by kind of file, so that each folder is listed once
    missing = find_missing(path for paths in zip(*pairs, strict=True) for path in paths)
    if missing:
        hint = "restore them"
        if missing[0].endswith(TRAIN_IDS_FILE):
            hint = "create them with csCreateTrainIdLabelImgs of the package cityscapesScripts"
        raise UserError(
            f"every image of {entry.name} needs a label map and vice versa, but {len(missing)} "
            f"files are missing: {join_first(missing)}; {hint}",
            "data.missing",
        )
    return pairs


def read_labels(path: str, kind: str) -> np.ndarray:
    """Read a label map: (height, width) uint8 of class indices from 0, or ``IGNORED``.

    Args:
        kind: key of ``SEGMENTATION``.

    Raises:
        UserError: it cannot be decoded, has several channels, or has other values.
    """
    maps = SEGMENTATION[kind]
    labels = load_indices(path)
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    last = maps.first + maps.classes - 1
    ignored = maps.first - 1 if maps.first else IGNORED
    invalid = [str(v) for v in values if v != ignored and not maps.first <= v <= last]
    if invalid:
        raise UserError(
            f"{path}: expected the values {maps.first} to {last} and {ignored} (ignored), found "
            f"{join_first(invalid)}; restore it",
            "data.annotation",
        )
    return labels - np.uint8(maps.first)  # modulo 256: 0 becomes 255


def describe_labels(pairs: Sequence[tuple[str, str]], kind: str) -> list[tuple[int, int, str]]:
    """Read label maps in threads; return height, width and SHA-256 of each.

    Raises:
        UserError: one cannot be decoded, or has invalid values.
    """

    def describe(pair: tuple[str, str]) -> tuple[int, int, str]:
        labels = read_labels(pair[1], kind)
        return *labels.shape, hashlib.sha256(labels.tobytes()).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # zlib releases the GIL
        return list(pool.map(describe, pairs))
