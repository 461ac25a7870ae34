"""A download is complete and correct, or there is no file; whatever the server does."""

import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch

from tests.checkpoints.fault_server import Answer
from tests.errors import raises_code
from virtex.checkpoints import http_download
from virtex.checkpoints.download import cached_path, download
from virtex.checkpoints.http_download import DownloadFailed, PartialFile, redirected

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PARTIAL = (Answer(cut=700_000), Answer(503))  # sends a part, then nothing more
UNREACHABLE = "http://127.0.0.1:9/model.pth"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "model.pth"


def names(path):
    return sorted(found.name for found in path.parent.iterdir())


def assert_fails(urls, path, *named, code="checkpoint.download_failed", **known):
    with raises_code(code, *named) as error:
        download(urls, path, **known)
    assert not path.exists()
    assert "\n" not in str(error.value)


def in_a_process(url, path, sha256=""):
    code = (
        "import sys; from pathlib import Path; "
        "from virtex.checkpoints import download, http_download; "
        "http_download.BACK_OFF = 0.01; "
        "download.download([sys.argv[1]], Path(sys.argv[2]), sys.argv[3])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(path), sha256], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def waits(monkeypatch):
    """Seconds between attempts, which are not waited."""
    waits = []
    monkeypatch.setattr(http_download, "time", type("time", (), {"sleep": waits.append}))
    http_download.time.time = time.time
    http_download.time.monotonic = time.monotonic
    return waits


# Complete downloads, and resumed ones ----------------------------------------------------------


def test_file_is_downloaded_once(server, path, capfd):
    url = server.serve("/model.pth", CONTENT)
    assert download([url], path).read_bytes() == CONTENT
    assert "model.pth: 100%" in capfd.readouterr().err
    assert download([url], path) == path
    assert server.asked == [("/model.pth", "")]
    assert names(path) == ["model.pth", "model.pth.lock", "model.pth.sha256"]


def test_existing_file_needs_no_network(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download([UNREACHABLE], path, SHA256) == path


def test_interrupted_download_is_resumed(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(cut=1_500_000), Answer())
    assert download([url], path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["", "bytes=1500000-"]


def test_interruptions_with_progress_are_unlimited(server, path, monkeypatch):
    monkeypatch.setattr(http_download, "MIN_PROGRESS", 100_000)
    url = server.serve("/model.pth", CONTENT, Answer(cut=200_000))
    assert download([url], path).read_bytes() == CONTENT
    assert len(server.asked) > http_download.MAX_ATTEMPTS


def test_download_of_a_killed_process_is_resumed(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(pause=0.2), Answer())
    process = in_a_process(url, path)
    part = path.with_name("model.pth.part")
    while not part.is_file() or part.stat().st_size < 200_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    assert download([url], path).read_bytes() == CONTENT
    assert int(server.asked[-1][1][6:-1]) >= 200_000


def test_processes_download_once(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(pause=0.02))
    processes = [in_a_process(url, path) for _ in range(3)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, errors
    assert server.asked == [("/model.pth", "")]
    assert path.read_bytes() == CONTENT


def test_changed_file_is_downloaded_from_its_start(server, path):
    url = server.serve("/model.pth", b"x" * len(CONTENT), *PARTIAL)
    assert_fails([url], path, url, "503")
    server.serve("/model.pth", CONTENT, etag='"2"')
    assert download([url], path).read_bytes() == CONTENT


def test_without_a_validator_only_a_known_hash_allows_resuming(server, path):
    cut = Answer(cut=700_000)
    url = server.serve("/model.pth", CONTENT, cut, Answer(), etag="")
    download([url], path)
    assert [asked for _, asked in server.asked] == ["", ""]
    url = server.serve("/other.pth", CONTENT, cut, Answer(), etag="")
    download([url], path.with_name("other.pth"), SHA256)
    assert server.asked[-1][1] == "bytes=700000-"


def test_modification_date_is_a_validator(server, path):
    date = {"Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
    first = Answer(cut=700_000, headers=date)
    url = server.serve("/model.bin", CONTENT, first, Answer(headers=date), etag="")
    assert download([url], path).read_bytes() == CONTENT
    assert server.headers[-1]["If-Range"] == date["Last-Modified"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"?" * len(content),  # wrong: found by the hash
        lambda content: content + CONTENT,  # longer than the file
    ],
    ids=["wrong", "too long"],
)
def test_invalid_partial_file_is_discarded(change, server, path):
    url = server.serve("/model.pth", CONTENT, *PARTIAL)
    assert_fails([url], path)
    part = path.with_name("model.pth.part")
    part.write_bytes(change(part.read_bytes()))
    server.serve("/model.pth", CONTENT)
    assert download([url], path, SHA256).read_bytes() == CONTENT


def test_complete_partial_file_is_verified_and_kept(server, path):
    url = server.serve("/model.bin", CONTENT)
    part = PartialFile(path)
    path.parent.mkdir()
    part.path.write_bytes(CONTENT)
    part.start(url, '"1"')
    assert download([url], path).read_bytes() == CONTENT
    assert server.asked == [("/model.bin", "bytes=3000000-")]


def test_mirror_does_not_resume_the_file_of_another(server, path):
    first = server.serve("/first.bin", b"?" * len(CONTENT), *PARTIAL)
    second = server.serve("/second.bin", CONTENT)
    assert download([first, second], path, SHA256).read_bytes() == CONTENT
    assert server.asked[-1] == ("/second.bin", "")


# Servers that do not follow the protocol ---------------------------------------------------------


def test_server_without_ranges(server, path):
    url = server.serve(
        "/model.pth", CONTENT, Answer(cut=700_000, ranges=False), Answer(ranges=False)
    )
    assert download([url], path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(part="bytes 5-2999999/3000000"),
        Answer(part="bytes 700000-2999999/3000000", etag='"2"'),
        Answer(part="bytes seven-eight/nine"),
        Answer(part="", first=100),
    ],
    ids=["another start", "another file", "nonsense", "nothing"],
)
def test_wrong_ranges_are_not_appended(server, path, wrong):
    url = server.serve("/model.bin", CONTENT, Answer(cut=700_000), wrong, Answer())
    assert download([url], path).read_bytes() == CONTENT


def test_unrequested_range_is_not_the_file(server, path):
    url = server.serve("/model.bin", CONTENT, Answer(first=100), Answer())
    assert download([url], path).read_bytes() == CONTENT


def test_short_range_is_not_the_end(server, path):
    """Some caches send a limited number of bytes and announce the size of the whole file."""
    short = Answer(announce=500_000, cut=500_000, part="bytes 700000-1199999/3000000")
    url = server.serve("/model.bin", CONTENT, Answer(cut=700_000), short, Answer())
    assert download([url], path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=1200000-"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, br"])
def test_encoded_content_is_refused(server, path, encoding):
    url = server.serve("/model.bin", CONTENT, Answer(encoding=encoding))
    assert_fails([url], path, url, encoding)
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert names(path) == ["model.pth.lock"]


def test_announced_size_beyond_limits(server, path):
    huge = Answer(headers={"Content-Length": "9" * 5000}, announce=0)
    assert_fails([server.serve("/model.bin", CONTENT, huge)], path)


def test_more_announced_than_sent(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(announce=4_000_000, ranges=False))
    assert_fails([url], path, "3000000 of 4000000 bytes")


def test_less_announced_than_there_is(server, path, tmp_path):
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    url = server.serve("/model.pth", content, Answer(announce=200_000, cut=200_000))
    assert_fails([url], path, "truncated")
    assert names(path) == ["model.pth.lock"]


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>Sign in</title>",
        b"\n <html>quota",
        b'{"error": "quota exceeded", "code": 403}',
        b"",
    ],
)
def test_messages_in_place_of_the_file_are_not_pinned(server, path, content):
    url = server.serve("/model.bin", content)
    assert_fails([url], path, url)
    server.serve("/model.bin", CONTENT)
    assert download([url], path).read_bytes() == CONTENT


OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n"
ENDLESS = {
    "a byte at a time": (OK + b"Content-Length: 3000000\r\n\r\n", b"x", 0.01),
    "a chunk of one byte at a time": (OK + CHUNKED + b"\r\n", b"1\r\nx\r\n", 0.01),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0),
    "a slow header": (OK + b"X: ", b"x", 0.01),
    "headers": (OK, b"X: y\r\n", 0.01),
    "trailers": (OK + CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"X: y\r\n", 0),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_responses_without_end(what, server, path, monkeypatch):
    monkeypatch.setattr(http_download, "PROGRESS_TIMEOUT", 0.3)
    monkeypatch.setattr(http_download, "MAX_ATTEMPTS", 2)
    url = server.serve("/model.pth", b"", Answer(repeat=ENDLESS[what]))
    assert_fails([url], path, url)
    assert names(path) == ["model.pth.lock"]


@pytest.mark.parametrize(("size", "share", "limit"), [(700_000, 0.9, 700_000), (0, 0.0, 0)])
def test_content_without_end(size, share, limit, server, path, monkeypatch):
    monkeypatch.setattr(http_download, "DISK_SHARE", share)
    headers = OK + b'ETag: "1"\r\n\r\n'
    url = server.serve("/model.pth", b"", Answer(repeat=(headers, b"x" * 65536, 0)))
    assert_fails([url], path, url, f"more than {limit} bytes", size=size)
    assert names(path) == ["model.pth.lock"]


