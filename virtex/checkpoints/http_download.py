"""Fetch a file over HTTP into a partial file: resumed, retried, and bounded in time and size."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import json
import logging
import random
import re
import shutil
import sys
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

import virtex
from virtex.files import replace_file
from virtex.text import redact

logger = logging.getLogger("virtex.download")

MAX_ATTEMPTS = 5  # in a row without progress, for one URL
MIN_PROGRESS = 1 << 20  # bytes; an attempt that receives less counts as without progress
BACK_OFF = 1.0  # seconds before the second attempt; doubled before each further one
MAX_WAIT = 60.0  # seconds, even if a server requests more
CONNECT_TIMEOUT = 10.0  # seconds
PROGRESS_TIMEOUT = 60.0  # seconds for the headers, and then for every CHUNK of the content
CHUNK = 1 << 16  # bytes per read; a broken connection loses the last chunk
DISK_SHARE = 0.9  # of the free space, for a file of unknown size
MAX_REDIRECTS = 10
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
    ValueError,  # an invalid URL, possibly of a redirect
)


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

    def remove_origin(self) -> None:
        """Remove the origin of a partial file that no longer exists."""
        with contextlib.suppress(OSError):  # a shared folder may be read-only
            if not self.path.exists():
                self.origin.unlink()


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


class Deadline:
    """The time by which a server must have sent its headers, or the next chunk of the content.

    The timeouts of sockets limit the wait for a single byte: a byte per second, or responses
    ``100 Continue`` without end, never exceed them.
    """

    def restart(self) -> None:
        self.end = time.monotonic() + PROGRESS_TIMEOUT

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise TimeoutError(f"less than {CHUNK} bytes in {PROGRESS_TIMEOUT:g} seconds")


class DeadlineReader(io.RawIOBase):
    """The bytes from a socket, until the deadline."""

    def __init__(self, raw: io.RawIOBase, deadline: Deadline):
        self.raw, self.deadline = raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.deadline.check()
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class DeadlineAdapter(HTTPAdapter):
    """Connections whose responses are read until a deadline."""

    def __init__(self, deadline: Deadline):
        super().__init__()
        self.deadline = deadline

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        deadline = self.deadline

        class Response(http.client.HTTPResponse):
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs)
                self.fp = io.BufferedReader(DeadlineReader(self.fp.detach(), deadline))

        pool = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": Response})
        return pool


class Session(requests.Session):
    """A session that follows no redirects: requests would read their content, however long."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


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
    deadline = Deadline()
    try:
        with (
            Session() as session,
            open_response(session, url, headers, deadline) as response,
        ):
            if response.status_code == 416:
                if content_range(response)[1] == have:  # already complete
                    return
                part.discard()
                raise DownloadInterrupted("the server has no content beyond the partial file")
            check_status(response)
            if response.status_code == 206:
                start, total = have, check_range(response, part, have)
            else:
                start, total = 0, content_length(response)
                # first: a process killed here must not leave old content with a new validator
                part.discard()
                part.start(url, validator_of(response))
            save(response, part, start, total, size, deadline)
    except _PERMANENT_ERRORS as error:
        raise DownloadFailed(innermost_reason(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadInterrupted(innermost_reason(error)) from error


def open_response(
    session: Session, url: str, headers: dict[str, str], deadline: Deadline
) -> requests.Response:
    """Return the response of a URL, redirects followed; their content is not read.

    Raises:
        DownloadFailed: too many redirects, or one to an unencrypted URL.
    """
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(deadline))
    timeout = CONNECT_TIMEOUT, PROGRESS_TIMEOUT
    for _ in range(MAX_REDIRECTS + 1):
        deadline.restart()
        response = session.get(url, headers=headers, stream=True, timeout=timeout)
        target = super(Session, session).get_redirect_target(response)
        if target is None:
            return response
        response.close()
        url = redirected(url, target)
    raise DownloadFailed(f"more than {MAX_REDIRECTS} redirects")


def redirected(url: str, target: str) -> str:
    """Return the URL of a redirect; raise DownloadFailed if it gives up encryption."""
    found = urljoin(url, target)
    if urlsplit(url).scheme == "https" and urlsplit(found).scheme == "http":
        raise DownloadFailed(f"it redirects to an unencrypted URL, {redact(found)}")
    return found


def check_range(response: requests.Response, part: PartialFile, have: int) -> int | None:
    """Return the total file size, given a response with the content from byte ``have`` on.

    Raises:
        DownloadInterrupted: the range or the file is a different one; ``part`` is discarded.
    """
    start, total = content_range(response)
    before, now = part.read_origin()[1], validator_of(response)
    if have and start == have and (not before or now in ("", before)):
        return total
    part.discard()
    raise DownloadInterrupted("the server sent a different range than requested")


def check_status(response: requests.Response) -> None:
    """Check that a response has the file's content.

    Raises:
        DownloadFailed, DownloadInterrupted: it has none, or encoded content.
    """
    code = response.status_code
    if code not in (200, 206):
        reason = f"the server answered {code} {response.reason or ''}".rstrip()
        if code in RETRY_STATUSES or code >= 500:
            wait = retry_seconds(response.headers.get("Retry-After", ""))
            raise DownloadInterrupted(reason, wait)
        raise DownloadFailed(reason)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):  # its bytes are not the file's; not every one is decoded
        raise DownloadFailed(f"the server sent content encoded as {encoding}, not the plain file")


def save(
    response: requests.Response,
    part: PartialFile,
    start: int,
    total: int | None,
    size: int,
    deadline: Deadline,
) -> None:
    """Write a response's content from byte ``start`` on, with a progress bar.

    Args:
        total: announced size of the whole file in bytes; size: the expected one, 0 if unknown.

    Raises:
        DownloadFailed: the content is a web page or a message, or has a different size; ``part``
            is discarded if there is more content than expected.
        DownloadInterrupted: less was received than announced.
        OSError: the disk is full.
    """
    if size and total and total != size:
        raise DownloadFailed(f"the file has {total} bytes, expected {size}")
    free = shutil.disk_usage(part.path.parent).free
    if total and free < total - start:
        raise OSError(errno.ENOSPC, f"{total - start} bytes needed, {free} free")
    limit = size or total or start + int(DISK_SHARE * free)
    with open(part.path, "r+b" if start else "wb") as file, progress_bar(part, total, start) as bar:
        file.seek(start)
        file.truncate()
        restarted = start
        response.raw.enforce_content_length = False  # urllib3 would drop an incomplete last chunk
        for chunk in response.iter_content(CHUNK):
            if file.tell() == 0 and WEB_PAGE.match(chunk):
                raise DownloadFailed("the server sent a web page, not the file")
            if file.tell() == 0 and JSON_MESSAGE.match(chunk):
                raise DownloadFailed(
                    f"the server sent a message, not the file: {chunk[:80].decode()}"
                )
            if file.tell() + len(chunk) > limit:
                part.discard()
                raise DownloadFailed(f"the server sent more than {limit} bytes")
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() - restarted >= CHUNK:
                deadline.restart()
                restarted = file.tell()
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
    return int(value) if value.isdecimal() and len(value) <= 18 else None


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte and the whole file's size from Content-Range; ``None`` if unknown."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, _, total = found.groups() if found else (None, None, "*")
    return None if start is None else int(start), None if total == "*" else int(total)


def validator_of(response: requests.Response) -> str:
    """Return the validator of the content: its strong ETag, else its date, else ""."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def retry_seconds(retry_after: str) -> float:
    """Return Retry-After, a number or a date, in seconds from now; 0 if it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
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
    return redact(" ".join(text.split())) or type(error).__name__
