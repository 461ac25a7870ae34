"""Errors that a user can fix."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What an OSError is that no change to the program would fix, and what to do about it.
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EFBIG: "raise the largest file size (ulimit -f)",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "fix its permissions, or name another",
    errno.EPERM: "fix its permissions, or name another",
    errno.EIO: "check that disk, or name another",
    errno.ESTALE: "mount that file system again",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "free some memory",
    errno.ENAMETOOLONG: "name it shorter",
    errno.ENOTDIR: "a file stands where a folder is named",
    errno.EISDIR: "a folder stands where a file is named",
    errno.ENOENT: "restore it",
}


class UserError(Exception):
    """Invalid input: what was expected, what was found, and how to fix it.

    Tools print the message on stderr and exit with status 2, without a traceback. Library
    functions raise it (or a subclass) and leave nothing half-written behind.

    Attributes:
        code: a stable identifier of the kind of error, ``AREA.REASON`` as in
            ``"checkpoint.incomplete"``. Subclasses define the default.
    """

    code = "invalid_input"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        if code is not None:
            self.code = code


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError of the block that names no file, as that of a write, names ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def ignore_reported_errors(thrown: threading.ExceptHookArgs) -> None:
    """For ``threading.excepthook``: the thread that writes tensorboard's events has failed, which
    is raised at the next event."""
    if not (isinstance(thrown.exc_value, OSError) and describe_os_error(thrown.exc_value)):
        threading.__excepthook__(thrown)


def describe_os_error(error: OSError) -> str | None:
    """What a disk or the system refused, in plain words; None: it would be no help."""
    if error.errno not in REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
