"""Download a file once: resumed, verified, and never left half-written.

A download goes to ``FILE.part`` and is renamed when it is complete; ``FILE.lock`` lets one process
download while others wait; ``FILE.sha256`` (in sha256sum's format) pins the content.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.http_download import DownloadFailed, PartialFile, fetch
from virtex.files import replace_file, sha256_of
from virtex.resources import cache_folder
from virtex.text import redact

logger = logging.getLogger("virtex.download")


def download(urls: Sequence[str], path: Path, sha256: str = "", size: int = 0) -> Path:
    """Download ``path`` from the first of ``urls`` that provides it, unless it exists.

    No connection is made for an existing file.

    Args:
        urls: locations of the same file, tried in this order.
        path: the destination; its folder is created.
        sha256: the file's hash, or its first digits; "" if unknown. The full hash is written to
            ``FILE.sha256`` at the first use and verified from then on.
        size: in bytes; 0 if unknown.

    Raises:
        CheckpointError: no URL provides it, it differs from the expected file, or it cannot be
            written. An interrupted download is kept if the next one can resume it.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(path):
                if not path.is_file():  # another process may have downloaded it
                    fetch_from_any(urls, path, sha256, size)
                    return path
        found = sha256_of(path)
        problem = mismatch(path, found, path, sha256, size)
        if not problem:
            pin_hash(path, found)
            PartialFile(path).remove_origin()  # left by a killed process
    except OSError as error:
        raise CheckpointError(
            f"could not write {path} ({error.strerror or error}); free space, or set FVCORE_CACHE "
            "to another folder for downloads",
            code="checkpoint.download_failed",
        ) from error
    if problem:
        raise CheckpointError(
            f"{path} differs from what {urls[0]} provided: {problem}; delete this file to download "
            "it again",
            code="checkpoint.hash_mismatch",
        )
    return path


def cached_path(url: str) -> Path:
    """Return the cache path of a URL, made of its host, its path and a hash of its query.

    A file that came over http may have been replaced on the way: it never answers https.

    Raises:
        CheckpointError: the URL has no file name.
    """
    parts = urlsplit(url)
    path = posixpath.normpath(f"/{parts.path}").lstrip("/")  # stays inside the cache
    if not parts.hostname or not path:
        raise CheckpointError(
            f"{url} has no file name; specify the URL of a checkpoint file",
            code="checkpoint.invalid_name",
        )
    host = parts.netloc.rpartition("@")[2].replace(":", "+")
    host = host if parts.scheme == "https" else f"{parts.scheme}:{host}"
    folder, _, file = path.rpartition("/")
    query = hashlib.sha256(parts.query.encode()).hexdigest()[:12] if parts.query else ""
    return Path(cache_folder(), "virtex", host, folder, query, file)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``; the system releases it however the process ends."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another process to download %s", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch_from_any(urls: Sequence[str], path: Path, sha256: str, size: int) -> None:
    """Download the file to ``path``, verify it and pin its hash.

    Raises:
        CheckpointError: no URL provides it; the message gives the reason for each.
    """
    part, reasons = PartialFile(path), []
    try:
        for url in urls:
            try:
                found = fetch_checked(url, part, sha256, size)
            except DownloadFailed as error:
                if url != urls[-1]:
                    logger.warning("%s: %s; trying the next URL", redact(url), error)
                reasons.append(f"{url}: {error}")
            else:
                os.replace(part.path, path)
                pin_hash(path, found)
                return
    finally:
        if not any(part.is_resumable(url, sha256) for url in urls):
            part.discard()
    remedy = f"check the URL and the connection, or download the file by other means to {path}"
    if any(str(pin_path(path)) in reason for reason in reasons):
        remedy = f"if you trust the new file, delete {pin_path(path)}"
    raise CheckpointError(
        f"could not download {'; '.join(reasons)}; {remedy}", code="checkpoint.download_failed"
    )


def fetch_checked(url: str, part: PartialFile, sha256: str, size: int) -> str:
    """Fill ``part`` from one URL; start over if a resumed file does not match.

    Returns:
        The sha256 of the file.

    Raises:
        DownloadFailed: the URL does not provide the file, or provides a different one.
    """
    tries = 2 if part.is_resumable(url, sha256) else 1
    for _ in range(tries):
        fetch(url, part, sha256, size)
        found = sha256_of(part.path)
        problem = mismatch(part.path, found, part.target, sha256, size)
        if not problem:
            return found
        part.discard()
    raise DownloadFailed(f"it provides a different file: {problem}")


def mismatch(file: Path, found: str, path: Path, sha256: str, size: int) -> str:
    """Return why ``file`` is not the file expected at ``path``; "" if it is.

    Args:
        found: the hash of ``file``.

    Raises:
        OSError: it cannot be read.
    """
    found_size, pinned = file.stat().st_size, pinned_hash(path)
    if found_size == 0:
        return "it is empty"
    if size and found_size != size:
        return f"it has {found_size} bytes, not {size}"
    if not found.startswith(sha256.lower()):
        return f"its sha256 is {found}, not {sha256}"
    if pinned not in ("", found):
        return f"its sha256 is {found}, not {pinned} as pinned in {pin_path(path)}"
    if is_truncated_zip(file):
        return "it is truncated"
    return ""


def pin_hash(path: Path, found: str) -> None:
    """Store the hash of a file at its first use."""
    if not pin_path(path).is_file():
        text = f"{found}  {path.name}\n"
        with contextlib.suppress(OSError):  # a shared folder may be read-only
            replace_file(pin_path(path), lambda file: file.write(text.encode()))


def is_truncated_zip(file: Path) -> bool:
    """Return whether a torch zip file is truncated, as when a server announces too few bytes."""
    with open(file, "rb") as content:
        begins = content.read(4) == b"PK\x03\x04"
    return begins and not zipfile.is_zipfile(file)


def pinned_hash(path: Path) -> str:
    """Return the pinned sha256 of ``path``; "" before its first use."""
    try:
        return pin_path(path).read_text().partition(" ")[0].strip()
    except FileNotFoundError:
        return ""


def pin_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
