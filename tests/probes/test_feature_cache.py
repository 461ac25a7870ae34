"""Feature cache: exact keys, atomic entries, LRU eviction within a limit."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from copy import deepcopy

import numpy as np
import pytest

from tests.errors import raises_code
from virtex.errors import UserError
from virtex.probes.feature_cache import (
    ENTRY,
    FEATURES,
    GB,
    PARTIAL,
    FeatureCache,
    default_folder,
)

KEY = {
    "version": 1,
    "backbone": "5f1e",
    "images": {"images": 3, "sha256": "ab34"},
    "transform": {"resize": 256, "center_crop": 224},
    "seed": 0,
    "pooling": "global average",
}
LABELS = {"checkpoint": "moco.pth", "data": "imagenet_val"}
SHAPE = (300, 20)  # 24 000 bytes and a header


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def put(cache, key=KEY, value=1.0, shape=SHAPE, labels=LABELS):
    with cache.write(key, shape, labels) as path:
        fill(path, value)


def fill(path, value):
    array = np.load(path, mmap_mode="r+")
    array[:] = value
    array.flush()


def key_of(seed):
    return {**KEY, "seed": seed}


def set_last_used(cache, key, hour):
    os.utime(cache.entry_folder(key) / ENTRY, (3600 * hour, 3600 * hour))


def run_python(code, *arguments):
    """Run code with this module's names in another process; return its output."""
    code = "from tests.probes.test_feature_cache import *\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Keys --------------------------------------------------------------------------------------------

CHANGES = {
    "backbone": {"backbone": "77aa"},
    "images": {"images": {"images": 3, "sha256": "cd56"}},
    "crop": {"transform": {"resize": 256, "center_crop": 256}},
    "seed": {"seed": 1},
}


def test_entry_is_found_by_key(cache):
    assert cache.find(KEY) is None
    put(cache, value=3)
    found = cache.find(deepcopy(KEY))
    assert found.dtype == np.float32 and found.shape == SHAPE
    assert (found == 3).all()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_keys_do_not_find_entry(cache, change):
    put(cache)
    assert cache.find({**KEY, **change}) is None
    # not even in the folder of the other key
    cache.entry_folder(KEY).rename(cache.entry_folder({**KEY, **change}))
    assert cache.find({**KEY, **change}) is None


def test_other_process_finds_entry(cache):
    put(cache, value=5)
    code = "print(FeatureCache(Path(sys.argv[1])).find(KEY)[299, 19])"
    assert run_python("from pathlib import Path\n" + code, cache.folder) == "5.0\n"


def test_features_are_read_only(cache):
    put(cache)
    with pytest.raises(ValueError, match="read-only"):
        cache.find(KEY)[0, 0] = 2


def test_environment_variable_sets_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine" == FeatureCache().folder


# Atomicity ---------------------------------------------------------------------------------------


def test_entry_appears_when_complete(cache):
    with cache.write(KEY, SHAPE, LABELS) as path:
        fill(path, 1)
        assert cache.find(KEY) is None
        assert cache.entries() == []
    assert cache.find(KEY) is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, UserError])
def test_failure_leaves_nothing(cache, error):
    with pytest.raises(error), cache.write(KEY, SHAPE, LABELS) as path:
        fill(path, 1)
        raise error("")
    assert list(cache.folder.iterdir()) == []


def truncate(folder):
    content = (folder / FEATURES).read_bytes()
    (folder / FEATURES).write_bytes(content[:-1])


def change_key(folder):
    entry = json.loads((folder / ENTRY).read_text())
    (folder / ENTRY).write_text(json.dumps({**entry, "key": key_of(9)}))


