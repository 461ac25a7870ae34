"""A download is whole and right, or it is not there; whatever the server does."""

import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import requests
import torch

from tests.checkpoints.fault_server import Answer
from virtex.checkpoints import CheckpointError, downloading
from virtex.checkpoints.connection import PartialFile, Refused, check_answer
from virtex.checkpoints.downloading import cached_path, download

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BEGINNING = (Answer(cut=700_000), Answer(503))  # then it gives nothing more


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "model.pth"


def names(path):
    return sorted(found.name for found in path.parent.iterdir())


def refusal(urls, path, **known):
    """The one sentence that a download ends with, after which there is no such file."""
    with pytest.raises(CheckpointError) as error:
        download(urls, path, **known)
    assert not path.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def in_a_process(url, path, sha256=""):
    code = (
        "import sys; from pathlib import Path; from virtex.checkpoints import downloading; "
        "downloading.BACK_OFF = 0.01; "
        "downloading.download([sys.argv[1]], Path(sys.argv[2]), sys.argv[3])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(path), sha256], stderr=subprocess.PIPE, text=True
    )


def test_a_file_is_fetched_once_and_nothing_else_is_left(server, path):
    url = server.serve("/model.pth", CONTENT)
    assert download([url], path).read_bytes() == CONTENT
    assert download([url], path) == path
    assert server.asked == [("/model.pth", "")]
    assert names(path) == ["model.pth", "model.pth.lock", "model.pth.sha256"]


