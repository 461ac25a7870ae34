"""A cache of features on disk, shared by all probes and by concurrent processes.

An entry is a folder named after the hash of its key, with ``features.npy`` and ``entry.json``,
which contains the key. It is written under a temporary name and renamed once it is complete.
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

from virtex.errors import UserError
from virtex.records import write_json
from virtex.resources import cache_folder

logger = logging.getLogger(__name__)

FEATURES, ENTRY, PARTIAL = "features.npy", "entry.json", "partial-"
GB = 10**9
DEFAULT_LIMIT = 100 * GB
ABANDONED = 7 * 24 * 3600  # seconds after which a partial entry of another host is deleted
ATTEMPTS = 10  # at renaming an entry, while others write and evict the same one
HEADER = 4096  # upper bound of an .npy header in bytes


def default_folder() -> Path:
    """Return ``$VIRTEX_FEATURE_CACHE``, or a folder in iopath's cache."""
    return Path(os.environ.get("VIRTEX_FEATURE_CACHE") or cache_folder() / "virtex/features")


@dataclass(frozen=True)
class Entry:
    """One array in the cache.

    Attributes:
        view: the transform and the representation, as text.
        size: bytes on disk.
        used: time of the last use in seconds since the epoch.
    """

    folder: Path
    checkpoint: str
    data: str
    view: str
    shape: tuple[int, ...]
    size: int
    used: float


