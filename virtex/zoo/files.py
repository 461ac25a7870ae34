"""The files of the zoo's entries: where the cache keeps them, and how they come there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from virtex.checkpoints.download import cached_path, download
from virtex.errors import UserError
from virtex.files import replace_file, sha256_of
from virtex.zoo.entries import Entry


def fetch_entry(entry: Entry) -> Path:
    """The file of a zoo entry in the cache, downloaded once.

    Raises:
        CheckpointError: it cannot be had, or is not the one that the entry describes.
    """
    return download(entry.urls, cached_file(entry), entry.sha256, entry.size)


def copy_entry(entry: Entry, folder: Path) -> Path:
    """A copy of the file of a zoo entry, in a folder that is made.

    Raises:
        UserError: it cannot be had or written, or another file of that name is there.
    """
    cached, path = fetch_entry(entry), folder / entry.file
    try:
        if path.exists():
            if path.is_file() and sha256_of(path) == sha256_of(cached):
                return path
            raise UserError(f"{path} is there, and is not {entry.name}; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with open(cached, "rb") as source:
            replace_file(path, lambda file: shutil.copyfileobj(source, file, 1 << 20))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); name another folder"
        ) from error
    return path


def cached_file(entry: Entry) -> Path:
    """Where the cache keeps the file of a zoo entry, whether it is there or not."""
    path = cached_path(entry.urls[0])
    if path.name == entry.file:
        return path
    # beside it, files of other addresses may be called the same
    return path.parent / hashlib.sha256(path.name.encode()).hexdigest()[:12] / entry.file