def test_what_is_there_is_used_without_a_network(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download(["http://127.0.0.1:9/model.pth"], path, SHA256) == path


def test_a_cut_connection_is_resumed_where_it_ended(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(cut=1_500_000), Answer())
    download([url], path)
    assert path.read_bytes() == CONTENT
    first, second = server.asked
    assert first[1] == "" and second[1] == "bytes=1500000-"


def test_many_cuts_are_no_failure_while_the_file_comes_on(server, path, monkeypatch):
    monkeypatch.setattr(downloading, "PROGRESS", 100_000)
    url = server.serve("/model.pth", CONTENT, Answer(cut=200_000))
    assert download([url], path).read_bytes() == CONTENT
    assert len(server.asked) > downloading.ATTEMPTS


def test_a_killed_process_leaves_a_beginning_that_the_next_one_goes_on_from(server, path):
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


def test_a_file_that_changed_between_is_fetched_from_its_start(server, path):
    url = server.serve("/model.pth", b"x" * len(CONTENT), *BEGINNING)
    assert "503 Service Unavailable (5 attempts)" in refusal([url], path)
    server.serve("/model.pth", CONTENT, etag='"2"')
    assert download([url], path).read_bytes() == CONTENT


def test_without_a_mark_of_the_server_only_a_known_hash_lets_a_beginning_count(server, path):
    cut = Answer(cut=700_000)
    url = server.serve("/model.pth", CONTENT, cut, Answer(), etag="")
    download([url], path)
    assert [asked for _, asked in server.asked] == ["", ""]
    other = path.with_name("other.pth")
    url = server.serve("/other.pth", CONTENT, cut, Answer(), etag="")
    download([url], other, SHA256)
    assert server.asked[-1][1] == "bytes=700000-"


def test_a_wrong_beginning_is_found_by_the_hash_and_fetched_anew(server, path):
    url = server.serve("/model.pth", CONTENT, *BEGINNING)
    refusal([url], path)
    part = path.with_name("model.pth.part")
    part.write_bytes(b"?" * part.stat().st_size)
    server.serve("/model.pth", CONTENT)
    assert download([url], path, SHA256).read_bytes() == CONTENT


def test_a_server_that_gives_no_parts_starts_again(server, path):
    url = server.serve(
        "/model.pth", CONTENT, Answer(cut=700_000, ranges=False), Answer(ranges=False)
    )
    assert download([url], path).read_bytes() == CONTENT


def test_a_beginning_longer_than_the_file_is_dropped(server, path):
    url = server.serve("/model.pth", CONTENT, *BEGINNING)
    refusal([url], path)
    with open(path.with_name("model.pth.part"), "ab") as part:
        part.write(CONTENT)
    server.serve("/model.pth", CONTENT)
    assert download([url], path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "lie",
    [
        Answer(part="bytes 5-2999999/3000000"),
        Answer(part="bytes 700000-2999999/3000000", etag='"2"'),
        Answer(part="bytes seven-eight/nine"),
        Answer(part=""),
    ],
    ids=["another start", "another file", "nonsense", "nothing"],
)
def test_a_part_that_was_not_asked_for_is_not_glued_on(server, path, lie):
    lie = replace(lie, first=None if lie.part else 100)
    url = server.serve("/model.bin", CONTENT, Answer(cut=700_000), lie, Answer())
    assert download([url], path).read_bytes() == CONTENT


def test_a_part_where_the_whole_was_asked_for_is_not_taken_for_it(server, path):
    url = server.serve("/model.bin", CONTENT, Answer(first=100), Answer())
    assert download([url], path).read_bytes() == CONTENT


def test_a_part_shorter_than_the_rest_is_not_taken_for_the_end(server, path):
    """Some caches give at most so many bytes at once, and announce the whole file's number."""
    short = Answer(announce=500_000, cut=500_000, part="bytes 700000-1199999/3000000")
    url = server.serve("/model.bin", CONTENT, Answer(cut=700_000), short, Answer())
    assert download([url], path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=1200000-"


def test_all_that_came_before_is_checked_and_kept(server, path):
    url = server.serve("/model.bin", CONTENT)
    part = PartialFile(path)
    path.parent.mkdir()
    part.path.write_bytes(CONTENT)
    part.begin(url, '"1"')
    assert download([url], path).read_bytes() == CONTENT
    assert server.asked == [("/model.bin", "bytes=3000000-")]


@pytest.mark.parametrize("sha256", ["", SHA256])
def test_what_is_encoded_on_the_way_is_decoded_and_never_resumed(server, path, sha256):
    url = server.serve("/model.bin", CONTENT, Answer(gzip=True, cut=700_000), Answer(gzip=True))
    assert download([url], path, sha256).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["", ""]
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_a_date_marks_a_file_as_well(server, path):
    date = {"Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
    first = Answer(cut=700_000, headers=date)
    url = server.serve("/model.bin", CONTENT, first, Answer(headers=date), etag="")
    assert download([url], path).read_bytes() == CONTENT
    assert server.headers[-1]["If-Range"] == date["Last-Modified"]


def test_a_mirror_does_not_go_on_with_the_part_of_another(server, path):
    first = server.serve("/first.bin", b"?" * len(CONTENT), *BEGINNING)
    second = server.serve("/second.bin", CONTENT)
    assert download([first, second], path, SHA256).read_bytes() == CONTENT
    assert server.asked[-1] == ("/second.bin", "")


@pytest.mark.parametrize(
    ("asked", "way", "refused"),
    [
        ("https://a.org/m", ["https://a.org/m"], False),
        ("http://a.org/m", ["http://a.org/m"], False),
        ("https://a.org/m", ["https://a.org/m", "http://b.org/m"], True),
        ("HTTPS://a.org/m", ["https://a.org/m", "http://b.org/m", "https://a.org/n"], True),
    ],
)
def test_a_way_without_encryption_is_refused_where_it_was_asked_for(asked, way, refused):
    answers = []
    for url in way:
        answers.append(requests.Response())
        answers[-1].url, answers[-1].status_code = url, 200
    answers[-1].history = answers[:-1]
    with pytest.raises(Refused, match="without encryption") if refused else nullcontext():
        check_answer(answers[-1], asked)


@pytest.mark.parametrize("wish", ["100000", "Wed, 25 Nov 2126 00:00:00 GMT"])
def test_a_wish_to_wait_for_ages_is_cut_short(server, path, wish, monkeypatch):
    monkeypatch.setattr(downloading, "LONGEST_WAIT", 0.3)
    busy = Answer(503, headers={"Retry-After": wish})
    start = time.monotonic()
    download([server.serve("/model.bin", CONTENT, busy, Answer())], path)
    assert 0.3 <= time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(302, headers={"Location": "http://[::1"}), "Invalid"),
        (Answer(302, headers={"Location": "http://a..b/m.bin"}), ""),
    ],
)
def test_an_address_that_cannot_be_one_is_said(server, path, answer, words):
    assert words in refusal([server.serve("/model.bin", b"", answer)], path)


