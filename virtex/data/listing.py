"""What is on disk, and how an error tells it."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from virtex.errors import UserError

# what Linux can hold, of a path that is joined with a data root's; in characters and in bytes
LONGEST_PATH, LONGEST_NAME = 2000, 255
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless there is a file; a pipe or a device may never come to an end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or is none (``require_file``).
    """
    require_file(path)
    with open(path, "rb") as file:
        return file.read()


def is_path_below(value: Any) -> TypeGuard[str]:
    """Whether it is a relative path that stays in its folder and that a file system can hold.

    Links are not looked at: where data lie on several disks, they rightly lead out of a folder.
    """
    if not isinstance(value, str) or CONTROL.search(value):
        return False
    try:
        parts = value.encode().split(b"/")
    except UnicodeEncodeError:  # half a character
        return False
    return len(value) <= LONGEST_PATH and all(
        part != b".." and 0 < len(part) <= LONGEST_NAME for part in parts
    )


def is_text(value: str) -> bool:
    """Whether it can be written: JSON and YAML may hold halves of characters."""
    try:
        return bool(value.encode()) or not value
    except UnicodeEncodeError:
        return False


def shown(text: str) -> str:
    """Text for a terminal: a name may hold what is no character, or what moves the cursor."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def some_of(names: Sequence[str], count: int = 5) -> str:
    """The first ``count`` names, and a sign that there are more."""
    return ", ".join(names[:count]) + (", …" if names[count:] else "")


# what the system answers where there is no folder, but nothing, a file or a link to itself
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Listing(NamedTuple):
    """The names in a folder; a link is what it points at, and nothing if that is out of reach."""

    files: frozenset[str]
    folders: frozenset[str]


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """What lies in a folder; nothing where there is none.

    Raises:
        UserError: it may not be read.
    """
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_folder(entry):
                    folders.append(entry.name)
                elif is_file(entry):
                    files.append(entry.name)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise UserError(
                f"the folder {folder} cannot be listed ({error.strerror}); let yourself read it"
            ) from error
    return Listing(frozenset(files), frozenset(folders))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one that can be reached."""
    try:
        return entry.is_file()
    except OSError:
        return False


def contents(folder: str | os.PathLike[str], count: int = 8) -> str:
    """What a sentence about ``folder`` goes on with: "holds a/, b.txt, …", or that it cannot."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + "/" * is_folder(entry) for entry in entries)
    except FileNotFoundError:
        return "is a link to nothing" if os.path.islink(folder) else "does not exist"
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return f"holds {some_of(names, count)}" if names else "is empty"


def missing_files(files: Iterable[str]) -> list[str]:
    """Those of ``files`` that are not there, in their order.

    Each folder is listed once, which is far quicker than asking for 100 000 files.
    """
    present: dict[str, frozenset[str]] = {}
    missing = []
    for folder, paths in groupby(files, os.path.dirname):
        if folder not in present:
            present[folder] = list_folder(folder).files
        missing += [path for path in paths if os.path.basename(path) not in present[folder]]
    return missing


def say_missing(missing: Sequence[str], source: str | Path) -> str:
    """How many images of ``source`` are missing, and the first of them."""
    return f"{len(missing)} images of {source} are missing: {some_of(missing)}"
