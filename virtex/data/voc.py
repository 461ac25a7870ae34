"""Pascal VOC's classes, and which of them are in the images of VOC2007.

``VOC2007/ImageSets/Main`` has a list of images for each split, ``<split>.txt``, and for each
class a file ``<class>_<split>.txt`` of lines ``<image> <label>``: 1 where the class is in the
image, -1 where it is not, 0 where all its objects are difficult to recognize.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from virtex.data.image_sets import ImageSet, require_images
from virtex.errors import UserError
from virtex.files import find_missing, is_path_below, read_file
from virtex.text import join_first

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LABELS = {"-1": -1, "0": 0, "1": 1}
REMEDY = "restore it from VOCdevkit"


def read_voc07(data_root: Path, split: str) -> ImageSet:
    """The images of a split of VOC2007 in the order of ``<split>.txt``, by which folds are cut.

    Args:
        data_root: holds ``VOC2007/``.
        split: "trainval" or "test".

    Returns:
        labels are (images, 20) int8 of -1, 0 and 1, classes in the order of ``VOC_CLASSES``.

    Raises:
        UserError: files are missing or broken, or do not agree; images are missing.
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
    """Whether it can be a file's name without its suffix; a mark of byte order is not."""
    return "/" not in word and is_path_below(word) and word.isprintable()


def read_stems(path: Path, forbid_empty_lines: bool = False) -> list[str]:
    """The images of a split, one a line, each once; names of files without folder and suffix.

    Args:
        forbid_empty_lines: refuse these too.

    Raises:
        UserError: the list cannot be read, or a line is none.
    """
    stems: dict[str, int] = {}
    for number, words in _lines(path, forbid_empty_lines):
        if len(words) != 1 or not is_stem(words[0]):
            raise UserError(
                f"{path}, line {number}: {' '.join(words)!r:.60} is not the name of one image; "
                + REMEDY
            )
        _put(stems, words[0], number, path, number)
    return list(stems)


def _require_label_files(files: list[str]) -> None:
    missing = find_missing(files)
    if missing:
        names = join_first([Path(file).name for file in missing])
        raise UserError(
            f"{Path(files[0]).parent} lacks {len(missing)} of the {len(files)} files that say in "
            f"which images a class is: {names}; restore them from VOCdevkit"
        )


def _read_labels(path: Path, listed: Path, stems: list[str]) -> np.ndarray:
    """A class's labels in the order of ``stems``: (images,) int8."""
    labels: dict[str, int] = {}
    for number, words in _lines(path):
        if len(words) != 2 or words[1] not in LABELS or not is_stem(words[0]):
            raise UserError(
                f"{path}, line {number}: {' '.join(words)!r:.60} is not an image and -1, 0 or 1; "
                + REMEDY
            )
        _put(labels, words[0], LABELS[words[1]], path, number)
    _require_same(path, labels, listed, stems)
    return np.array([labels[stem] for stem in stems], dtype=np.int8)


def _require_same(path: Path, labels: dict[str, int], listed: Path, stems: list[str]) -> None:
    known = set(stems)
    lacking = [stem for stem in stems if stem not in labels]
    unknown = [stem for stem in labels if stem not in known]
    said = []
    if lacking:
        said.append(f"lacks {len(lacking)} images ({join_first(lacking)})")
    if unknown:
        said.append(f"has {len(unknown)} others ({join_first(unknown)})")
    if said:
        raise UserError(
            f"{path} does not have the images of {listed.name}: it {' and '.join(said)}; "
            "restore both from VOCdevkit"
        )


def _put(found: dict[str, int], stem: str, value: int, path: Path, number: int) -> None:
    if stem in found:
        raise UserError(f"{path}, line {number}: the image {stem:.60} is listed twice; {REMEDY}")
    found[stem] = value


def _lines(path: Path, without_empty: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file that are not empty: number from 1 on, and words.

    Raises:
        UserError: it cannot be read; there is an empty line, and there should be none.
    """
    try:
        text = read_file(path).decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text; {REMEDY}") from error
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        words = line.split()
        if words:
            yield number, words
        elif without_empty:
            raise UserError(f"{path}, line {number} is empty; take it out")
