"""Processes that need the same file download it once, even if one of them is killed."""

import pytest

from tests.checkpoints.fault_server import Answer, start_server
from tests.faults.processes import Process
from tests.faults.runs import network

PAUSE = 0.004  # seconds before each 64 KB, so that the download can be interrupted


@pytest.fixture(scope="module")
def server():
    faults, running = start_server()
    yield faults
    running.shutdown()
    running.server_close()


@pytest.mark.whole
def test_download_of_a_killed_process_is_continued(server, out, started):
    url = server.serve("/network.pth", network().read_bytes(), Answer(pause=PAUSE))
    cache = out.with_name("cache")

    def inspect(name):
        environment = {"FVCORE_CACHE": str(cache)}
        tool, printed = "virtex.eval_tools.inspect_checkpoint", out.with_name(name)
        return started(Process(tool, [url], printed, environment))

    first = inspect("first")
    first.until(lambda: any(p.stat().st_size for p in cache.rglob("*.pth.part")), "a partial file")
    others = [inspect(f"other {n}") for n in range(2)]
    first.kill()
    for other in others:
        other.succeeds()
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] == "" and len(ranges) == 2
    assert int(ranges[1].removeprefix("bytes=").removesuffix("-")) > 0
    (file,) = cache.rglob("network.pth")
    assert file.read_bytes() == network().read_bytes()
