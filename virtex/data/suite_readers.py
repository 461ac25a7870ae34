"""Readers of the datasets in ``virtex.data.suite_sets``, based on torchvision's dataset classes.

torchvision finds the images and labels, in the order of the published files, and verifies the MD5
of archives before unpickling them. Nothing is downloaded.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from virtex.data.image_sets import ImageSet, PackedImageSet, Pixels
from virtex.data.suite_sets import Splits
from virtex.data.suite_splits import SEED, hold_out, make_splits
from virtex.data.voc import read_text, read_voc07
from virtex.errors import UserError
from virtex.files import describe_folder, list_folder

RESTORE = "restore it from the published archive"
CALTECH_TRAIN_IMAGES = 30  # per class, where ssl-transfer's split files are missing
PCAM_CLASSES = ("no tumor", "tumor")
DIGITS = tuple("0123456789")
TRAIN_TEST, TRAIN_VAL_TEST = ("train", "test"), ("train", "val", "test")

# torchvision's datasets --------------------------------------------------------------------------


def open_data(kind: Callable[..., Any], folder: Path, *args: Any, **options: Any) -> Any:
    """Return a dataset of torchvision, ``kind(*args, **options)``.

    Args:
        folder: where it is on disk, for messages.

    Raises:
        UserError: files are missing, corrupt or inconsistent.
    """
    name = getattr(kind, "__name__", "")
    try:
        return kind(*args, **options)
    except UserError:  # of a signal handler
        raise
    except FileNotFoundError as error:
        if error.errno is None:  # torchvision's own: a class folder without images
            raise UserError(f"{folder}: {error}; {RESTORE}", "data.class_folders") from error
        raise UserError(f"{error.filename} was not found; {RESTORE}", "data.missing") from error
    except RuntimeError as error:  # torchvision's "Dataset not found or corrupted"
        raise UserError(
            f"{folder} must contain the files that torchvision's {name} reads, unchanged, but it "
            f"{describe_folder(folder)}, and files are missing or corrupt; {RESTORE}",
            "data.missing",
        ) from error
    except Exception as error:  # of any type, from a corrupt pickle or .mat file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"cannot read {name} in {folder} ({type(error).__name__}: {error}); {RESTORE}",
            "data.annotations",
        ) from error


def image_set(name: str, folder: Path, data: Any, classes: Sequence[str] = ()) -> ImageSet:
    """Return the image files of a dataset of torchvision.

    Args:
        folder: contains all of them.
        classes: class names, if ``data`` has no ``classes``.
    """
    if hasattr(data, "_labels"):
        paths = data._images if hasattr(data, "_images") else data._image_files
        labels = data._labels
    else:
        samples = data._samples if hasattr(data, "_samples") else data.samples
        paths, labels = [path for path, _ in samples], [label for _, label in samples]
    files = [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]
    classes = classes or data.classes
    return ImageSet(name, folder, files, np.asarray(labels, dtype=np.int64), list(classes))


def packed_set(
    name: str,
    folder: Path,
    archives: Sequence[str],
    pixels: Pixels,
    labels: Any,
    classes: Sequence[str],
) -> PackedImageSet:
    """Return all images of archives.

    Args:
        archives: names of files in ``folder``, each with the same number of images.

    Raises:
        UserError: the numbers of images and labels differ.
    """
    labels = np.asarray(labels, dtype=np.int64)
    count = len(labels)
    if len(pixels) != count:
        raise UserError(
            f"{archives[0]} in {folder} must contain an image for each of {count} labels, but "
            f"contains {len(pixels)}; {RESTORE}",
            "data.annotations",
        )
    each = max(1, -(-count // len(archives)))
    files = [f"{archives[row // each]}[{row % each}]" for row in range(count)]
    rows = np.arange(count)
    return PackedImageSet(name, folder, files, labels, list(classes), archives, pixels, rows)


# Readers -----------------------------------------------------------------------------------------


def read_files(
    kind: Callable[..., Any], name: str, folder: str, splits: Sequence[str], data_root: Path
) -> Splits:
    """Read a dataset of image files.

    Args:
        kind: dataset class of torchvision.
        folder: in the data root.
        splits: torchvision's names of train and test, or of train, validation and test.
    """
    root = data_root / folder
    opened = (open_data(kind, root, data_root, split=split) for split in splits)
    return make_splits([image_set(name, root, data) for data in opened], name)


def read_food101(data_root: Path) -> Splits:
    """Read Food-101 class by class, as ssl-transfer: the held-out images depend on the order."""
    root = data_root / "food-101"
    sets = []
    for split in TRAIN_TEST:
        images = image_set(
            "food101", root, open_data(datasets.Food101, root, data_root, split=split)
        )
        sets.append(images.subset(np.argsort(images.labels, kind="stable")))
    return make_splits(sets, "food101")


def read_gtsrb(data_root: Path) -> Splits:
    """Read GTSRB, whose classes have the names of the folders of its training images."""
    root = data_root / "gtsrb"
    train, test = (open_data(datasets.GTSRB, root, data_root, split=s) for s in TRAIN_TEST)
    classes = sorted(list_folder(root / "GTSRB" / "Training").folders)
    return make_splits([image_set("gtsrb", root, data, classes) for data in (train, test)], "gtsrb")


def read_sun397(data_root: Path) -> Splits:
    """Read the first of the ten published partitions of SUN397; torchvision has none.

    ``ClassName.txt``, ``Training_01.txt`` and ``Testing_01.txt`` of the partitions are in
    ``SUN397/``; they contain lines such as "/a/abbey" and "/a/abbey/sun_aaalbzqrimafwbiv.jpg".
    """
    root = data_root / "SUN397"
    folders = read_lines(root / "ClassName.txt")
    number_of = {folder: number for number, folder in enumerate(folders)}
    classes = [folder[3:] for folder in folders]
    sets = []
    for list_name in ("Training_01.txt", "Testing_01.txt"):
        files = read_lines(root / list_name)
        labels = [number_of.get(file.rpartition("/")[0], -1) for file in files]
        images = [file.lstrip("/") for file in files]
        sets.append(ImageSet("sun397", root, images, np.array(labels, dtype=np.int64), classes))
    return make_splits(sets, "sun397")


def read_caltech101(data_root: Path) -> Splits:
    """Read Caltech-101 with its background class, as ssl-transfer does.

    ssl-transfer's ``train.txt`` and ``test.txt`` (from caltech101-splits) are used if they are in
    ``caltech101/``; otherwise 30 random images of each class, at most all but one, are for training
    and the others for testing.
    """
    root = data_root / "caltech101"
    folder = root / "101_ObjectCategories"
    full = image_set("caltech101", root, open_data(datasets.ImageFolder, folder, folder))
    lists = [root / "train.txt", root / "test.txt"]
    if not any(path.exists() for path in lists):
        generator = np.random.RandomState(SEED)
        is_train = np.zeros(len(full), dtype=bool)
        for label in range(len(full.class_names)):
            own = generator.permutation(np.flatnonzero(full.labels == label))
            is_train[own[: min(CALTECH_TRAIN_IMAGES, len(own) - 1)]] = True
        parts = (np.flatnonzero(is_train), np.flatnonzero(~is_train))
        return make_splits([full.subset(part) for part in parts], "caltech101")
    return make_splits([read_caltech_list(path, full) for path in lists], "caltech101")


def read_caltech_list(path: Path, full: ImageSet) -> ImageSet:
    """Read lines such as "accordion/image_0001.jpg 5", where 5 is the class's index in ``full``."""
    label_of = {name: str(label) for label, name in enumerate(full.class_names)}
    files, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        file, _, label = line.rpartition(" ")
        if label_of.get(file.partition("/")[0]) != label:
            raise UserError(
                f"{path}, line {number}: expected an image and the index of its folder in "
                f"101_ObjectCategories, from 0, found {line!r}; {RESTORE}",
                "data.annotations",
            )
        files.append(f"101_ObjectCategories/{file}")
        labels.append(int(label))
    return ImageSet(
        "caltech101", full.root, files, np.array(labels, dtype=np.int64), full.class_names
    )


