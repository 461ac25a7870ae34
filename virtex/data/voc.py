"""Pascal VOC's classes, and the image labels of VOC2007.

``VOC2007/ImageSets/Main`` contains a list of images for each split, ``<split>.txt``, and for each
class a file ``<class>_<split>.txt`` of lines ``<image> <label>``: 1 if the class is in the
image, -1 if it is not, 0 if all its objects are difficult.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from virtex.data.image_sets import ImageSet, require_images
from virtex.errors import UserError
from virtex.files import find_missing, is_path_below, read_file
from virtex.text import join_first, truncate

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LABELS = {"-1": -1, "0": 0, "1": 1}
REMEDY = "restore it from VOCdevkit"


def read_voc07(data_root: Path, split: str) -> ImageSet:
    """Read a split of VOC2007 in the order of ``<split>.txt``, which determines the folds.

    Args:
        data_root: contains ``VOC2007/``.
        split: "trainval" or "test".

    Returns:
        labels are (images, 20) int8 of -1, 0 and 1, classes in the order of ``VOC_CLASSES``.

    Raises:
        UserError: files are missing, invalid or inconsistent, or images are missing.
    """
    root = Path(data_root, "VOC2007")
    lists = root / "ImageSets" / "Main"
    listed = lists / f"{split}.txt"
    stems = read_stems(listed)
    files = [str(lists / f"{name}_{split}.txt") for name in VOC_CLASSES]
    _require_label_files(files)
    columns = [_read_labels(Path(file), listed, stems) for file in files]
    images = ImageSet(
        f"voc_2007_{split}",
        root,
        [f"JPEGImages/{stem}.jpg" for stem in stems],
        np.stack(columns, axis=1),
        VOC_CLASSES,
    )
    return require_images(images, listed)


def is_stem(word: str) -> bool:
    """Return whether ``word`` can be a file name without suffix; a byte order mark cannot."""
    return "/" not in word and is_path_below(word) and word.isprintable()


def read_stems(path: Path) -> list[str]:
    """Read the list of a split: one image per line, a file name without folder and suffix.

    Raises:
        UserError: the list cannot be read, a line is invalid, or an image is listed twice.
    """
    stems: dict[str, int] = {}
    for number, words in _lines(path):
        if len(words) != 1 or not is_stem(words[0]):
            raise _line_error(path, number, f"expected the name of one image, found {words}")
        _put(stems, words[0], number, path, number)
    return list(stems)


def _require_label_files(files: list[str]) -> None:
    missing = find_missing(files)
    if missing:
        names = join_first([Path(file).name for file in missing])
        raise UserError(
            f"{Path(files[0]).parent} must contain {len(files)} files of labels, but "
            f"{len(missing)} are missing: {names}; restore them from VOCdevkit",
            "data.missing",
        )


def _read_labels(path: Path, listed: Path, stems: list[str]) -> np.ndarray:
    """Return the labels of a class in the order of ``stems``: (images,) int8."""
    labels: dict[str, int] = {}
    for number, words in _lines(path):
        if len(words) != 2 or words[1] not in LABELS or not is_stem(words[0]):
            raise _line_error(path, number, f"expected an image and -1, 0 or 1, found {words}")
        _put(labels, words[0], LABELS[words[1]], path, number)
    _require_same(path, labels, listed, stems)
    return np.array([labels[stem] for stem in stems], dtype=np.int8)


def _require_same(path: Path, labels: dict[str, int], listed: Path, stems: list[str]) -> None:
    known = set(stems)
    missing = [stem for stem in stems if stem not in labels]
    unknown = [stem for stem in labels if stem not in known]
    if missing or unknown:
        raise UserError(
            f"{path} must list the images of {listed.name}, but {len(missing)} are missing "
            f"({join_first(missing)}) and {len(unknown)} unknown ({join_first(unknown)}); "
            "restore both files from VOCdevkit",
            "data.annotations",
        )


def _put(found: dict[str, int], stem: str, value: int, path: Path, number: int) -> None:
    if stem in found:
        raise _line_error(path, number, f"the image {stem} is listed twice")
    found[stem] = value


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a file of a dataset.

    Args:
        remedy: the end of the error message: how to fix the file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return read_file(path).decode()
    except OSError as error:
        code = "data.missing" if isinstance(error, FileNotFoundError) else "data.unreadable"
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}", code) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; {remedy}", "data.annotations") from error


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number (from 1) and words of the lines that are not empty.

    Raises:
        UserError: the file cannot be read.
    """
    text = read_text(path, REMEDY)
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        words = line.split()
        if words:
            yield number, words


def _line_error(path: Path, number: int, problem: str) -> UserError:
    problem = truncate(problem, 120)
    return UserError(f"{path}, line {number}: {problem}; {REMEDY}", "data.annotations")
