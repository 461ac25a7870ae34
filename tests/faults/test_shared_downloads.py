"""Several processes that want one file from the web fetch it once, whoever is killed meanwhile."""

import hashlib
import time
from pathlib import Path

import pytest

from tests.checkpoints.fault_server import Answer, start_server
from tests.faults.places import network
from tests.faults.started_tools import TOOLS, Started

INSPECT = f"{TOOLS}.inspect_checkpoint"
ARRIVING = 2.0  # seconds until another process waits, most likely; what must be holds before, too
LENT = 0.004  # seconds before each 64 KB: three in all


@pytest.fixture(scope="module")
def server():
    faults, running = start_server()
    yield faults
    running.shutdown()
    running.server_close()


@pytest.fixture
def cache(out, monkeypatch):
    folder = out.with_name("cache")
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    return folder


@pytest.fixture
def url(server, request):
    """An address that gives the network slowly."""
    server.asked.clear()
    name = f"/{request.node.name.encode().hex()[-40:]}.pth"
    return server.serve(name, network().read_bytes(), Answer(pause=LENT))


def inspect(url, out, name):
    return Started(INSPECT, [url], out.with_name(f"said by {name}"))


def part_of(cache):
    """How much has come."""
    return sum(path.stat().st_size for path in cache.rglob("*.pth.part"))


def assert_whole(cache):
    """The file, its hash and its lock, and nothing else."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".lock", ".pth", ".sha256"]
    [file] = [path for path in files if path.suffix == ".pth"]
    assert file.read_bytes() == network().read_bytes()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert Path(f"{file}.sha256").read_text().startswith(digest)


@pytest.mark.parametrize("number", [2, 4])
def test_of_several_processes_one_fetches_for_all(number, url, server, cache, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for run in [started(inspect(url, out, f"run {n}")) for n in range(number)]:
        run.ended_well()
    assert [asked for _, asked in server.asked] == [""]
    assert_whole(cache)


def test_where_the_one_that_fetches_is_killed_another_goes_on(url, server, cache, out, started):
    first = started(inspect(url, out, "first"))
    first.until(lambda: part_of(cache) > 0, "a part")
    first.pause()
    others = [started(inspect(url, out, f"other {n}")) for n in range(2)]
    time.sleep(ARRIVING)
    first.kill()
    for other in others:
        other.ended_well()
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] == ""
    assert len(ranges) == 2
    assert int(ranges[1].removeprefix("bytes=").removesuffix("-")) > 0
    assert_whole(cache)


def test_one_that_waits_can_be_killed_too(url, server, cache, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(inspect(url, out, "first"))
    first.until(lambda: part_of(cache) > 0, "a part")
    first.pause()
    other = started(inspect(url, out, "other"))
    time.sleep(ARRIVING)
    other.kill()
    first.go_on()
    first.ended_well()
    assert [asked for _, asked in server.asked] == [""]
    assert_whole(cache)


@pytest.mark.timeout(900)
def test_killed_again_and_again_each_byte_comes_once(url, server, cache, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for number in range(6):
        before = part_of(cache)
        run = started(inspect(url, out, f"killed {number}"))
        run.until(lambda before=before: part_of(cache) > before, "more of it")
        run.kill()
    started(inspect(url, out, "last")).ended_well()
    starts = [int(asked[6:-1] or 0) if asked else 0 for _, asked in server.asked]
    assert len(starts) == 7
    assert starts == sorted(set(starts))
    assert_whole(cache)
