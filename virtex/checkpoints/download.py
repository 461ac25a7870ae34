"""Download a file once: resumed, verified, and never left half-written.

A download goes to ``FILE.part`` and is renamed when it is complete; ``FILE.lock`` lets one process
download while others wait; ``FILE.sha256`` (in sha256sum's format) pins the content.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import posixpath
import random
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock, Timeout
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

import virtex
from virtex.checkpoints.backbone import CheckpointError
from virtex.files import replace_file, sha256_of

logger = logging.getLogger("virtex.download")

MAX_ATTEMPTS = 5  # in a row without progress, for one URL
MIN_PROGRESS = 1 << 20  # bytes; an attempt that receives less counts as without progress
BACK_OFF = 1.0  # seconds before the second attempt; doubled before each further one
MAX_WAIT = 60.0  # seconds, even if a server requests more
TIMEOUT = (10, 60)  # seconds to connect, and between two chunks of the content
CHUNK = 1 << 16  # bytes per read; a broken connection loses the last chunk
RETRY_STATUSES = (408, 425, 429)  # and 5xx
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
JSON_MESSAGE = re.compile(rb"\s*\{\s*\"[\t\n\r\x20-\x7e]{20}")
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")

_PERMANENT_ERRORS = (
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.SSLError,
    requests.TooManyRedirects,
    ValueError,  # an invalid URL, possibly of a redirect
)


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
            written. An interrupted download is kept, and resumed by the next one.
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
    host = parts.netloc.rpartition("@")[2].replace(":", "_")
    folder, _, file = path.rpartition("/")
    query = hashlib.sha256(parts.query.encode()).hexdigest()[:12] if parts.query else ""
    return Path(get_cache_dir(), "virtex", host, folder, query, file)


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
    for url in urls:
        try:
            found = fetch_checked(url, part, sha256, size)
        except DownloadFailed as error:
            if url != urls[-1]:
                logger.warning("%s: %s; trying the next URL", url, error)
            reasons.append(f"{url}: {error}")
        else:
            part.finish()
            pin_hash(path, found)
            return
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


def fetch(url: str, part: PartialFile, sha256: str, size: int) -> None:
    """Fill ``part`` from one URL, over as many connections as necessary.

    Raises:
        DownloadFailed: the URL does not provide it.
    """
    failures = 0
    while True:
        before = part.length()
        try:
            fetch_once(url, part, sha256, size)
            return
        except DownloadInterrupted as error:
            failures = 1 if part.length() - before >= MIN_PROGRESS else failures + 1
            if failures >= MAX_ATTEMPTS:
                raise DownloadFailed(f"{error} ({MAX_ATTEMPTS} attempts)") from error
            wait = min(max(error.wait, BACK_OFF * 2 ** (failures - 1)), MAX_WAIT)
            wait *= random.uniform(1.0, 1.25)  # jitter: machines should not retry simultaneously
            logger.warning("%s: %s; retrying in %.1f s", part.target.name, error, wait)
            time.sleep(wait)


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


class DownloadFailed(Exception):
    """This URL does not provide the file; another one may."""


class DownloadInterrupted(Exception):
    """A temporary failure; the same URL may provide the rest.

    Attributes:
        wait: seconds that the server requests to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class PartialFile:
    """An incomplete download, ``FILE.part``, and its origin, ``FILE.part.json``.

    Attributes:
        target: the complete file.
    """

    target: Path

    @property
    def path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def origin(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def start(self, url: str, validator: str) -> None:
        """Record its URL and the server's validator of the content (ETag or date)."""
        origin = json.dumps({"url": url, "validator": validator})
        replace_file(self.origin, lambda file: file.write(origin.encode()))

    def read_origin(self) -> tuple[str, str]:
        """Return the URL and the validator that ``start`` recorded; "" if there is none."""
        try:
            origin = json.loads(self.origin.read_text())
            return str(origin["url"]), str(origin["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""

    def is_resumable(self, url: str, sha256: str) -> bool:
        """Return whether this URL can provide the rest, verified by validator or hash."""
        origin, validator = self.read_origin()
        return self.length() > 0 and origin == url and bool(validator or sha256)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename the complete file to the target."""
        os.replace(self.path, self.target)
        self.remove_origin()

    def remove_origin(self) -> None:
        """Remove the origin of a partial file that no longer exists."""
        with contextlib.suppress(OSError):  # a shared folder may be read-only
            if not self.path.exists():
                self.origin.unlink()


def fetch_once(url: str, part: PartialFile, sha256: str, size: int) -> None:
    """Append what one connection provides to ``part``.

    Args:
        sha256, size: of the whole file; "" and 0 if unknown.

    Raises:
        DownloadFailed: the URL does not provide it.
        DownloadInterrupted: the connection ended early, or the server is busy.
        OSError: it cannot be written.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": f"virtex/{virtex.__version__}"}
    have = part.length() if part.is_resumable(url, sha256) else 0
    if have:
        headers["Range"] = f"bytes={have}-"
        if part.read_origin()[1]:
            headers["If-Range"] = part.read_origin()[1]
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:
                if content_range(response)[1] == have:  # already complete
                    return
                part.discard()
                raise DownloadInterrupted("the server has no content beyond the partial file")
            check_status(response, url)
            if response.status_code == 206:
                start, total = have, check_range(response, part, have)
            else:
                start, total = 0, content_length(response)
                # first: a process killed here must not leave old content with a new validator
                part.discard()
                if not is_encoded(response):  # else its bytes are not the file's
                    part.start(url, validator_of(response))
            save(response, part, start, total, size)
    except _PERMANENT_ERRORS as error:
        raise DownloadFailed(one_line(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadInterrupted(innermost_reason(error)) from error


def check_range(response: requests.Response, part: PartialFile, have: int) -> int | None:
    """Return the total file size, given a response with the content from byte ``have`` on.

    Raises:
        DownloadInterrupted: the range or the file is a different one; ``part`` is discarded.
    """
    start, total = content_range(response)
    before, now = part.read_origin()[1], validator_of(response)
    is_same = not before or now in ("", before)
    if have and start == have and is_same and not is_encoded(response):
        return total
    part.discard()
    raise DownloadInterrupted("the server sent a different range than requested")


def check_status(response: requests.Response, url: str) -> None:
    """Check that a response has content.

    Raises:
        DownloadFailed, DownloadInterrupted: it has none, or an https URL led to http.
    """
    visited = [answer.url for answer in (*response.history, response)]
    unencrypted = [address for address in visited if address.lower().startswith("http://")]
    if unencrypted and url.lower().startswith("https://"):
        raise DownloadFailed(f"it redirects to an unencrypted URL, {unencrypted[0]}")
    code = response.status_code
    if code in (200, 206):
        return
    reason = f"the server answered {code} {response.reason or ''}".rstrip()
    if code in RETRY_STATUSES or code >= 500:
        raise DownloadInterrupted(reason, retry_seconds(response.headers.get("Retry-After", "")))
    raise DownloadFailed(reason)


def save(
    response: requests.Response, part: PartialFile, start: int, total: int | None, size: int
) -> None:
    """Write a response's content from byte ``start`` on, with a progress bar.

    Args:
        total: announced size of the whole file in bytes; size: the expected one, 0 if unknown.

    Raises:
        DownloadFailed: the content is a web page or a message, or has a different size.
        DownloadInterrupted: less was received than announced.
        OSError: the disk is full.
    """
    if size and total and total != size:
        raise DownloadFailed(f"the file has {total} bytes, expected {size}")
    free = shutil.disk_usage(part.path.parent).free
    if total and free < total - start:
        raise OSError(errno.ENOSPC, f"{total - start} bytes needed, {free} free")
    with open(part.path, "r+b" if start else "wb") as file, progress_bar(part, total, start) as bar:
        file.seek(start)
        file.truncate()
        # urllib3 would drop an incomplete last chunk
        response.raw.enforce_content_length = is_encoded(response)
        for chunk in response.iter_content(CHUNK):
            if file.tell() == 0 and WEB_PAGE.match(chunk):
                raise DownloadFailed("the server sent a web page, not the file")
            if file.tell() == 0 and JSON_MESSAGE.match(chunk):
                raise DownloadFailed(
                    f"the server sent a message, not the file: {chunk[:80].decode()}"
                )
            file.write(chunk)
            bar.update(len(chunk))
        received = file.tell()
    if total is not None and received < total:
        raise DownloadInterrupted(f"the connection ended after {received} of {total} bytes")


def progress_bar(part: PartialFile, total: int | None, start: int) -> tqdm:
    return tqdm(
        total=total,
        initial=start,
        desc=part.target.name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        # fewer lines in a log
        mininterval=0.1 if sys.stderr.isatty() else 30.0,
    )


def content_length(response: requests.Response) -> int | None:
    """Return the size of the content in bytes; ``None`` if unknown."""
    value = response.headers.get("Content-Length", "")
    known = value.isdecimal() and len(value) <= 18 and not is_encoded(response)
    return int(value) if known else None


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte and the whole file's size from Content-Range; ``None`` if unknown."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, _, total = found.groups() if found else (None, None, "*")
    return None if start is None else int(start), None if total == "*" else int(total)


def validator_of(response: requests.Response) -> str:
    """Return the validator of the content: its strong ETag, else its date, else ""."""
    etag = response.headers.get("ETag", "")
    if is_encoded(response):  # the transferred bytes are not the file's
        return ""
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def retry_seconds(retry_after: str) -> float:
    """Return Retry-After, a number or a date, in seconds from now; 0 if it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def innermost_reason(error: Exception) -> str:
    """Return the innermost reason of an error of requests, which wraps several layers."""
    inner = error
    while True:
        further = getattr(inner, "reason", None) or next(
            (a for a in inner.args if isinstance(a, Exception)), None
        )
        if not isinstance(further, Exception):
            return one_line(inner)
        inner = further


def one_line(error: Exception) -> str:
    text = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(error))
    return " ".join(text.split()) or type(error).__name__
