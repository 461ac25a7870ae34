"""What is on disk, and how an error tells it."""

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from virtex.errors import UserError


def some_of(names: Sequence[str], count: int = 5) -> str:
    """The first ``count`` names, and a sign that there are more."""
    return ", ".join(names[:count]) + (", …" if names[count:] else "")


def contents(folder: str | os.PathLike[str], count: int = 8) -> str:
    """What a sentence about ``folder`` goes on with: "holds a/, b.txt, …", or that it cannot."""
    if not os.path.lexists(folder):
        return "does not exist"
    if not os.path.isdir(folder):
        return "is a link to nothing" if os.path.islink(folder) else "is not a folder"
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return f"holds {some_of(names, count)}" if names else "is empty"


def missing_files(files: Iterable[str]) -> list[str]:
    """Those of ``files`` that are not there, in their order.

    Each folder is listed once, which is far quicker than asking for 100 000 files.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for folder, paths in groupby(files, os.path.dirname):
        if folder not in present:
            present[folder] = _files_in(folder)
        missing += [path for path in paths if os.path.basename(path) not in present[folder]]
    return missing


def _files_in(folder: str) -> set[str]:
    if not os.path.isdir(folder):
        return set()
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be listed ({error.strerror}); let yourself read it"
        ) from error


def say_missing(missing: Sequence[str], source: str | Path) -> str:
    """How many images of ``source`` are missing, and the first of them."""
    return f"{len(missing)} images of {source} are missing: {some_of(missing)}"
