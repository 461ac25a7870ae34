"""Find the images to caption: COCO val2017 with its references, or the user's own images."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtex.data.captions import read_captions
from virtex.data.image_files import find_image_files
from virtex.data.image_sets import file_hashes

COCO_VAL = "coco_captions_val2017"
CUSTOM = "images"


@dataclass(frozen=True, eq=False)
class CaptioningImages:
    """Images in a fixed order.

    Attributes:
        name: of the dataset, in records.
        root: the folder that ``files`` are relative to.
        ids: in ``captions.json``: COCO's ids, or file names.
        references: the reference captions of each image; empty if there are none.
    """

    name: str
    root: Path
    files: Sequence[str]
    ids: Sequence[int | str]
    references: Sequence[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / self.files[index]

    def describe(self) -> dict[str, Any]:
        """Return counts and hashes for a record, the same for every copy of the data.

        ``files_sha256`` covers the names and sizes of the files, ``annotations_sha256`` the ids
        and references.

        Raises:
            UserError: an image is missing.
        """
        return self._described

    @functools.cached_property
    def _described(self) -> dict[str, Any]:
        content = json.dumps([list(self.ids), [list(captions) for captions in self.references]])
        return {
            "images": len(self),
            "captions": sum(map(len, self.references)),
            "files_sha256": file_hashes(self.root, self.files)["without"],
            "annotations_sha256": hashlib.sha256(content.encode()).hexdigest(),
        }


def read_coco_images(data_root: str | Path) -> CaptioningImages:
    """Read COCO val2017 with its captions.

    Raises:
        UserError: files are missing or invalid.
    """
    root = Path(data_root, "coco")
    images = read_captions(root, "val")
    folder = root / "val2017"
    return CaptioningImages(
        COCO_VAL,
        folder,
        [image.file.relative_to(folder).as_posix() for image in images],
        [image.image_id for image in images],
        [image.captions for image in images],
    )


def find_images(names: Sequence[str]) -> CaptioningImages:
    """Find the images of ``--images``, see ``find_image_files``.

    If all file names are distinct numbers, as in COCO, these are the ids, otherwise the relative
    paths.

    Raises:
        UserError: a path does not exist, or a folder contains no image.
    """
    paths = [Path(os.path.abspath(path)) for path in find_image_files(names)]
    folders = [str(path.parent) for path in paths]
    root = Path(os.path.commonpath(folders))
    files = [path.relative_to(root).as_posix() for path in paths]
    stems = [path.stem for path in paths]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    numbered = len(set(numbers)) == len(paths)
    return CaptioningImages(CUSTOM, root, files, numbers if numbered else files)
