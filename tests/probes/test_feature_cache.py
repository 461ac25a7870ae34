"""Features on disk: found by exactly their key, whole or not at all, and within a limit."""

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
    "transform": {"resize": 256, "center crop": 224},
    "seed": 0,
    "pooling": "global average",
}
SAID = {"checkpoint": "moco.pth", "data": "imagenet_val"}
SHAPE = (300, 20)  # 24 000 bytes and a header


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def put(cache, key=KEY, value=1.0, shape=SHAPE, said=SAID):
    with cache.writing(key, shape, said) as path:
        fill(path, value)


def fill(path, value):
    array = np.load(path, mmap_mode="r+")
    array[:] = value
    array.flush()


def key_of(seed):
    return {**KEY, "seed": seed}


def last_used(cache, key, hour):
    os.utime(cache.place(key) / ENTRY, (3600 * hour, 3600 * hour))


def in_another_process(code, *arguments, before=()):
    """Run Python that has this module's names; what it prints."""
    code = "from tests.probes.test_feature_cache import *\n" + textwrap.dedent(code)
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Keys --------------------------------------------------------------------------------------------

OTHER_KEYS = {
    "version": {"version": 2},
    "backbone": {"backbone": "77aa"},
    "pictures": {"images": {"images": 3, "sha256": "cd56"}},
    "number of pictures": {"images": {"images": 4, "sha256": "ab34"}},
    "crop": {"transform": {"resize": 256, "center crop": 256}},
    "kind of transform": {"transform": {"random resized crop": 224, "scale": [0.08, 1.0]}},
    "seed": {"seed": 1},
    "pooling": {"pooling": "none"},
    "something more": {"layer": "res4"},
}


def test_an_entry_is_found_by_its_key(cache):
    assert cache.find(KEY) is None
    put(cache, value=3)
    found = cache.find(deepcopy(KEY))
    assert found.dtype == np.float32 and found.shape == SHAPE
    assert (found == 3).all()


def test_the_order_in_which_a_key_is_written_does_not_matter(cache):
    put(cache)
    assert cache.find(dict(reversed(KEY.items()))) is not None


@pytest.mark.parametrize("change", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_key_does_not_find_it(cache, change):
    put(cache)
    assert cache.find({**KEY, **change}) is None


@pytest.mark.parametrize("change", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_key_does_not_find_it_under_its_own_name_either(cache, change):
    put(cache)
    cache.place(KEY).rename(cache.place({**KEY, **change}))
    assert cache.find({**KEY, **change}) is None


def test_another_process_finds_it(cache):
    put(cache, value=5)
    code = "print(FeatureCache(Path(sys.argv[1])).find(KEY)[299, 19])"
    assert in_another_process("from pathlib import Path\n" + code, cache.folder) == "5.0\n"


def test_what_is_found_cannot_be_changed(cache):
    put(cache)
    with pytest.raises(ValueError, match="read-only"):
        cache.find(KEY)[0, 0] = 2


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine" == FeatureCache().folder


# Whole or not at all -----------------------------------------------------------------------------


def test_there_is_no_entry_before_it_is_whole(cache):
    with cache.writing(KEY, SHAPE, SAID) as path:
        fill(path, 1)
        assert cache.find(KEY) is None
        assert cache.entries() == []
    assert cache.find(KEY) is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, UserError])
def test_nothing_remains_of_a_computation_that_failed(cache, error):
    with pytest.raises(error), cache.writing(KEY, SHAPE, SAID) as path:
        fill(path, 1)
        raise error
    assert list(cache.folder.iterdir()) == []


def without_its_end(folder):
    content = (folder / FEATURES).read_bytes()
    (folder / FEATURES).write_bytes(content[:-1])


def of_another_shape(folder):
    np.save(folder / FEATURES, np.zeros((3, 2), np.float32))


def of_another_key(folder):
    entry = json.loads((folder / ENTRY).read_text())
    (folder / ENTRY).write_text(json.dumps({**entry, "key": key_of(9)}))