def read_eurosat(data_root: Path) -> Splits:
    """Read EuroSAT, which has no published split: a random fifth of all images is for testing."""
    root = data_root / "eurosat"
    full = image_set("eurosat", root, open_data(datasets.EuroSAT, root, data_root))
    return make_splits(hold_out(full), "eurosat")


def read_voc2007(data_root: Path) -> Splits:
    """Read VOC2007's train, val and test, with labels of several classes per image."""
    return make_splits([read_voc07(data_root, split) for split in TRAIN_VAL_TEST], "voc_2007")


def read_cifar(kind: Any, name: str, data_root: Path) -> Splits:
    """Read CIFAR-10 or CIFAR-100 (fine labels), torchvision's class ``kind``."""
    root = data_root / kind.base_folder
    sets = []
    for files, is_train in ((kind.train_list, True), (kind.test_list, False)):
        data = open_data(kind, root, data_root, train=is_train)
        archives = [file for file, _ in files]
        sets.append(packed_set(name, root, archives, data.data, data.targets, data.classes))
    return make_splits(sets, name)


def read_svhn(data_root: Path) -> Splits:
    """Read SVHN's cropped digits, without its extra training images."""
    root = data_root / "svhn"
    sets = []
    for split in TRAIN_TEST:
        data = open_data(datasets.SVHN, root, root, split=split)
        pixels = data.data.transpose(0, 2, 3, 1)
        sets.append(packed_set("svhn", root, [data.filename], pixels, data.labels, DIGITS))
    return make_splits(sets, "svhn")


