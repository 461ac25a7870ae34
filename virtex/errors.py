"""Errors that a user can fix, with a message and a stable code."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from virtex.text import redact

# errno of an OSError that the user can fix -> how to fix it.
REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or request a larger quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "fix its permissions, or choose another path",
    errno.EPERM: "fix its permissions, or choose another path",
    errno.EIO: "check the disk, or choose another one",
    errno.ESTALE: "remount the file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "free some memory",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "expected a folder where a file exists",
    errno.EISDIR: "expected a file where a folder exists",
    errno.ENOENT: "restore it",
    errno.EPIPE: "another process has ended; see its last message",
}


class UserError(Exception):
    """Invalid input: what was expected, what was found, and how to fix it.

    Tools print the message on stderr and exit with status 2, without a traceback. Library
    functions raise it (or a subclass) and leave nothing half-written behind. Secrets in URLs are
    not part of the message.

    Attributes:
        code: a stable identifier of the kind of error, ``AREA.REASON`` as in
            ``"checkpoint.incomplete"``. Subclasses define the default.
    """

    code = "invalid_input"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(redact(message))
        if code is not None:
            self.code = code


@contextmanager
def set_error_path(path: str | os.PathLike[str]) -> Iterator[None]:
    """Set the path of an OSError that has none, such as one from a failed write."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def ignore_reported_errors(args: threading.ExceptHookArgs) -> None:
    """Ignore OSErrors in threads, as a ``threading.excepthook``.

    If the thread that writes TensorBoard events fails, the next event raises its error.
    """
    if not (isinstance(args.exc_value, OSError) and describe_os_error(args.exc_value)):
        threading.__excepthook__(args)


def describe_os_error(error: OSError) -> str | None:
    """Return a message with a fix for an error of the system; None if no fix is known."""
    if error.errno not in REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
