"""Find the images to caption: COCO val2017 with its references, or the user's own images."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from virtex.data.captions import read_captions
from virtex.data.image_sets import file_hashes
from virtex.errors import UserError
from virtex.files import describe_folder

COCO_VAL = "coco_captions_val2017"
CUSTOM = "images"
SETTING = re.compile(r"[A-Z]+(\.[A-Z_]+)+")


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
    """Find the images of ``--images``: files, and folders that are searched recursively.

    In folders, images are recognized by their suffix. If all file names are distinct numbers, as
    in COCO, these are the ids, otherwise the relative paths.

    Raises:
        UserError: a path does not exist, or a folder contains no image.
    """
    paths: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        found = [path] if path.is_file() else _find_below(path)
        if not found and SETTING.fullmatch(name):
            raise UserError(
                f"--images expects images and folders, but got the setting {name}; put settings "
                "before --images",
                code="arguments.misplaced_setting",
            )
        if not found:
            raise UserError(
                f"--images: {path} {describe_folder(path)}; expected images, or a folder of images "
                f"({', '.join(IMG_EXTENSIONS)})",
                code="data.no_images",
            )
        paths.update(dict.fromkeys(Path(os.path.abspath(file)) for file in found))
    folders = [str(path.parent) for path in paths]
    root = Path(os.path.commonpath(folders))
    files = [path.relative_to(root).as_posix() for path in paths]
    stems = [path.stem for path in paths]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    numbered = len(set(numbers)) == len(paths)
    return CaptioningImages(CUSTOM, root, files, numbers if numbered else files)


def _find_below(folder: Path) -> list[Path]:
    """Return the files with an image suffix below a folder, sorted."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
    ]
