"""Features on disk, computed once and shared by every probe: bounded, never torn, never mixed up.

An entry is a folder named by the hash of its key: ``features.npy`` and ``entry.json`` with the key
itself. It is written under another name and renamed when it is whole.
"""

import hashlib
import json
import logging
import mmap
import os
import secrets
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from iopath.common.file_io import get_cache_dir

from virtex.errors import UserError
from virtex.records import write_json

logger = logging.getLogger(__name__)

FEATURES, ENTRY, PARTIAL = "features.npy", "entry.json", "partial-"
GB = 10**9
DEFAULT_LIMIT = 100 * GB
ABANDONED = 7 * 24 * 3600  # seconds after which nobody can be writing any more
ATTEMPTS = 10  # at giving an entry its name, where others write and drop the same one
HEADER = 4096  # bytes that an array's header never exceeds


def default_folder() -> Path:
    """``$VIRTEX_FEATURE_CACHE``, or a folder in iopath's cache."""
    return Path(os.environ.get("VIRTEX_FEATURE_CACHE") or Path(get_cache_dir(), "virtex/features"))


@dataclass(frozen=True)
class Entry:
    """One array in the cache.

    Attributes:
        size: bytes on disk.
        used: seconds since the epoch, of its last use.
    """

    folder: Path
    checkpoint: str
    data: str
    view: str
    shape: tuple[int, ...]
    size: int
    used: float


