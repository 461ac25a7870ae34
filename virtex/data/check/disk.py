"""The folders below a data root. Each is listed once, whatever asks; no image is touched."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from virtex.errors import UserError

# torchvision's IMG_EXTENSIONS, which take seconds to import; a test keeps the two the same
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
DEPTH, WIDTH = 5, 100  # of the outline: folders below each other; entries of a folder


class Listing(NamedTuple):
    """The names in a folder; a link is what it points at, and nothing if that is not there."""

    files: frozenset[str]
    folders: frozenset[str]


class Disk:
    """What lies below ``root``; all paths are relative to it and have "/" between their parts."""

    def __init__(self, root: Path):
        self.root = root
        self._listings: dict[str, Listing] = {}

    @property
    def listed(self) -> int:
        """How many folders have been listed."""
        return len(self._listings)

    def listing(self, folder: str) -> Listing:
        """What lies in a folder; nothing where there is none.

        Raises:
            UserError: it may not be read.
        """
        if folder not in self._listings:
            self._listings[folder] = self._scan(folder)
        return self._listings[folder]

    def _scan(self, folder: str) -> Listing:
        path = self.root / folder
        if not path.is_dir():
            return Listing(frozenset(), frozenset())
        try:
            with os.scandir(path) as entries:
                names: dict[bool, list[str]] = {True: [], False: []}
                for entry in entries:
                    if (is_folder := entry.is_dir()) or entry.is_file():
                        names[is_folder].append(entry.name)
        except OSError as error:
            raise UserError(
                f"the folder {path} cannot be listed ({error.strerror}); let yourself read it"
            ) from error
        return Listing(frozenset(names[False]), frozenset(names[True]))

    def has(self, file: str) -> bool:
        folder, _, name = file.rpartition("/")
        return name in self.listing(folder).files

    def images(self, folder: str) -> Iterator[str]:
        """The images in a folder, by their suffix."""
        for name in sorted(self.listing(folder).files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield f"{folder}/{name}"

    def all_images(self, folder: str) -> Iterator[str]:
        """The images in a folder and in all folders below it."""
        yield from self.images(folder)
        for name in sorted(self.listing(folder).folders):
            yield from self.all_images(f"{folder}/{name}")

    @cached_property
    def outline(self) -> list[str]:
        """All files and folders but the data themselves, those that lie highest first.

        A folder with many entries is one of data, whose entries are left out.
        """
        found, level = [], [""]
        for _ in range(DEPTH):
            below = []
            for folder in level:
                if not os.access(self.root / folder, os.R_OK | os.X_OK):
                    continue
                files, folders = self.listing(folder)
                if not folder or len(files) + len(folders) <= WIDTH:
                    found += [f"{folder}/{name}".lstrip("/") for name in sorted(files | folders)]
                    below += [f"{folder}/{name}".lstrip("/") for name in sorted(folders)]
            level = below
        return found
