"""One connection to a server, and the partial file that it fills."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import requests
import urllib3
from tqdm import tqdm

import virtex
from virtex.files import replace_file

TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the content
PIECE = 1 << 16  # bytes read at once, of which a broken connection loses the last
TRY_AGAIN = (408, 425, 429)  # of the answers 4xx; the others will not change
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
MESSAGE = re.compile(rb"\s*\{\s*\"[\t\n\r\x20-\x7e]{20}")  # in JSON; no checkpoint is text
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")

_WILL_NOT_CHANGE = (
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.SSLError,
    requests.TooManyRedirects,
    ValueError,  # an address, perhaps that of a redirect, that cannot be one
)


class Refused(Exception):
    """This address will not give the file; another may."""


class Interrupted(Exception):
    """Not this time; the same address may give the rest.

    Attributes:
        wait: seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class PartialFile:
    """The beginning of a file beside it, and where it came from: ``FILE.part``, ``FILE.part.json``.

    Attributes:
        target: the file.
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

    def begin(self, url: str, mark: str) -> None:
        """Say where it comes from, and what the server calls this content (ETag or date)."""
        said = json.dumps({"url": url, "mark": mark})
        replace_file(self.origin, lambda file: file.write(said.encode()))

    def mark(self) -> tuple[str, str]:
        """The address and the server's mark that ``begin`` wrote; "" where there is none."""
        try:
            said = json.loads(self.origin.read_text())
            return str(said["url"]), str(said["mark"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""

    def goes_on_from(self, url: str, sha256: str) -> bool:
        """Whether the rest can come from this address: same content, or a hash that tells."""
        origin, mark = self.mark()
        return self.length() > 0 and origin == url and bool(mark or sha256)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give it its name."""
        os.replace(self.path, self.target)
        self.forget()

    def forget(self) -> None:
        """Drop what is said of a beginning that is there no more."""
        with contextlib.suppress(OSError):  # a folder that others fill may be read-only
            if not self.path.exists():
                self.origin.unlink()


def fetch_once(url: str, part: PartialFile, sha256: str, size: int) -> None:
    """Add to ``part`` what one connection gives, to the end of the file.

    Args:
        sha256, size: of the whole file; "" and 0 if unknown.

    Raises:
        Refused: the address will not give it.
        Interrupted: the connection ended early, or the server is busy.
        OSError: it cannot be written.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": f"virtex/{virtex.__version__}"}
    have = part.length() if part.goes_on_from(url, sha256) else 0
    if have:
        headers["Range"] = f"bytes={have}-"
        if part.mark()[1]:
            headers["If-Range"] = part.mark()[1]
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:
                if range_of(response)[1] == have:  # all of it had come
                    return
                part.discard()
                raise Interrupted("the server has nothing from there on")
            check_answer(response, url)
            if response.status_code == 206:
                start, total = have, continued(response, part, have)
            else:
                start, total = 0, length_of(response)
                # first: a process that is killed here must not leave old content under a new mark
                part.discard()
                if not is_encoded(response):  # else no part of it fits the file
                    part.begin(url, mark_in(response))
            save(response, part, start, total, size)
    except _WILL_NOT_CHANGE as error:
        raise Refused(one_line(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Interrupted(reason_of(error)) from error


def continued(response: requests.Response, part: PartialFile, have: int) -> int | None:
    """The whole file's bytes, by an answer that brings its part from byte ``have`` on.

    Raises:
        Interrupted: it brings another part, or one of another file; ``part`` is gone then.
    """
    start, total = range_of(response)
    mark, now = part.mark()[1], mark_in(response)
    if have and start == have and (not mark or now in ("", mark)) and not is_encoded(response):
        return total
    part.discard()
    raise Interrupted("the server sent another part than was asked for")


def check_answer(response: requests.Response, asked: str) -> None:
    """Pass a response that brings content.

    Raises:
        Refused, Interrupted: it brings none, or comes without the encryption that was asked for.
    """
    way = [answer.url for answer in (*response.history, response)]
    bare = [url for url in way if url.lower().startswith("http://")]
    if bare and asked.lower().startswith("https://"):
        raise Refused(f"it leads over an address without encryption, {bare[0]}")
    code = response.status_code
    if code in (200, 206):
        return
    reason = f"the server answered {code} {response.reason or ''}".rstrip()
    if code in TRY_AGAIN or code >= 500:
        raise Interrupted(reason, seconds_in(response.headers.get("Retry-After", "")))
    raise Refused(reason)


def save(
    response: requests.Response, part: PartialFile, start: int, total: int | None, size: int
) -> None:
    """Write a response's content from byte ``start`` on, under a progress bar.

    Args:
        total: of the whole file, as announced; size: as wanted, 0 if unknown.

    Raises:
        Refused: it is a web page or a message, or a file of another size than wanted.
        Interrupted: less came than was announced.
        OSError: the disk is too small.
    """
    if size and total and total != size:
        raise Refused(f"the file there has {total} bytes, not {size}")
    free = shutil.disk_usage(part.path.parent).free
    if total and free < total - start:
        raise OSError(errno.ENOSPC, f"it needs {total - start} bytes and {free} are free")
    with open(part.path, "r+b" if start else "wb") as file, bar_of(part, total, start) as bar:
        file.seek(start)
        file.truncate()
        # urllib3 would drop what it has read of a piece that ends early
        response.raw.enforce_content_length = is_encoded(response)
        for piece in response.iter_content(PIECE):
            if file.tell() == 0 and WEB_PAGE.match(piece):
                raise Refused("the server sent a web page, not the file")
            if file.tell() == 0 and MESSAGE.match(piece):
                raise Refused(f"the server sent a message, not the file: {piece[:80].decode()}")
            file.write(piece)
            bar.update(len(piece))
        got = file.tell()
    if total is not None and got < total:
        raise Interrupted(f"the connection ended after {got} of {total} bytes")


def bar_of(part: PartialFile, total: int | None, start: int) -> tqdm:
    return tqdm(
        total=total,
        initial=start,
        desc=part.target.name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        # where nobody looks it is a line in a log
        mininterval=0.1 if sys.stderr.isatty() else 30.0,
    )


def length_of(response: requests.Response) -> int | None:
    """The bytes of the content, as the server announces them."""
    said = response.headers.get("Content-Length", "")
    known = said.isdecimal() and len(said) <= 18 and not is_encoded(response)
    return int(said) if known else None


def range_of(response: requests.Response) -> tuple[int | None, int | None]:
    """Of the header Content-Range the first byte and the whole file's bytes; None if unknown."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, _, total = found.groups() if found else (None, None, "*")
    return None if start is None else int(start), None if total == "*" else int(total)


def mark_in(response: requests.Response) -> str:
    """What a server calls this content (a strong ETag, else its date); "" if it says nothing."""
    etag = response.headers.get("ETag", "")
    if is_encoded(response):  # the bytes on the way are not the file's
        return ""
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def seconds_in(retry_after: str) -> float:
    """The header Retry-After, a number or a date, as seconds from now; 0 if it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def reason_of(error: Exception) -> str:
    """The innermost reason of an error of requests, which wraps several layers."""
    inner = error
    while True:
        further = getattr(inner, "reason", None) or next(
            (a for a in inner.args if isinstance(a, Exception)), None
        )
        if not isinstance(further, Exception):
            return one_line(inner)
        inner = further


def one_line(error: Exception) -> str:
    text = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(error))  # it is said anyway
    return " ".join(text.split()) or type(error).__name__
