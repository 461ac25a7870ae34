"""Files and folders: atomic writes, manifests, reads, listings and hashes."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar, NamedTuple, TypeGuard

from virtex.errors import UserError, set_error_path
from virtex.text import join_first

UNFINISHED = ".unfinished"
MANIFEST = re.compile(r"\.manifest(\.rank\d+)?\.jsonl")  # one JSON string per line
# Linux's limits, less what the data root takes: characters of a path, bytes of a name.
MAX_PATH, MAX_NAME = 2000, 255
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What listing a folder raises where there is no folder: nothing, a file, or a link to itself.
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Manifest:
    """The names of the files that a program has written into a folder, the only ones it deletes.

    A name is added before its file is created: a killed process leaves no file without one.
    """

    active: ClassVar[list["Manifest"]] = []  # to which all files that this process writes are added

    def __init__(self, folder: Path, rank: int = 0):
        """
        Args:
            rank: of this process; each one of a run writes a file of its own.
        """
        self.folder = os.path.abspath(folder)
        self.path = folder / f".manifest{f'.rank{rank}' if rank else ''}.jsonl"
        self.names: set[str] = set()

    def add(self, path: Path) -> None:
        """Add a file, unless it lies elsewhere or has been added."""
        name = os.path.relpath(path, self.folder)
        if name in self.names or name.startswith(".."):
            return
        self.names.add(name)
        with set_error_path(self.path), open(self.path, "a", opener=open_own) as file:
            file.write(json.dumps(name) + "\n")

    @contextmanager
    def record(self) -> Iterator[None]:
        """Add the files that this process writes within the block."""
        Manifest.active.append(self)
        try:
            yield
        finally:
            Manifest.active.remove(self)


def list_manifests(folder: Path) -> list[Path]:
    """Return the manifests of all processes in a folder."""
    found = [path for path in folder.glob(".manifest*") if MANIFEST.fullmatch(path.name)]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def read_manifests(folder: Path) -> set[Path]:
    """Return the files in a folder that programs have added, and that may still exist."""
    names = (name for path in list_manifests(folder) for _, name in read_json_lines(path))
    return {folder / name for name in names if is_path_below(name)}


def record_file(path: Path) -> None:
    """Add a file that is about to be written to the active manifests."""
    for manifest in Manifest.active:
        manifest.add(path)


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file, but not through a link, as an ``opener`` for ``open``.

    Writing through a link would change a file elsewhere, and opening a pipe may never end.

    Raises:
        UserError: it is anything else.
        OSError: it cannot be opened.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a pipe
            raise
    else:
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise UserError(
        f"expected a plain file, but {os.fspath(path)} is a link, a pipe or a device; remove it",
        "run.foreign_files",
    )


def open_append(path: Path, mode: str = "a") -> IO[Any]:
    """Open a file of a run to append text (UTF-8) or, with mode "ab", bytes; see ``open_own``."""
    record_file(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
    return open(path, mode, opener=open_own, **text)  # type: ignore[call-overload]


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: ``write`` fills a temporary file, which then replaces ``path``.

    ``path`` holds either the old content or all of the new, whatever interrupts the write.
    Temporary files of ``path`` that killed processes left are removed first.

    Raises:
        OSError: ``path`` cannot be written; the error names it.
    """
    record_file(path)
    remove_unfinished(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with create_locked(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError about the position in the file where a write failed
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, UserError | KeyboardInterrupt):  # raised by a signal handler
            raise cause from None
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        if cause.filename not in (None, str(temporary)):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def create_locked(path: Path) -> BinaryIO:
    """Create a file that stays locked while it is open, so that nobody removes it as a leftover."""
    while True:
        file = open(path, "wb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # another writer removed it before it was locked


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes left in ``folder``.

    Args:
        name: the file that was being written; "*" for any.
    """
    name = name if name == "*" else glob.escape(name)
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        # A writer holds a lock, which ends with its process. On a file system without locks,
        # leftovers are kept.
        with suppress(OSError), open(path, "r+b") as file:  # NFS does not lock read-only files
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless ``path`` is a regular file: reading a pipe or device may never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file; raise OSError where it cannot be read."""
    require_file(path)
    with open(path, "rb") as file:
        return file.read()


def parse_json(content: bytes) -> Any:
    """Return the value of JSON in UTF-8.

    Raises:
        ValueError: it is not valid, for whatever reason.
    """
    try:
        return json.loads(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(path: Path) -> list[tuple[bytes, Any]]:
    """Return each line of a file and its value, without lines that are not valid JSON.

    A killed process may have left the last one incomplete.
    """
    found = []
    for line in read_file(path).splitlines(keepends=True):
        with suppress(ValueError):
            found.append((line, parse_json(line)))
    return found


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_path_below(value: Any) -> TypeGuard[str]:
    """Return whether ``value`` is a valid relative path that stays in its folder.

    Symbolic links are not resolved: data that lie on several disks rightly lead out of a folder.
    """
    if not isinstance(value, str) or CONTROL.search(value):
        return False
    try:
        parts = value.encode().split(b"/")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return len(value) <= MAX_PATH and all(
        part != b".." and 0 < len(part) <= MAX_NAME for part in parts
    )


class Listing(NamedTuple):
    """Names in a folder. Links count as what they point at; broken links are left out."""

    files: frozenset[str]
    folders: frozenset[str]


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """Return the names in a folder; none where there is no such folder.

    Raises:
        UserError: the folder cannot be read.
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
                f"cannot list the folder {folder}: {error.strerror}; fix its permissions",
                code="data.unreadable",
            ) from error
    return Listing(frozenset(files), frozenset(folders))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that cannot be read
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a regular file or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def walk(top: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield ``top`` and every folder below it, links followed, with the names of their files.

    Raises:
        UserError: a link leads back to a folder that contains it, or a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(
            f"cannot list the folder {error.filename}: {error.strerror}; fix its permissions",
            code="data.unreadable",
        ) from error

    top = os.fspath(top)
    ancestors = {top: {_identity(top)}}
    for folder, names, files in os.walk(top, followlinks=True, onerror=fail):
        for name in names:
            path = os.path.join(folder, name)
            identity = _identity(path)
            if identity in ancestors[folder]:  # two such links would be followed 2^40 times
                raise UserError(
                    f"{path} is a link to a folder that contains it; remove it", "data.link_loop"
                )
            ancestors[path] = ancestors[folder] | {identity}
        del ancestors[folder]
        yield folder, files


def _identity(folder: str) -> tuple[int, int]:
    """Return device and inode, the same for all links to a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def describe_folder(folder: str | os.PathLike[str], count: int = 8) -> str:
    """Return a predicate for a message: "contains a/, b.txt, …", "is empty", "does not exist"."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + "/" * is_folder(entry) for entry in entries)
    except FileNotFoundError:
        return "is a broken symbolic link" if os.path.islink(folder) else "does not exist"
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return f"contains {join_first(names, count)}" if names else "is empty"


def find_missing(files: Iterable[str]) -> list[str]:
    """Return those of ``files`` that do not exist, in their order.

    Each folder is listed once, which is far faster than 100,000 calls of ``stat``.
    """
    present: dict[str, frozenset[str]] = {}
    missing = []
    for folder, paths in groupby(files, os.path.dirname):
        if folder not in present:
            present[folder] = list_folder(folder).files
        missing += [path for path in paths if os.path.basename(path) not in present[folder]]
    return missing


def describe_missing(missing: Sequence[str], source: str | Path) -> str:
    """Return how many images that ``source`` names are missing, and the first of them."""
    return f"{len(missing)} images of {source} are missing: {join_first(missing)}"
