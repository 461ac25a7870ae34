"""What identifies a file."""

import hashlib
import pathlib


def sha256_of(path: str | pathlib.Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