class FeatureCache:
    """Feature arrays, float32 (images, features), addressed by everything they depend on.

    A key consists of JSON types and contains hashes, never names or paths.
    """

    def __init__(self, folder: Path | None = None, limit: int = DEFAULT_LIMIT):
        """
        Args:
            folder: defaults to ``default_folder()``.
            limit: total size in bytes; the least recently used entries are evicted beyond it.
        """
        self.folder, self.limit = folder or default_folder(), limit
        self.used: set[Path] = set()  # by this process: evicted last, regardless of the clock

    def entry_folder(self, key: dict[str, Any]) -> Path:
        """Return the folder of a key's entry."""
        text = json.dumps(key, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def find(self, key: dict[str, Any]) -> np.ndarray | None:
        """Return the features of a key, memory-mapped and read-only; None if not cached."""
        folder = self.entry_folder(key)
        try:
            entry = json.loads((folder / ENTRY).read_text())
            features = np.load(folder / FEATURES, mmap_mode="r")
            found = (entry["key"], list(features.shape), features.dtype)
            if found != (key, entry["shape"], np.float32):
                return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None  # missing or damaged
        with suppress(OSError):  # another user's cache may be read-only
            os.utime(folder / ENTRY)
        self.used.add(folder)
        return features

    def labels(self, key: dict[str, Any]) -> dict[str, Any]:
        """Return what ``write`` stored beside the features of a key; empty if it is gone."""
        try:
            return json.loads((self.entry_folder(key) / ENTRY).read_text())
        except (OSError, ValueError):
            return {}

    @contextmanager
    def write(
        self, key: dict[str, Any], shape: tuple[int, int], labels: dict[str, Any]
    ) -> Iterator[Path]:
        """Yield an array file of zeros to fill.

        It becomes an entry when the block succeeds and is deleted when the block raises.

        Args:
            labels: ``checkpoint`` and ``data``, shown by ``--list-cache``; others may be added
                inside the block.

        Raises:
            UserError: the array exceeds the limit or the free disk space, or the folder is not
                writable.
        """
        final, partial = self.entry_folder(key), self._temporary_folder()
        try:
            with self._report_os_errors():
                self._make_room(int(np.prod(shape)) * 4 + HEADER)
                partial.mkdir(parents=True)
                _allocate(partial / FEATURES, shape)
            yield partial / FEATURES
            with self._report_os_errors():
                write_json(partial / ENTRY, {"key": key, "shape": list(shape), **labels})
                self._publish(partial, final, key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def check(self, size: int) -> None:
        """Verify that an entry of ``size`` bytes can be written.

        Raises:
            UserError: it cannot.
        """
        self._check_limit(size + HEADER)
        self._check_folder()
        with self._report_os_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass

    def entries(self) -> list[Entry]:
        """Return all entries, the least recently used first."""
        found = []
        for file in self.folder.glob(f"*/{ENTRY}"):
            if file.parent.name.startswith(PARTIAL):
                continue
            try:
                entry = json.loads(file.read_text())
                size = (file.parent / FEATURES).stat().st_size
                key = entry["key"]
                view = ", ".join(f"{k} {v}" for k, v in key.get("transform", {}).items())
                if "representation" in key:
                    view += f", {key['representation']}"
                described = (entry["checkpoint"], entry["data"], view, tuple(entry["shape"]), size)
                found.append(Entry(file.parent, *described, file.stat().st_mtime))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return sorted(found, key=lambda entry: entry.used)

    def table(self) -> str:
        """Return the entries as a text table, the most recently used first.

        Raises:
            UserError: the cache folder is a file.
        """
        self._check_folder()
        entries = self.entries()[::-1]
        total = sum(entry.size for entry in entries)
        lines = [
            f"{self.folder}: {total / GB:.3f} of {self.limit / GB:g} GB, {len(entries)} entries"
        ]
        for entry in entries:
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            shape = " x ".join(map(str, entry.shape))
            lines.append(
                f"  {entry.size / 1e6:10.1f} MB  {shape:>16}  used {used}  {entry.data}  "
                f"({entry.view})  {entry.checkpoint}  {entry.folder.name}"
            )
        return "\n".join(lines)

    @contextmanager
    def _report_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"features cannot be cached in {self.folder} ({error.strerror or error}); free "
                "space there, or choose another folder with --cache-dir",
                code="probe.cache_not_writable",
            ) from error

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"the feature cache must be a folder, but {self.folder} is a file; choose a "
                "folder with --cache-dir",
                code="probe.cache_not_a_folder",
            )

    def _check_limit(self, size: int) -> None:
        if size > self.limit:
            raise UserError(
                f"the features need {size / GB:.2g} GB, but the cache is limited to "
                f"{self.limit / GB:.2g} GB; raise --cache-limit",
                code="probe.cache_limit",
            )

    def _temporary_folder(self) -> Path:
        """Return a unique folder name that identifies the process that owns it."""
        # in containers, processes of different hosts often share host names and PIDs
        name = f"{PARTIAL}{secrets.token_hex(4)}-{socket.gethostname()}-{os.getpid()}"
        return self.folder / name

    def _publish(self, partial: Path, final: Path, key: dict[str, Any]) -> None:
        """Rename a complete entry. If another process published it first, keep the other's."""
        for attempt in range(ATTEMPTS):
            if final.exists() and self.find(key) is None:
                self._evict(final)
            try:
                os.rename(partial, final)
                self.used.add(final)
                return
            except OSError:
                if self.find(key) is not None:
                    return
                if attempt == ATTEMPTS - 1:
                    raise

    def _evict(self, folder: Path) -> None:
        """Delete an entry; rename it first, so that no reader finds a partial one."""
        doomed = self._temporary_folder()
        with suppress(OSError):  # deleted by another process, or owned by another user
            os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Delete abandoned partial entries, then evict entries until ``size`` bytes fit.

        Raises:
            UserError: ``size`` exceeds the limit.
        """
        self._check_limit(size)
        for folder in self.folder.glob(f"{PARTIAL}*"):
            host, _, process = folder.name.rpartition("-")
            is_local = host.endswith(f"-{socket.gethostname()}") and process.isdecimal()
            if (is_local and not _is_running(int(process))) or _is_older(folder, ABANDONED):
                shutil.rmtree(folder, ignore_errors=True)
        entries = sorted(self.entries(), key=lambda entry: entry.folder in self.used)
        total = sum(entry.size for entry in entries)
        for file in self.folder.glob(f"{PARTIAL}*/{FEATURES}"):
            with suppress(OSError):  # just renamed or deleted
                total += file.stat().st_size
        for entry in entries:
            if total + size <= self.limit:
                break
            logger.info("feature cache is full, evicting features of %s", entry.checkpoint)
            self._evict(entry.folder)
            total -= entry.size


def release_pages(array: np.memmap) -> None:
    """Drop the resident pages of a memory-mapped array that is being written.

    While they stay mapped, a file larger than the memory is written at half the speed.
    """
    array.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]


def _allocate(path: Path, shape: tuple[int, int]) -> None:
    """Create an array file of zeros with all its blocks allocated.

    A sparse file succeeds on a full disk, and kills the process (SIGBUS) that fills it later.

    Raises:
        OSError: the disk is full.
    """
    np.lib.format.open_memmap(path, "w+", np.float32, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _is_older(folder: Path, seconds: float) -> bool:
    """Return whether the folder is older, according to the clock of its file system."""
    with suppress(OSError), tempfile.TemporaryFile(dir=folder.parent) as new:
        newest = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
        return os.fstat(new.fileno()).st_mtime - newest > seconds
    return False


def _is_running(process: int) -> bool:
    """Return whether this host has a process with this PID."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