def test_a_number_of_bytes_beyond_all_measure_is_not_believed(server, path):
    huge = Answer(headers={"Content-Length": "9" * 5000}, announce=0)
    url = server.serve("/model.bin", CONTENT, huge)
    try:
        download([url], path)
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_a_message_in_place_of_the_file_is_refused_and_not_pinned(server, path):
    url = server.serve("/model.bin", b'{"error": "quota exceeded", "code": 403}')
    said = refusal([url], path)
    assert 'the server sent a message, not the file: {"error": "quota exceeded"' in said
    server.serve("/model.bin", CONTENT)
    assert download([url], path).read_bytes() == CONTENT


def test_a_server_that_announces_more_than_it_sends_is_found_out(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(announce=4_000_000, ranges=False))
    said = refusal([url], path)
    assert "the connection ended after 3000000 of 4000000 bytes (5 attempts)" in said


def test_a_server_that_announces_less_than_there_is_leaves_a_torn_file_which_is_refused(
    server, path, tmp_path
):
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    url = server.serve("/model.pth", content, Answer(announce=200_000, cut=200_000))
    assert "it ends before its end" in refusal([url], path)
    assert names(path) == ["model.pth.lock"]


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n <html>quota"])
def test_a_web_page_is_no_checkpoint(server, path, page):
    headers = {"Content-Type": "text/html"}
    url = server.serve("/model.pth", page * 100, Answer(headers=headers))
    assert f"{url}: the server sent a web page, not the file" in refusal([url], path)


def test_redirects_are_followed(server, path):
    target = server.serve("/store/abc", CONTENT)
    url = server.serve("/model.pth", b"", Answer(302, headers={"Location": target}))
    assert download([url], path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("target", "words"),
    [("/model.pth", "redirects"), ("file:///etc/passwd", "No connection adapters were found")],
)
def test_a_redirect_that_leads_nowhere_is_said(server, path, target, words):
    url = server.serve("/model.pth", b"", Answer(302, headers={"Location": target}))
    assert words in refusal([url], path)


def test_a_slow_server_is_waited_for(server, path):
    url = server.serve("/model.pth", CONTENT[:400_000], Answer(pause=0.1))
    assert download([url], path).read_bytes() == CONTENT[:400_000]
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again_and_its_wish_to_wait_is_kept(server, path, caplog):
    busy = Answer(503, headers={"Retry-After": "1"})
    url = server.serve("/model.pth", CONTENT, busy, Answer(429), Answer())
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, "virtex.download"):
        download([url], path)
    assert time.monotonic() - start > 1.0
    assert "the server answered 503 Service Unavailable; again in 1." in caplog.text


def test_a_server_that_stays_busy_is_given_up(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(503))
    assert "the server answered 503 Service Unavailable (5 attempts)" in refusal([url], path)
    assert len(server.asked) == 5


def test_what_is_not_there_is_asked_for_once(server, path):
    url = f"{server.address}/absent.pth"
    said = refusal([url], path)
    assert f"could not download {url}: the server answered 404 Not Found; check" in said
    assert f"put it at {path}" in said
    assert len(server.asked) == 1


def test_mirrors_are_tried_in_order(server, path):
    gone, page = f"{server.address}/gone.pth", server.serve("/page.pth", b"<html></html>")
    good = server.serve("/model.pth", CONTENT)
    download([gone, page, good], path, SHA256)
    assert [asked for asked, _ in server.asked] == ["/gone.pth", "/page.pth", "/model.pth"]


def test_all_mirrors_are_named_where_none_gives_the_file(server, path):
    busy = server.serve("/busy.pth", b"", Answer(500))
    said = refusal([f"{server.address}/gone.pth", busy], path)
    assert "gone.pth: the server answered 404 Not Found;" in said
    assert "busy.pth: the server answered 500 Internal Server Error (5 attempts)" in said


def test_a_file_of_another_hash_is_refused_and_the_next_mirror_tried(server, path):
    other, good = server.serve("/other.pth", b"other"), server.serve("/model.pth", CONTENT)
    assert download([other, good], path, SHA256).read_bytes() == CONTENT
    wrong = hashlib.sha256(b"other").hexdigest()
    said = refusal([other], path.with_name("second.pth"), sha256=SHA256)
    assert f"its sha256 is {wrong}, not {SHA256}" in said
    assert not path.with_name("second.pth.part").exists()