DAMAGES = {
    "features cut off": without_its_end,
    "features cut off in the header": lambda f: (f / FEATURES).write_bytes(b"\x93NUMPY\x01\x00v"),
    "empty features": lambda f: (f / FEATURES).write_bytes(b""),
    "no features": lambda f: (f / FEATURES).unlink(),
    "features that are no array": lambda f: (f / FEATURES).write_text("something else"),
    "features that are an archive": lambda f: (f / FEATURES).write_bytes(b"PK\x03\x04 and so on"),
    "features of another shape": of_another_shape,
    "no description": lambda f: (f / ENTRY).unlink(),
    "empty description": lambda f: (f / ENTRY).write_bytes(b""),
    "description of another kind": lambda f: (f / ENTRY).write_text("[1, 2]"),
    "description without a key": lambda f: (f / ENTRY).write_text('{"shape": [300, 20]}'),
    "description of another key": of_another_key,
    "description that is no text": lambda f: (f / ENTRY).write_bytes(b"\xff\xfe\x00"),
    "nothing": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_not_used_but_replaced(cache, damage):
    put(cache, value=1)
    damage(cache.place(KEY))
    assert cache.find(KEY) is None
    put(cache, value=2)
    assert (cache.find(KEY) == 2).all()
    assert [entry.folder for entry in cache.entries()] == [cache.place(KEY)]


def test_what_is_no_entry_is_left_alone(cache):
    stranger = cache.folder / "notes"
    stranger.mkdir(parents=True)
    (stranger / "read me").write_text("mine")
    put(cache)
    assert (stranger / "read me").read_text() == "mine"
    assert len(cache.entries()) == 1


def test_of_two_processes_that_compute_the_same_the_faster_one_stays(cache):
    code = "from pathlib import Path\nput(FeatureCache(Path(sys.argv[1])), value=2)"
    with cache.writing(KEY, SHAPE, SAID) as path:
        fill(path, 1)
        in_another_process(code, cache.folder)
    assert (cache.find(KEY) == 2).all()
    assert list(cache.folder.iterdir()) == [cache.place(KEY)]


# The limit ---------------------------------------------------------------------------------------


def three_entries(cache):
    """Used in the order 2, 0, 1; room for no fourth one."""
    for seed, hour in ((0, 20), (1, 30), (2, 10)):
        put(cache, key_of(seed))
        last_used(cache, key_of(seed), hour)
    cache.limit = int(3.5 * 24000)


def still_there(cache):
    return [seed for seed in range(9) if cache.place(key_of(seed)).exists()]


def test_the_longest_unused_entry_makes_room(cache):
    three_entries(cache)
    put(cache, key_of(3))
    assert still_there(cache) == [0, 1, 3]


def test_an_entry_that_was_read_counts_as_used(cache):
    three_entries(cache)
    cache.find(key_of(2))
    put(cache, key_of(3))
    assert still_there(cache) == [1, 2, 3]


def test_as_many_entries_go_as_room_is_needed_for(cache):
    three_entries(cache)
    put(cache, key_of(3), shape=(550, 20))
    assert still_there(cache) == [1, 3]


def test_nothing_is_dropped_where_there_is_room(cache):
    three_entries(cache)
    cache.limit = 5 * 24000
    put(cache, key_of(3))
    assert still_there(cache) == [0, 1, 2, 3]


def test_what_exceeds_the_limit_alone_is_refused_and_drops_nothing(cache):
    three_entries(cache)
    with pytest.raises(UserError, match=r"need .* GB, .* raise --cache-limit"):
        put(cache, key_of(3), shape=(2000, 20))
    assert still_there(cache) == [0, 1, 2]


# Processes that were killed ----------------------------------------------------------------------


def left_by(cache, process, host=None):
    name = f"{PARTIAL}{'0' * 32}-{host or socket.gethostname()}-{process}"
    folder = cache.folder / name
    folder.mkdir(parents=True)
    (folder / FEATURES).write_bytes(b"half")
    return folder


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed(cache):
    left = left_by(cache, dead_process())
    put(cache)
    assert not left.exists()


def test_what_a_living_process_is_writing_is_kept(cache):
    left = left_by(cache, os.getppid())
    put(cache)
    assert (left / FEATURES).read_bytes() == b"half"


def test_what_a_process_of_another_machine_is_writing_is_kept(cache):
    left = left_by(cache, dead_process(), host="another-host")
    put(cache)
    assert left.exists()


def test_a_killed_process_leaves_no_entry(cache):
    code = """
    from pathlib import Path
    with FeatureCache(Path(sys.argv[1])).writing(KEY, SHAPE, SAID) as path:
        fill(path, 1)
        print(path.parent, flush=True)
        os._exit(0)
    """
    left = in_another_process(code, cache.folder).strip()
    assert [str(folder) for folder in cache.folder.iterdir()] == [left]
    assert cache.find(KEY) is None and cache.entries() == []
    put(cache)
    assert list(cache.folder.iterdir()) == [cache.place(KEY)]


# Disks -------------------------------------------------------------------------------------------


def test_the_whole_file_is_on_the_disk_before_it_is_filled(cache):
    with cache.writing(KEY, (30000, 20), SAID) as path:
        said = path.stat()
        assert said.st_size > 30000 * 20 * 4
        assert said.st_blocks * 512 >= said.st_size


FULL_DISK = """
from pathlib import Path
cache = FeatureCache(Path(sys.argv[1]))
put(cache, key_of(0), shape=(10, 20))
try:
    put(cache, key_of(1), shape=(100_000, 20))
except UserError as error:
    print(error)
print(*(folder.name for folder in cache.folder.iterdir()))
print((cache.find(key_of(0)) == 1).all())
"""


def assert_refused(said, cache, reason):
    sentence, left, found = said.splitlines()
    assert sentence == (
        f"features cannot be cached in {cache.folder} ({reason}); make room there, or name "
        "another folder with --cache-dir"
    )
    assert left == cache.place(key_of(0)).name
    assert found == "True"


def test_a_full_disk_is_said_and_leaves_nothing(cache):
    cache.folder.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=1m none {cache.folder}"]
    try:
        tried = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    before = [*mount[:-1], f'{mount[-1]} && exec "$0" "$@"']
    said = in_another_process(FULL_DISK, cache.folder, before=before)
    assert_refused(said, cache, "No space left on device")


def test_a_limit_on_file_sizes_is_said_and_leaves_nothing(cache):
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    said = in_another_process(limited + FULL_DISK, cache.folder)
    assert_refused(said, cache, "File too large")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cached in .*file/features \(Not a directory\).*--cache-"):
        put(FeatureCache(tmp_path / "file" / "features"))


# For people --------------------------------------------------------------------------------------


def test_the_table_lists_the_latest_used_first(cache):
    cache.limit = 2 * GB
    put(cache, key_of(0), said={"checkpoint": "moco.pth", "data": "imagenet_val"})
    put(cache, key_of(1), said={"checkpoint": "virtex://base", "data": "voc_2007_test"})
    last_used(cache, key_of(0), 10)
    head, *rows = cache.table().splitlines()
    assert head == f"{cache.folder}: 0.000 of 2 GB, 2 entries"
    for row, seed, words in zip(
        rows, (1, 0), (["virtex://base", "voc_2007_test"], ["moco.pth", "imagenet_val"]),
        strict=True,
    ):  # fmt: skip
        assert all(word in row for word in words)
        assert "300 x 20" in row and cache.place(key_of(seed)).name in row
    assert "1970-01-01" in rows[1] or "1970-01-02" in rows[1]


def test_the_table_adds_up_what_is_held(cache):
    put(cache, shape=(2000, 1000))
    head, row = cache.table().splitlines()
    assert ": 0.008 of 100 GB, 1 entries" in head
    assert row.split()[:2] == ["8.0", "MB"]


def test_an_empty_cache_has_a_table_too(cache):
    assert cache.table() == f"{cache.folder}: 0.000 of 100 GB, 0 entries"