DAMAGES = {
    "truncated": truncate,
    "truncated_header": lambda f: (f / FEATURES).write_bytes(b"\x93NUMPY\x01\x00v"),
    "no_features": lambda f: (f / FEATURES).unlink(),
    "archive": lambda f: (f / FEATURES).write_bytes(b"PK\x03\x04 and so on"),
    "other_shape": lambda f: np.save(f / FEATURES, np.zeros((3, 2), np.float32)),
    "no_description": lambda f: (f / ENTRY).unlink(),
    "list_as_description": lambda f: (f / ENTRY).write_text("[1, 2]"),
    "other_key": change_key,
    "binary_description": lambda f: (f / ENTRY).write_bytes(b"\xff\xfe\x00"),
    "empty_folder": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entry_is_replaced(cache, damage):
    put(cache, value=1)
    damage(cache.entry_folder(KEY))
    assert cache.find(KEY) is None
    put(cache, value=2)
    assert (cache.find(KEY) == 2).all()
    assert [entry.folder for entry in cache.entries()] == [cache.entry_folder(KEY)]


def test_other_files_are_kept(cache):
    stranger = cache.folder / "notes"
    stranger.mkdir(parents=True)
    (stranger / "read me").write_text("mine")
    put(cache)
    assert (stranger / "read me").read_text() == "mine"
    assert len(cache.entries()) == 1


def test_first_of_two_writers_wins(cache):
    code = "from pathlib import Path\nput(FeatureCache(Path(sys.argv[1])), value=2)"
    with cache.write(KEY, SHAPE, LABELS) as path:
        fill(path, 1)
        run_python(code, cache.folder)
    assert (cache.find(KEY) == 2).all()
    assert list(cache.folder.iterdir()) == [cache.entry_folder(KEY)]


# The limit ---------------------------------------------------------------------------------------


def put_three_entries(cache):
    """Write entries used in the order 2, 0, 1, without room for a fourth."""
    for seed, hour in ((0, 20), (1, 30), (2, 10)):
        put(cache, key_of(seed))
        set_last_used(cache, key_of(seed), hour)
    cache.limit = int(3.5 * 24000)


def remaining(cache):
    return [seed for seed in range(9) if cache.entry_folder(key_of(seed)).exists()]


def test_least_recently_used_entry_is_evicted(cache):
    put_three_entries(cache)
    put(cache, key_of(3))
    assert remaining(cache) == [0, 1, 3]


def test_reading_counts_as_use(cache):
    put_three_entries(cache)
    cache.find(key_of(2))
    put(cache, key_of(3))
    assert remaining(cache) == [1, 2, 3]


def test_evicts_as_many_as_needed(cache):
    put_three_entries(cache)
    put(cache, key_of(3), shape=(550, 20))
    assert remaining(cache) == [1, 3]


def test_entry_above_limit_is_rejected(cache):
    put_three_entries(cache)
    with raises_code("probe.cache_limit", "--cache-limit"):
        put(cache, key_of(3), shape=(2000, 20))
    assert remaining(cache) == [0, 1, 2]


# Killed processes --------------------------------------------------------------------------------


def leave_partial(cache, process, host=None):
    name = f"{PARTIAL}{'0' * 32}-{host or socket.gethostname()}-{process}"
    folder = cache.folder / name
    folder.mkdir(parents=True)
    (folder / FEATURES).write_bytes(b"half")
    return folder


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_partial_entry_of_dead_process_is_removed(cache):
    left = leave_partial(cache, dead_process())
    put(cache)
    assert not left.exists()


def test_partial_entry_of_live_process_is_kept(cache):
    left = leave_partial(cache, os.getppid())
    put(cache)
    assert (left / FEATURES).read_bytes() == b"half"


def test_partial_entry_of_other_host_is_kept(cache):
    left = leave_partial(cache, dead_process(), host="another-host")
    put(cache)
    assert left.exists()


def test_killed_process_leaves_no_entry(cache):
    code = """
    from pathlib import Path
    with FeatureCache(Path(sys.argv[1])).write(KEY, SHAPE, LABELS) as path:
        fill(path, 1)
        print(path.parent, flush=True)
        os._exit(0)
    """
    left = run_python(code, cache.folder).strip()
    assert [str(folder) for folder in cache.folder.iterdir()] == [left]
    assert cache.find(KEY) is None and cache.entries() == []
    put(cache)
    assert list(cache.folder.iterdir()) == [cache.entry_folder(KEY)]


# Disks -------------------------------------------------------------------------------------------


def test_blocks_are_allocated_before_writing(cache):
    with cache.write(KEY, (30000, 20), LABELS) as path:
        status = path.stat()
        assert status.st_size > 30000 * 20 * 4
        assert status.st_blocks * 512 >= status.st_size


FULL_DISK = """
from pathlib import Path
cache = FeatureCache(Path(sys.argv[1]))
put(cache, key_of(0), shape=(10, 20))
try:
    put(cache, key_of(1), shape=(100_000, 20))
except UserError as error:
    print(error.code, error)
print(*(folder.name for folder in cache.folder.iterdir()))
print((cache.find(key_of(0)) == 1).all())
"""


def assert_not_writable(output, cache, reason):
    message, left, found = output.splitlines()
    assert message.startswith("probe.cache_not_writable ")
    assert str(cache.folder) in message and reason in message
    assert left == cache.entry_folder(key_of(0)).name
    assert found == "True"


def test_file_size_limit(cache):
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    output = run_python(limited + FULL_DISK, cache.folder)
    assert_not_writable(output, cache, "File too large")


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with raises_code("probe.cache_not_writable", "file/features", "--cache-dir"):
        put(FeatureCache(tmp_path / "file" / "features"))


# Table -------------------------------------------------------------------------------------------


def test_table_lists_most_recently_used_first(cache):
    cache.limit = 2 * GB
    put(cache, key_of(0), labels={"checkpoint": "moco.pth", "data": "imagenet_val"})
    put(cache, key_of(1), labels={"checkpoint": "virtex://base", "data": "voc_2007_test"})
    set_last_used(cache, key_of(0), 10)
    head, *rows = cache.table().splitlines()
    assert head == f"{cache.folder}: 0.000 of 2 GB, 2 entries"
    for row, seed, words in zip(
        rows, (1, 0), (["virtex://base", "voc_2007_test"], ["moco.pth", "imagenet_val"]),
        strict=True,
    ):  # fmt: skip
        assert all(word in row for word in words)
        assert "300 x 20" in row and cache.entry_folder(key_of(seed)).name in row
    assert "1970-01-01" in rows[1] or "1970-01-02" in rows[1]
