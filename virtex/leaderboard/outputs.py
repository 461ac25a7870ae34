"""Output files: all are known to be writable before the first is written, each at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from virtex.errors import UserError
from virtex.files import replace_file
from virtex.records import RECORD_NAME


def check_outputs(paths: Sequence[Path]) -> None:
    """Make the folders of files that are to be written.

    Raises:
        UserError: a path cannot be written, is named twice, or would replace a record.
    """
    for number, path in enumerate(paths):
        if os.path.realpath(path) in map(os.path.realpath, paths[:number]):
            raise UserError(f"{path} is named for two outputs; give each a file of its own")
        if path.name == RECORD_NAME:
            raise UserError(f"{path} is what a result is called; name another file")
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file that can be replaced; name another")
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be written (no permission for its folder)")


def write(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of ``path``, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        replace_file(path, lambda file: file.write(content))
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); name another file")
