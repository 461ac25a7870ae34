"""The pictures that are captioned: COCO's val2017 with its references, or any others."""

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
from virtex.data.listing import contents
from virtex.errors import UserError

COCO_VAL = "coco_captions_val2017"
OWN = "pictures"
SETTING = re.compile(r"[A-Z]+(\.[A-Z_]+)+")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in an order that never changes.

    Attributes:
        name: as a record says it.
        root: what ``files`` are relative to.
        ids: what results call them: COCO's numbers, or the files' names.
        references: captions by people of each, or of none.
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
        """Numbers and hashes for a record, the same for every copy of the data.

        ``files_sha256`` covers the pictures' names and sizes, ``annotations_sha256`` their ids
        and references.

        Raises:
            UserError: a picture is not there any more.
        """
        return self._described

    @functools.cached_property
    def _described(self) -> dict[str, Any]:
        said = json.dumps([list(self.ids), [list(captions) for captions in self.references]])
        return {
            "images": len(self),
            "captions": sum(map(len, self.references)),
            "files_sha256": file_hashes(self.root, self.files)["without"],
            "annotations_sha256": hashlib.sha256(said.encode()).hexdigest(),
        }


def coco_pictures(data_root: str | Path) -> Pictures:
    """COCO's val2017 with its captions.

    Raises:
        UserError: something of it is missing or broken.
    """
    root = Path(data_root, "coco")
    images = read_captions(root, "val")
    folder = root / "val2017"
    return Pictures(
        COCO_VAL,
        folder,
        [image.file.relative_to(folder).as_posix() for image in images],
        [image.image_id for image in images],
        [image.captions for image in images],
    )


def own_pictures(named: Sequence[str]) -> Pictures:
    """The pictures that are named, and those in folders and in folders of these.

    In a folder, files are pictures by their suffix; a file that is named always is one. Where
    every name is a number and no two are the same, as COCO's are, ids are these numbers.

    Raises:
        UserError: a path is not there, or a folder without pictures.
    """
    paths: dict[Path, None] = {}
    for name in named:
        path = Path(name)
        found = [path] if path.is_file() else pictures_below(path)
        if not found and SETTING.fullmatch(name):
            raise UserError(
                f"--images takes the setting {name} for a picture; let it come before --images"
            )
        if not found:
            raise UserError(
                f"--images: {path} {contents(path)}; name pictures, or a folder that holds some "
                f"({', '.join(IMG_EXTENSIONS)})"
            )
        paths.update(dict.fromkeys(Path(os.path.abspath(file)) for file in found))
    # one picture's own name is told, of several what tells them apart
    folders = [str(path.parent) for path in paths]
    root = Path(os.path.commonpath(folders))
    files = [path.relative_to(root).as_posix() for path in paths]
    stems = [path.stem for path in paths]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    plain = len(set(numbers)) == len(paths)
    return Pictures(OWN, root, files, numbers if plain else files)


def pictures_below(folder: Path) -> list[Path]:
    """The files in a folder and its folders that a suffix says are pictures, sorted."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
    ]
