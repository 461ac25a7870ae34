"""The folders below a data root. Each is listed once, whatever asks; no image is touched."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from virtex.data.listing import Listing, list_folder
from virtex.errors import UserError

# torchvision's IMG_EXTENSIONS, which take seconds to import; a test keeps the two the same
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# of the outline: folders below each other; entries of a folder; folders that are listed
DEPTH, WIDTH, FOLDERS = 5, 100, 5000

Identity = tuple[int, int]  # a folder's device and inode: the same, whatever links lead to it


class Tree(NamedTuple):
    """A folder and all below it.

    Attributes:
        folders: it and those below, each before what is in it.
        loops: links back to a folder that they lie in; they are not followed.
        closed: folders that may not be read -> a sentence that says so.
    """

    folders: list[str]
    loops: list[str]
    closed: dict[str, str]


class Disk:
    """What lies below ``root``; all paths are relative to it and have "/" between their parts.

    Attributes:
        cut: whether the outline has ended before all folders were listed.
    """

    def __init__(self, root: Path):
        self.root = root
        self.cut = False
        self._listings: dict[str, Listing] = {}
        self._trees: dict[str, Tree] = {}

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
            self._listings[folder] = list_folder(self.root / folder)
        return self._listings[folder]

    def seen(self, folder: str) -> Listing:
        """What lies in a folder; nothing where there is none, or where it may not be read."""
        try:
            return self.listing(folder)
        except UserError:
            return Listing(frozenset(), frozenset())

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
        for below in self.tree(folder).folders:
            yield from self.images(below)

    def tree(self, folder: str) -> Tree:
        if folder not in self._trees:
            tree = self._trees[folder] = Tree([], [], {})
            self._walk(folder, frozenset(filter(None, map(identity, self._above(folder)))), tree)
        return self._trees[folder]

    def _above(self, folder: str) -> Iterator[Path]:
        """The folders that a folder lies in: by its path, and where links lead."""
        yield from (self.root / parent for parent in Path(folder).parents)
        yield from Path(os.path.realpath(self.root)).parents
        yield from Path(os.path.realpath(self.root / folder)).parents

    def _walk(self, folder: str, above: frozenset[Identity], tree: Tree) -> None:
        here = identity(self.root / folder)
        if here is None:
            return
        if here in above:
            tree.loops.append(folder)
            return
        try:
            names = self.listing(folder).folders
        except UserError as error:
            tree.closed[folder] = str(error)
            return
        tree.folders.append(folder)
        for name in sorted(names):
            self._walk(f"{folder}/{name}", above | {here}, tree)

    @cached_property
    def outline(self) -> list[str]:
        """All files and folders but the data themselves, those that lie highest first.

        A folder with many entries is one of data, whose entries are left out. Of a data root that
        is none (a home folder) only the first ``FOLDERS`` folders are listed.
        """
        found: list[str] = []
        level, listed = [""], 0
        for _ in range(DEPTH):
            below = []
            for folder in level:
                if listed == FOLDERS:
                    self.cut = True
                    return found
                listed += 1
                files, folders = self.seen(folder)
                if not folder or len(files) + len(folders) <= WIDTH:
                    found += [f"{folder}/{name}".lstrip("/") for name in sorted(files | folders)]
                    below += [f"{folder}/{name}".lstrip("/") for name in sorted(folders)]
            level = below
        return found


def identity(folder: Path) -> Identity | None:
    """None where it is out of reach."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
