"""The clock is set while a tool runs: what comes out is the same, and no time is below zero."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints.fault_server import Answer, start_server
from tests.faults.places import network
from tests.faults.small_runs import RUNS, has_come, names_in, result_of, undisturbed
from tests.faults.started_tools import PATIENCE, TOOLS
from tests.leaderboard import board_records

CLOCK = Path(__file__).with_name("clock")
HOUR = 3600
JUMPS = {
    "an hour back": lambda: -HOUR,
    "a day back": lambda: -24 * HOUR,
    "to 1970": lambda: 60 - time.time(),
    "to 2100": lambda: 4102444800 - time.time(),
}
QUICK = {"pretraining": ("a day back",)}
# what is there when the clock is set
WHEN = {
    "pretraining": "model_0000005.pth",
    "transfer": "model_0000001.pth",
    "linear": "model_0000004.pth",
    "fine-tuning": "model_0000004.pth",
    "svm": "run.json",
    "captioning": "captions.partial.rank0.jsonl",
}
STAMP = re.compile(r"\[(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)\] \S")


def pytest_generate_tests(metafunc):
    if "jump" in metafunc.fixturenames:
        names = ["kind", "jump"] if "kind" in metafunc.fixturenames else ["jump"]
        whole = metafunc.config.getoption("--whole")
        if len(names) == 1:
            metafunc.parametrize("jump", JUMPS)
            return
        chosen = {kind: JUMPS for kind in WHEN} if whole else QUICK
        metafunc.parametrize(names, [(k, j) for k, jumps in chosen.items() for j in jumps])


def run(module, argv, jump, file, looks=0, environment=None):
    """A tool as a command of its own, and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *map(str, argv)],
        env={
            **os.environ,
            **(environment or {}),
            "PYTHONPATH": os.pathsep.join([str(CLOCK), os.environ.get("PYTHONPATH", "")]),
            "CLOCK_JUMPS": f"{JUMPS[jump]():.0f} {file} {looks}",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, said[-3000:]
    assert ended.returncode == 0, said[-3000:]
    return said


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers_in(each)]
    return [value] if isinstance(value, int | float) else []


def assert_sane(kind, out):
    """Times are those that it took, and what is read by its time has one."""
    record = json.loads((out / RUNS[kind].record).read_text())
    assert record["timing"]
    for number in numbers_in(record["timing"]):
        assert 0 <= number < 1e6
    for line in (out / "metrics.json").open():
        for name, value in json.loads(line).items():
            if "second" in name or "time" in name:
                assert 0 <= value < 1e6
                assert math.isfinite(value)
    log = (out / "log.txt").read_text()
    assert STAMP.search(log)
    assert "eta: -" not in log


def test_a_run_comes_to_the_same(kind, jump, out):
    chosen, caches = RUNS[kind], RUNS[kind].environment(out)
    said = run(chosen.module, chosen.arguments(out), jump, out / WHEN[kind], environment=caches)
    result, names = undisturbed(kind)
    assert result_of(RUNS[kind], out) == result
    assert names_in(out) == names
    assert_sane(kind, out)
    assert "-1 day" not in said  # a timedelta below zero


def test_a_run_goes_on_after_the_clock_was_set(jump, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(RUNS["pretraining"].start(out))
    has_come(first, out, RUNS["pretraining"].evaluating)
    first.kill()
    argv = RUNS["pretraining"].arguments(out, "--resume")
    run(RUNS["pretraining"].module, argv, jump, "/")
    assert result_of(RUNS["pretraining"], out) == undisturbed("pretraining")[0]
    assert_sane("pretraining", out)


def test_what_a_process_writes_into_the_cache_is_kept_by_one_of_another_time(
    jump, out, started, whole
):
    if not whole:
        pytest.skip("with --whole")
    cache = out.with_name("features")
    flags = ("--cache-dir", cache, "--cache-limit", "0.0001")
    first = started(RUNS["svm"].start(out / "first", *flags))
    first.until(lambda: list(cache.glob("partial-*/features.npy")), "its file")
    first.pause()
    [written] = cache.glob("partial-*")
    other = RUNS["svm"].arguments(out / "other", *flags, **{"DATA__IMAGE_CROP_SIZE": 30})
    run(RUNS["svm"].module, other, jump, "/")
    assert written.exists()
    first.go_on()
    first.ended_well()
    assert result_of(RUNS["svm"], out / "first") == undisturbed("svm")[0]


def test_a_download_is_whole(jump, out, monkeypatch, whole):
    if not whole:
        pytest.skip("with --whole")
    cache = out.with_name("cache")
    monkeypatch.setenv("FVCORE_CACHE", str(cache))
    faults, running = start_server()
    content = network().read_bytes()
    answers = (Answer(cut=2_000_000), Answer(status=503), Answer(cut=9_000_000), Answer())
    url = faults.serve("/network.pth", content, *answers)
    try:
        run(f"{TOOLS}.inspect_checkpoint", [url], jump, next_part(cache, url))
    finally:
        running.shutdown()
        running.server_close()
    [file] = cache.rglob("network.pth")
    assert file.read_bytes() == content


def next_part(cache, url):
    """Where a download is while it is none."""
    from virtex.checkpoints.downloading import cached_path

    return cached_path(url).with_name("network.pth.part")


def test_a_leaderboard_is_the_same(jump, out, whole):
    if not whole:
        pytest.skip("with --whole")
    records = board_records.write(
        out / "records",
        *(board_records.record(f"model {n}", value=50 + n) for n in range(4)),
    )
    for name, when in (("plain", "/nowhere"), ("jumped", "/")):
        argv = [records, "--output", out / f"{name}.csv", "--markdown", out / f"{name}.md"]
        argv += ["--html", out / f"{name}.html", "--plot", out / f"{name}.png"]
        run(f"{TOOLS}.leaderboard", argv, jump, when, looks=3)
    for kind in ("csv", "md"):
        assert (out / f"jumped.{kind}").read_text() == (out / f"plain.{kind}").read_text()
    assert (out / "jumped.html").stat().st_size > 1000