def test_content_of_a_redirect_is_not_read(server, path):
    target = server.serve("/model.pth", CONTENT)
    redirect = b"HTTP/1.1 302 Found\r\nLocation: %b\r\n\r\n" % target.encode()
    url = server.serve("/m.pth", b"", Answer(repeat=(redirect, b"x" * 65536, 0)))
    assert download([url], path).read_bytes() == CONTENT


# Redirects, waiting and mirrors ------------------------------------------------------------------


def test_redirects_are_followed(server, path):
    target = server.serve("/store/abc", CONTENT)
    url = server.serve("/model.pth", b"", Answer(302, headers={"Location": target}))
    assert download([url], path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "target", ["/model.pth", "file:///etc/passwd", "http://[::1", "http://a..b/m.bin"]
)
def test_invalid_redirects_are_reported(server, path, target):
    url = server.serve("/model.pth", b"", Answer(302, headers={"Location": target}))
    assert_fails([url], path, url)


@pytest.mark.parametrize(
    ("url", "target", "found"),
    [
        ("http://a.org/m", "http://b.org/m", "http://b.org/m"),
        ("http://a.org/m", "https://b.org/m", "https://b.org/m"),
        ("https://a.org/m", "//b.org/n", "https://b.org/n"),
        ("https://me:word@a.org/m", "/n", "https://me:word@a.org/n"),
        ("https://a.org/m", "http://b.org/m", None),
        ("HTTPS://a.org/m", "HTTP://a.org/n", None),
    ],
)
def test_redirect_without_encryption_is_refused(url, target, found):
    with nullcontext() if found else pytest.raises(DownloadFailed):
        assert redirected(url, target) == found


def test_slow_server_is_waited_for(server, path):
    url = server.serve("/model.pth", CONTENT[:400_000], Answer(pause=0.1))
    assert download([url], path).read_bytes() == CONTENT[:400_000]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("7", 7.0),
        ("100000", 60.0),
        ("9" * 400, 60.0),
        ("Wed, 25 Nov 2126 00:00:00 GMT", 60.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.01),
        ("Wed, 25 Nov 99999999999999999999 00:00:00 GMT", 0.01),
        ("-1", 0.01),
    ],
)
def test_retry_after_is_respected_within_limits(retry_after, wait, server, path, waits, caplog):
    busy = Answer(503, headers={"Retry-After": retry_after})
    url = server.serve("/model.pth", CONTENT, busy, Answer(429), Answer())
    with caplog.at_level(logging.WARNING, "virtex.download"):
        assert download([url], path).read_bytes() == CONTENT
    assert wait <= waits[0] <= 1.25 * wait and waits[1] < 1
    assert "503 Service Unavailable" in caplog.text


@pytest.mark.parametrize(("status", "attempts"), [(503, 5), (404, 1)])
def test_temporary_errors_are_retried(status, attempts, server, path):
    url = server.serve("/model.pth", CONTENT, Answer(status))
    assert_fails([url], path, url, status, path)
    assert len(server.asked) == attempts


