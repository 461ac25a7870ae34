"""Images on disk with class labels, and their fingerprints for records."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from virtex.errors import UserError
from virtex.files import describe_missing, find_missing

if TYPE_CHECKING:
    from torch import Tensor

PURPOSE = int.from_bytes(b"fraction", "little")  # a random stream of its own


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split and their labels, in an order that never changes.

    Attributes:
        name: the name in records, for instance "imagenet_val".
        root: the folder that ``files`` are relative to.
        files: relative paths, with "/" between their parts.
        labels: (images,) int64, from 0 to classes - 1; or (images, classes) int8 of -1 (absent),
            0 (difficult) and 1 (present).
        class_names: one per class.
    """

    name: str
    root: Path
    files: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels):
            raise ValueError(f"{len(self.files)} files do not fit {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / self.files[index]

    def load(self, index: int) -> "Tensor":
        """Return an image as RGB, (3, height, width) uint8.

        Raises:
            UserError: it cannot be decoded.
        """
        from virtex.data.decoding import decode_image  # imports torch

        return decode_image(self.path(index))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Return the images at ``indices``, in that order, with all classes."""
        files = [self.files[index] for index in indices]
        return replace(self, files=files, labels=self.labels[np.asarray(indices, dtype=np.int64)])

    def fingerprint(self) -> dict[str, Any]:
        """Return ``images`` (their number) and ``sha256``, which identify files and their order.

        The hash covers relative names, sizes in bytes and modification times, but neither labels
        nor the root: a copy that preserves times has the same. No file is opened.

        Raises:
            UserError: an image has been removed.
        """
        return {"images": len(self), "sha256": self._hashes["with times"]}

    def describe(self) -> dict[str, Any]:
        """Return sizes and hashes for a record, the same for every copy of the data.

        ``files_sha256`` covers the images' names and sizes, ``annotations_sha256`` the labels, in
        the images' order, and the classes' names.

        Raises:
            UserError: as ``fingerprint``.
        """
        digest = hashlib.sha256(json.dumps([self.labels.shape, list(self.class_names)]).encode())
        digest.update(self.labels.astype("<i8").tobytes())  # the same on every machine
        return {
            "images": len(self),
            "classes": len(self.class_names),
            "files_sha256": self._hashes["without"],
            "annotations_sha256": digest.hexdigest(),
        }

    @functools.cached_property  # os.stat of a million files on a network disk
    def _hashes(self) -> dict[str, str]:
        return file_hashes(self.root, self.files)


class Pixels(Protocol):
    """Maps the index of an image to its RGB pixels, (height, width, 3) uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class PackedImageSet(ImageSet):
    """Images of which a file contains many, such as CIFAR's.

    Attributes:
        files: identify the images in messages and hashes, for example "test_batch[17]".
        archives: the files on disk, relative to ``root``, whose names, sizes and times are hashed.
        pixels: of all images in the archives.
        rows: (images,) int64, indices of the images in ``pixels``.
    """

    archives: Sequence[str]
    pixels: Pixels
    rows: np.ndarray

    def load(self, index: int) -> "Tensor":
        import torch

        pixels = np.array(self.pixels[self.rows[index]])  # contiguous, and not the archive's memory
        return torch.from_numpy(pixels).permute(2, 0, 1)  # channels last, as decode_image's

    def subset(self, indices: Sequence[int] | np.ndarray) -> "PackedImageSet":
        chosen = np.asarray(indices, dtype=np.int64)
        files = [self.files[index] for index in chosen]
        return replace(self, files=files, labels=self.labels[chosen], rows=self.rows[chosen])

    @functools.cached_property
    def _hashes(self) -> dict[str, str]:
        names = json.dumps(list(self.files))
        return {
            kind: hashlib.sha256(f"{digest}\0{names}".encode()).hexdigest()
            for kind, digest in file_hashes(self.root, self.archives).items()
        }


def file_hashes(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Return SHA-256 of names and sizes of ``files``, "with times" of modification and "without".

    Raises:
        UserError: an image has been removed.
    """
    with_times, without = hashlib.sha256(), hashlib.sha256()
    for file in files:
        path = os.path.join(root, file)
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(
                f"cannot read the image {path}: {error.strerror}; restore it", "data.image"
            ) from error
        entry = b"%s\0%d\0" % (os.fsencode(file), found.st_size)
        without.update(entry)
        with_times.update(b"%s%d\0" % (entry, found.st_mtime_ns))
    return {"with times": with_times.hexdigest(), "without": without.hexdigest()}


def require_images(images: ImageSet, source: str | Path) -> ImageSet:
    """Return ``images`` if there are any and all files exist.

    Raises:
        UserError: ``source`` lists no image, or files are missing.
    """
    if not len(images):
        raise UserError(f"{source} lists no image; download or write it again", "data.empty")
    root = str(images.root)
    missing = find_missing(f"{root}/{file}" for file in images.files)
    if missing:
        raise UserError(f"{describe_missing(missing, source)}; restore them", "data.missing_images")
    return images


def balanced_fraction(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return ascending indices of a random fraction of every class, at least one image of each.

    With the same seed, a smaller fraction is a subset of a larger one.

    Args:
        labels: (images,), integers >= 0.
        fraction: in (0, 1]; of a class of n images, round(fraction · n) are taken.

    Returns:
        (taken,) int64.

    Raises:
        UserError: ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"the fraction of images must be in (0, 1], not {fraction}; "
            "give for instance 0.01 for 1 percent",
            "arguments.invalid",
        )
    entropy = np.random.SeedSequence([PURPOSE, seed])
    order = np.random.default_rng(entropy).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, each at random
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = np.maximum(1, np.rint(fraction * counts))
    return np.sort(order[place < taken[labels[order]]])
