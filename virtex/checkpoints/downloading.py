"""A file from the web: fetched once, resumed, checked, and never half there.

A download goes to ``FILE.part`` and takes its name when it is whole; ``FILE.lock`` lets one process
fetch while others wait; ``FILE.sha256`` (in sha256sum's form) pins the content at its first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import posixpath
import random
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from iopath.common.file_io import get_cache_dir

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.connection import Interrupted, PartialFile, Refused, fetch_once
from virtex.checkpoints.hashing import sha256_of
from virtex.files import replace_file

logger = logging.getLogger("virtex.download")

ATTEMPTS = 5  # of one address in a row that do not come on
PROGRESS = 1 << 20  # bytes; an attempt that brings less does not come on
BACK_OFF = 1.0  # seconds before the second attempt; doubled before each further one
AT_FIRST_USE = "as at its first use"
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for


def download(urls: Sequence[str], path: Path, sha256: str = "", size: int = 0) -> Path:
    """``path``, from the first of ``urls`` that gives it; a file that is there is kept.

    Nothing is asked of the network for a file that is there.

    Args:
        urls: addresses of the same file, tried in this order.
        path: where it goes; its folder is made.
        sha256: the file's hash, or its first digits; "" if unknown. The whole hash is written to
            ``FILE.sha256`` at the first use, and holds from then on.
        size: in bytes; 0 if unknown.

    Raises:
        CheckpointError: no address gives it, it is not what it should be, or it cannot be written.
            What came of an interrupted download is kept, and resumed by the next one.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with only_one(path):
                if not path.is_file():  # else another process was faster
                    fetch_from_any(urls, path, sha256, size)
                    return path
        found = sha256_of(path)
        wrong = whats_wrong(path, found, path, sha256, size)
        if not wrong:
            pin(path, found)
            PartialFile(path).forget()  # a process that was killed at the very end has not
    except OSError as error:
        raise CheckpointError(
            f"could not write {path} ({error.strerror or error}); free space, or set FVCORE_CACHE "
            "to another folder for downloads"
        ) from error
    if wrong:
        raise CheckpointError(
            f"{path} is not, or no longer, what {urls[0]} gave: {wrong}; delete this file to "
            "download it again"
        )
    return path


def cached_path(url: str) -> Path:
    """Where the cache keeps what an address gives: by host and path, and by a query's hash.

    Raises:
        CheckpointError: the address names no file.
    """
    parts = urlsplit(url)
    path = posixpath.normpath(f"/{parts.path}").lstrip("/")  # no way out of the folder
    if not parts.hostname or not path:
        raise CheckpointError(f"{url} names no file; give the address of a checkpoint")
    host = parts.netloc.rpartition("@")[2].replace(":", "_")
    folder, _, file = path.rpartition("/")
    query = hashlib.sha256(parts.query.encode()).hexdigest()[:12] if parts.query else ""
    return Path(get_cache_dir(), "virtex", host, folder, query, file)


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``; the system frees it when the process ends, however it ends."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another process that downloads %s", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch_from_any(urls: Sequence[str], path: Path, sha256: str, size: int) -> None:
    """Put the file at ``path``, whole, checked and pinned.

    Raises:
        CheckpointError: each address, with the reason why it does not give it.
    """
    part, reasons = PartialFile(path), []
    for url in urls:
        try:
            found = fetch_checked(url, part, sha256, size)
        except Refused as error:
            if url != urls[-1]:
                logger.warning("%s: %s; trying the next address", url, error)
            reasons.append(f"{url}: {error}")
        else:
            part.finish()
            pin(path, found)
            return
    remedy = (
        "check the address and the connection, or download the file by other means and put it at "
        f"{path}"
    )
    if any(AT_FIRST_USE in reason for reason in reasons):
        remedy = f"if you trust the new file, delete {pin_of(path)}"
    raise CheckpointError(f"could not download {'; '.join(reasons)}; {remedy}")


def fetch_checked(url: str, part: PartialFile, sha256: str, size: int) -> str:
    """Fill ``part`` from one address; again from its start where a resumed one turns out wrong.

    Returns:
        its sha256.

    Raises:
        Refused: the address does not give the file, or gives another.
    """
    tries = 2 if part.goes_on_from(url, sha256) else 1
    for _ in range(tries):
        fetch(url, part, sha256, size)
        found = sha256_of(part.path)
        wrong = whats_wrong(part.path, found, part.target, sha256, size)
        if not wrong:
            return found
        part.discard()
    raise Refused(f"another file is there: {wrong}")


def fetch(url: str, part: PartialFile, sha256: str, size: int) -> None:
    """Fill ``part`` from one address, over as many connections as it takes.

    Raises:
        Refused: the address does not give it.
    """
    failures = 0
    while True:
        before = part.length()
        try:
            fetch_once(url, part, sha256, size)
            return
        except Interrupted as error:
            failures = 1 if part.length() - before >= PROGRESS else failures + 1
            if failures >= ATTEMPTS:
                raise Refused(f"{error} ({ATTEMPTS} attempts)") from error
            wait = min(max(error.wait, BACK_OFF * 2 ** (failures - 1)), LONGEST_WAIT)
            wait *= random.uniform(1.0, 1.25)  # not all machines at once
            logger.warning("%s: %s; again in %.1f s", part.target.name, error, wait)
            time.sleep(wait)


def whats_wrong(file: Path, found: str, path: Path, sha256: str, size: int) -> str:
    """Why ``file`` is not what belongs at ``path``; "" if it is.

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
        return f"its sha256 is {found}, not {pinned}, {AT_FIRST_USE}"
    if is_torn_zip(file):
        return "it ends before its end"
    return ""


def pin(path: Path, found: str) -> None:
    """Keep the hash of a file's first use, from which no later one may differ."""
    if not pin_of(path).is_file():
        text = f"{found}  {path.name}\n"
        with contextlib.suppress(OSError):  # a folder that others fill may be read-only
            replace_file(pin_of(path), lambda file: file.write(text.encode()))


def is_torn_zip(file: Path) -> bool:
    """Whether a torch file lacks its end: what a server that announces too few bytes leaves."""
    with open(file, "rb") as content:
        begins = content.read(4) == b"PK\x03\x04"
    return begins and not zipfile.is_zipfile(file)


def pinned_hash(path: Path) -> str:
    """The sha256 of ``path`` at its first use; "" before it."""
    try:
        return pin_of(path).read_text().partition(" ")[0].strip()
    except FileNotFoundError:
        return ""


def pin_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