class LabeledSTL10(datasets.STL10):
    """STL-10 without the MD5 of its 2.6 GB of unlabeled images, which are not read."""

    train_list = datasets.STL10.train_list[:2]


def read_stl10(data_root: Path) -> Splits:
    """Read STL-10's labeled images, of which all 5,000 training images are used, not folds."""
    root = data_root / LabeledSTL10.base_folder
    classes = read_lines(root / LabeledSTL10.class_names_file)
    sets = []
    for split in TRAIN_TEST:
        data = open_data(LabeledSTL10, root, data_root, split=split)
        pixels = data.data.transpose(0, 2, 3, 1)
        sets.append(packed_set("stl10", root, [f"{split}_X.bin"], pixels, data.labels, classes))
    return make_splits(sets, "stl10")


class HDF5Pixels:
    """Reads images from an HDF5 file one by one: PCam has 9 GB of them."""

    def __init__(self, path: Path):
        self.path = path

    def __len__(self) -> int:
        import h5py

        with h5py.File(self.path, "r") as file:
            return len(file["x"])

    def __getitem__(self, row: int) -> np.ndarray:
        import h5py

        with h5py.File(self.path, "r") as file:  # opened here, as processes cannot share it
            return file["x"][row]


def read_pcam(data_root: Path) -> Splits:
    """Read PatchCamelyon.

    Raises:
        UserError: as the other readers; or h5py is not installed.
    """
    if find_spec("h5py") is None:
        raise UserError(
            "PCam's files are HDF5, which requires h5py; pip install h5py",
            "environment.missing_package",
        )
    import h5py

    root = data_root / "pcam"
    sets = []
    for split in TRAIN_VAL_TEST:
        open_data(datasets.PCAM, root, data_root, split=split)  # raises if files are missing
        images, targets = (datasets.PCAM._FILES[split][key][0] for key in ("images", "targets"))
        with open_data(h5py.File, root, root / targets, "r") as file:
            labels = file["y"][:].reshape(-1)  # from (images, 1, 1, 1)
        sets.append(
            packed_set("pcam", root, [images], HDF5Pixels(root / images), labels, PCAM_CLASSES)
        )
    return make_splits(sets, "pcam")


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file, without surrounding whitespace.

    Raises:
        UserError: it cannot be read.
    """
    text = read_text(path, RESTORE)
    return [line.strip() for line in text.splitlines() if line.strip()]


READERS: Mapping[str, Callable[[Path], Splits]] = {
    "food101": read_food101,
    "cifar10": partial(read_cifar, datasets.CIFAR10, "cifar10"),
    "cifar100": partial(read_cifar, datasets.CIFAR100, "cifar100"),
    "sun397": read_sun397,
    "cars": partial(read_files, datasets.StanfordCars, "cars", "stanford_cars", TRAIN_TEST),
    "aircraft": partial(
        read_files, datasets.FGVCAircraft, "aircraft", "fgvc-aircraft-2013b", TRAIN_VAL_TEST
    ),
    "voc2007": read_voc2007,
    "dtd": partial(read_files, datasets.DTD, "dtd", "dtd/dtd", TRAIN_VAL_TEST),
    "pets": partial(
        read_files, datasets.OxfordIIITPet, "pets", "oxford-iiit-pet", ("trainval", "test")
    ),
    "caltech101": read_caltech101,
    "flowers102": partial(
        read_files, datasets.Flowers102, "flowers102", "flowers-102", TRAIN_VAL_TEST
    ),
    "eurosat": read_eurosat,
    "gtsrb": read_gtsrb,
    "pcam": read_pcam,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "country211": partial(
        read_files, datasets.Country211, "country211", "country211", ("train", "valid", "test")
    ),
}
