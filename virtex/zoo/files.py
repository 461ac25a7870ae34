"""Download the files of zoo entries to the cache, and copy them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from virtex.checkpoints.download import cached_path, download
from virtex.errors import UserError
from virtex.files import replace_file, sha256_of
from virtex.zoo.entries import Entry


def fetch_entry(entry: Entry) -> Path:
    """Return the file of a zoo entry in the cache, downloaded once.

    Raises:
        CheckpointError: it could not be downloaded, or does not have the hash or size of the entry.
    """
    return download(entry.urls, cached_file(entry), entry.sha256, entry.size)


def copy_entry(entry: Entry, folder: Path) -> Path:
    """Copy the file of a zoo entry to a folder, which is created.

    Raises:
        UserError: it could not be downloaded or written, or a different file exists there.
    """
    cached, path = fetch_entry(entry), folder / entry.file
    try:
        if path.exists():
            if path.is_file() and sha256_of(path) == sha256_of(cached):
                return path
            raise UserError(
                f"{path} exists and is not {entry.name}; choose another folder", "zoo.output"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with open(cached, "rb") as source:
            replace_file(path, lambda file: shutil.copyfileobj(source, file, 1 << 20))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder",
            "zoo.output",
        ) from error
    return path


def cached_file(entry: Entry) -> Path:
    """Return the cache path of a zoo entry's file, which may not exist yet."""
    path = cached_path(entry.urls[0])
    if path.name == entry.file:
        return path
    # files of other URLs may have the same name
    return path.parent / hashlib.sha256(path.name.encode()).hexdigest()[:12] / entry.file
