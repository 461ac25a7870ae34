"""Files that are either old or new, never half-written."""

import fcntl
import glob
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from virtex.errors import UserError

UNFINISHED = ".unfinished"


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(file)`` on a file beside ``path`` and put it in its place when it is done.

    Whatever interrupts it, ``path`` holds the old content or the whole new one. What a killed
    process left of the same file is removed first.

    Raises:
        OSError: ``path`` cannot be written; it is named.
    """
    remove_unfinished(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with begin(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # where a write fails, torch.save raises that it is not where it expected to be
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, UserError | KeyboardInterrupt):  # a signal's
            raise cause from None
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        if cause.filename not in (None, str(temporary)):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def begin(path: Path) -> BinaryIO:
    """A new file that is locked for as long as it is open: no one takes it for a dead writer's."""
    while True:
        file = open(path, "wb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # another writer has removed it before it was locked


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of files that they were writing.

    Args:
        name: of the file, where it is not that of all of them.
    """
    name = name if name == "*" else glob.escape(name)
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        # who writes holds a lock, which ends with the process; a file system without locks
        # has its leftovers kept
        with suppress(OSError), open(path, "r+b") as file:  # NFS locks no file that is only read
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
