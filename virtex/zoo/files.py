"""The files of the zoo's entries: where the cache keeps them, and how they come there."""

from __future__ import annotations

from pathlib import Path

from virtex.checkpoints.downloading import cached_path, download
from virtex.zoo.entries import Entry


def fetch_entry(entry: Entry, folder: Path | None = None) -> Path:
    """The file of a zoo entry, downloaded once.

    Args:
        folder: where it goes; ``None``: the cache.

    Raises:
        CheckpointError: it cannot be had, or is not the one that the entry describes.
    """
    path = folder / entry.file if folder else cached_file(entry)
    return download(entry.urls, path, entry.sha256, entry.size)


def cached_file(entry: Entry) -> Path:
    """Where the cache keeps the file of a zoo entry, whether it is there or not."""
    return cached_path(entry.urls[0]).with_name(entry.file)