class FeatureCache:
    """Arrays of features, float32 (images, features), by what they were computed from.

    A key is made of JSON types and says everything that the features depend on; no name is in it.
    """

    def __init__(self, folder: Path | None = None, limit: int = DEFAULT_LIMIT):
        """
        Args:
            limit: bytes of all entries together; the longest unused ones make room.
        """
        self.folder, self.limit = folder or default_folder(), limit
        self.used: set[Path] = set()  # by this process: the last ones to go, whatever clocks say

    def place(self, key: dict[str, Any]) -> Path:
        """The folder of a key's entry."""
        text = json.dumps(key, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def find(self, key: dict[str, Any]) -> np.ndarray | None:
        """The features of exactly this key, mapped from disk and read-only; None: not there."""
        folder = self.place(key)
        try:
            entry = json.loads((folder / ENTRY).read_text())
            features = np.load(folder / FEATURES, mmap_mode="r")
            found = (entry["key"], list(features.shape), features.dtype)
            if found != (key, entry["shape"], np.float32):
                return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # not there, or not what this class writes
        with suppress(OSError):  # another user's cache may be read and not touched
            os.utime(folder / ENTRY)
        self.used.add(folder)
        return features

    @contextmanager
    def writing(
        self, key: dict[str, Any], shape: tuple[int, int], said: dict[str, str]
    ) -> Iterator[Path]:
        """A file of zeros to be filled; an entry once the block ends well, gone if it does not.

        Args:
            said: ``checkpoint`` and ``data``, for the list.

        Raises:
            UserError: it does not fit the limit or the disk, or cannot be written.
        """
        final, partial = self.place(key), self.own_place()
        try:
            with self.errors_told():
                self.make_room(int(np.prod(shape)) * 4 + HEADER)
                partial.mkdir(parents=True)
                allocate(partial / FEATURES, shape)
            yield partial / FEATURES
            with self.errors_told():
                write_json(partial / ENTRY, {"key": key, "shape": list(shape), **said})
                self.publish(partial, final, key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """OSError as a sentence."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"features cannot be cached in {self.folder} ({error.strerror or error}); make "
                "room there, or name another folder with --cache-dir"
            ) from error

    def own_place(self) -> Path:
        """A folder's name that no other process takes, and that says whose it is."""
        # in a container every process may have the same number
        name = f"{PARTIAL}{secrets.token_hex(4)}-{socket.gethostname()}-{os.getpid()}"
        return self.folder / name

    def publish(self, partial: Path, final: Path, key: dict[str, Any]) -> None:
        """Give a whole entry its name. Another process may have been faster: then it stays."""
        for attempt in range(ATTEMPTS):
            if final.exists() and self.find(key) is None:
                self.drop(final)
            try:
                os.rename(partial, final)
                self.used.add(final)
                return
            except OSError:
                if self.find(key) is not None:
                    return
                if attempt == ATTEMPTS - 1:
                    raise

    def drop(self, folder: Path) -> None:
        """Delete an entry, of which nobody is to find a half."""
        doomed = self.own_place()
        with suppress(OSError):  # another process was faster; or it is another user's
            os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def check(self, size: int) -> None:
        """Whether an entry of so many bytes could be written at all.

        Raises:
            UserError: it could not.
        """
        self.require_limit(size + HEADER)
        self.require_folder()
        with self.errors_told():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass

    def require_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"the feature cache {self.folder} is a file; name a folder with --cache-dir"
            )

    def require_limit(self, size: int) -> None:
        if size > self.limit:
            raise UserError(
                f"the features need {size / GB:.2g} GB, more than the cache may hold "
                f"({self.limit / GB:.2g} GB); raise --cache-limit"
            )

    def entries(self) -> list[Entry]:
        """Every entry, the longest unused first."""
        found = []
        for file in self.folder.glob(f"*/{ENTRY}"):
            if file.parent.name.startswith(PARTIAL):  # it is about to get its name
                continue
            try:
                entry = json.loads(file.read_text())
                size = (file.parent / FEATURES).stat().st_size
                view = ", ".join(f"{k} {v}" for k, v in entry["key"].get("transform", {}).items())
                described = (entry["checkpoint"], entry["data"], view, tuple(entry["shape"]), size)
                found.append(Entry(file.parent, *described, file.stat().st_mtime))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return sorted(found, key=lambda entry: entry.used)

    def make_room(self, size: int) -> None:
        """Drop what killed processes left, then the longest unused entries, for ``size`` bytes.

        Raises:
            UserError: the limit is smaller than that.
        """
        self.require_limit(size)
        for folder in self.folder.glob(f"{PARTIAL}*"):
            host, _, process = folder.name.rpartition("-")
            here = host.endswith(f"-{socket.gethostname()}") and process.isdecimal()
            if (here and not is_running(int(process))) or is_older(folder, ABANDONED):
                shutil.rmtree(folder, ignore_errors=True)
        entries = sorted(self.entries(), key=lambda entry: entry.folder in self.used)
        writing = self.folder.glob(f"{PARTIAL}*/{FEATURES}")
        held = sum(entry.size for entry in entries) + sum(map(size_of, writing))
        for entry in entries:
            if held + size <= self.limit:
                break
            logger.info("the cache is full: dropping features of %s", entry.checkpoint)
            self.drop(entry.folder)
            held -= entry.size

    def table(self) -> str:
        """The entries for people, the latest used first.

        Raises:
            UserError: the folder is a file.
        """
        self.require_folder()
        entries = self.entries()[::-1]
        held = sum(entry.size for entry in entries)
        lines = [
            f"{self.folder}: {held / GB:.3f} of {self.limit / GB:g} GB, {len(entries)} entries"
        ]
        for entry in entries:
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            shape = " x ".join(map(str, entry.shape))
            lines.append(
                f"  {entry.size / 1e6:10.1f} MB  {shape:>16}  used {used}  {entry.data}  "
                f"({entry.view})  {entry.checkpoint}  {entry.folder.name}"
            )
        return "\n".join(lines)


def allocate(path: Path, shape: tuple[int, int]) -> None:
    """An array file of zeros whose blocks are all on the disk.

    A file with holes would be granted on a full disk too, and kill the process that fills it.

    Raises:
        OSError: the disk has no room.
    """
    np.lib.format.open_memmap(path, "w+", np.float32, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def release_pages(array: np.memmap) -> None:
    """Rows that were written to a mapped file are the system's to put on the disk.

    While they stay mapped, a file that does not fit the memory is written at half the speed.
    """
    array.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]


def size_of(file: Path) -> int:
    """Bytes; 0 where it has just been renamed or deleted."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def is_older(folder: Path, seconds: float) -> bool:
    """Whether nothing in it has been written for so long, by the clock of its file system."""
    with suppress(OSError), tempfile.TemporaryFile(dir=folder.parent) as new:
        newest = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
        return os.fstat(new.fileno()).st_mtime - newest > seconds
    return False


def is_running(process: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