def test_connection_refused(path, monkeypatch):
    monkeypatch.setattr(http_download, "BACK_OFF", 0.01)
    assert_fails([UNREACHABLE], path, UNREACHABLE, "onnection refused")


def test_mirrors_are_tried_in_order(server, path):
    gone, page = f"{server.address}/gone.pth", server.serve("/page.pth", b"<html></html>")
    other, good = server.serve("/other.pth", b"other"), server.serve("/model.pth", CONTENT)
    download([gone, page, other, good], path, SHA256)
    assert [asked[1:] for asked, _ in server.asked] == [
        *("gone.pth", "page.pth", "other.pth", "model.pth"),
    ]


def test_all_mirrors_are_named(server, path):
    gone, busy = f"{server.address}/gone.pth", server.serve("/busy.pth", b"", Answer(500))
    assert_fails([gone, busy], path, f"{gone}: ", f"{busy}: ", "404", "500")


# Hashes and sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [SHA256, "00000000"])
def test_wrong_hash_is_refused(expected, server, path):
    other = server.serve("/other.pth", b"other")
    assert_fails([other], path, hashlib.sha256(b"other").hexdigest(), expected, sha256=expected)
    assert not path.with_name("model.pth.part").exists()


def test_first_digits_of_a_hash_are_enough(server, path):
    url = server.serve("/model.pth", CONTENT)
    assert download([url], path, SHA256[:8]).is_file()


def test_wrong_size_is_refused_before_the_download(server, path):
    url = server.serve("/model.pth", CONTENT)
    assert_fails([url], path, "3000000", "2999999", size=2_999_999)
    assert not path.with_name("model.pth.part").exists()


def test_unknown_hash_is_pinned_at_first_use(server, path):
    url = server.serve("/model.pth", CONTENT)
    download([url], path)
    pin = path.with_name("model.pth.sha256")
    assert pin.read_text() == f"{SHA256}  model.pth\n"
    path.unlink()
    server.serve("/model.pth", b"changed")
    assert_fails([url], path, SHA256, f"delete {pin}")
    pin.unlink()
    assert download([url], path).read_bytes() == b"changed"


def test_file_that_changed_on_disk_is_refused(server, path):
    url = server.serve("/model.pth", CONTENT)
    download([url], path)
    path.write_bytes(CONTENT[:-1])
    with raises_code("checkpoint.hash_mismatch", path, url):
        download([url], path)


def test_existing_file_is_verified(path):
    path.parent.mkdir()
    path.write_bytes(b"other")
    with raises_code("checkpoint.hash_mismatch", path, SHA256):
        download([UNREACHABLE], path, SHA256)


# Disks and the cache -----------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_full_disk_is_reported(server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted")
    try:
        url = server.serve("/model.pth", CONTENT)
        assert_fails([url], disk / "model.pth", disk / "model.pth")
        # of a server that does not announce a size
        endless = Answer(repeat=(b"HTTP/1.1 200 OK\r\n\r\n", CONTENT, 0))
        assert_fails([server.serve("/chunks.pth", b"", endless)], disk / "chunks.pth", "more than")
        assert names(disk / "chunks.pth") == ["chunks.pth.lock", "model.pth.lock"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    assert_fails([UNREACHABLE], tmp_path / "file" / "model.pth", "FVCORE_CACHE")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://host.org/a/m.pth", "host.org/a/m.pth"),
        ("http://user:word@host.org:81/m.pth", "http:host.org+81/m.pth"),
        ("https://host.org/../../../etc/m.pth", "host.org/etc/m.pth"),
    ],
)
def test_cached_path(url, place, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    assert cached_path(url) == tmp_path / "virtex" / place
    assert cached_path(url) != cached_path(f"{url}?id=1") != cached_path(f"{url}?id=2")
    assert cached_path(url) == cached_path(url.replace("http:", "HTTP:"))


def test_unencrypted_file_does_not_answer_https():
    assert cached_path("http://a.org/m.pth") != cached_path("https://a.org/m.pth")


@pytest.mark.parametrize("url", ["https://host.org", "https://host.org/", "https:///m.pth"])
def test_address_without_a_file_name(url):
    with raises_code("checkpoint.invalid_name", url):
        cached_path(url)