def test_the_first_digits_of_a_hash_are_enough(server, path):
    url = server.serve("/model.pth", CONTENT)
    assert download([url], path, SHA256[:8]).is_file()
    said = refusal([url], path.with_name("second.pth"), sha256="00000000")
    assert f"its sha256 is {SHA256}, not 00000000" in said


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, path):
    url = server.serve("/model.pth", CONTENT)
    assert "the file there has 3000000 bytes, not 2999999" in refusal([url], path, size=2_999_999)
    assert not path.with_name("model.pth.part").exists()


def test_an_empty_file_is_refused(server, path):
    assert "it is empty" in refusal([server.serve("/model.pth", b"")], path)


def test_an_unknown_hash_is_pinned_and_another_file_refused_later(server, path):
    url = server.serve("/model.pth", CONTENT)
    download([url], path)
    assert path.with_name("model.pth.sha256").read_text() == f"{SHA256}  model.pth\n"
    path.unlink()
    server.serve("/model.pth", b"changed")
    said = refusal([url], path)
    assert f"not {SHA256}, as at its first use; if you trust the new file, delete" in said
    assert said.endswith(f"{path}.sha256")
    path.with_name("model.pth.sha256").unlink()
    assert download([url], path).read_bytes() == b"changed"


def test_a_file_that_changed_on_disk_is_refused(server, path):
    url = server.serve("/model.pth", CONTENT)
    download([url], path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=f"{path} is not, or no longer, what {url} gave: "):
        download([url], path)


def test_a_file_that_was_put_there_by_hand_is_checked_too(path):
    path.parent.mkdir()
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=f"not {SHA256}; delete this file to download it"):
        download(["http://127.0.0.1:9/model.pth"], path, SHA256)


def test_eight_processes_fetch_once(server, path):
    url = server.serve("/model.pth", CONTENT, Answer(pause=0.02))
    processes = [in_a_process(url, path) for _ in range(8)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, errors
    assert server.asked == [("/model.pth", "")]
    assert path.read_bytes() == CONTENT


def test_a_connection_is_refused_at_once_in_one_sentence(path, monkeypatch):
    monkeypatch.setattr(downloading, "BACK_OFF", 0.01)
    assert "onnection refused" in refusal(["http://127.0.0.1:9/model.pth"], path)


def test_progress_is_shown(server, path, capfd):
    download([server.serve("/model.pth", CONTENT)], path)
    shown = capfd.readouterr().err
    assert "model.pth: 100%" in shown and "2.86M/2.86M" in shown


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_full_disk_is_one_sentence_and_what_came_is_kept(server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        url = server.serve("/model.pth", CONTENT)
        said = refusal([url], disk / "model.pth")
        assert "could not write" in said and "free space" in said
        # of a server that does not say how long the file is
        chunks = server.serve("/chunks.pth", CONTENT, Answer(headers={"Content-Encoding": "x"}))
        assert "No space left on device" in refusal([chunks], disk / "chunks.pth")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    said = refusal(["http://127.0.0.1:9/m.pth"], tmp_path / "file" / "model.pth")
    assert "could not write" in said and "FVCORE_CACHE" in said


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://host.org/a/m.pth", "host.org/a/m.pth"),
        ("http://user:word@host.org:81/m.pth", "host.org_81/m.pth"),
        ("https://host.org/../../../etc/m.pth", "host.org/etc/m.pth"),
    ],
)
def test_the_cache_has_a_place_for_each_address(url, place, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    assert cached_path(url) == tmp_path / "virtex" / place


def test_addresses_that_differ_in_their_query_are_two_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    places = {cached_path(f"https://host.org/get{query}") for query in ("", "?id=1", "?id=2")}
    assert len(places) == 3


@pytest.mark.parametrize("url", ["https://host.org", "https://host.org/", "https:///m.pth"])
def test_an_address_without_a_file_is_said(url):
    with pytest.raises(CheckpointError, match="names no file"):
        cached_path(url)
