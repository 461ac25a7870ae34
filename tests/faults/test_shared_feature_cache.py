"""Several processes that fill one cache of features all end well, each with the right ones."""

import random
import shutil

import numpy as np
import pytest

from tests.faults.small_runs import RUNS, has_come, names_in, result_of
from tests.faults.started_tools import CONTEXT, PATIENCE
from virtex.probes.feature_cache import FeatureCache

SHAPE = (50, 16)
KEYS, LIMIT = 6, 3  # entries that are wanted, and that fit


@pytest.fixture
def cache(out):
    return out.with_name("features")


def svm(out, cache, *flags, name="first", **settings):
    """The VOC07 probe: features of two sets, of some 50 KB each."""
    return RUNS["svm"].start(out, "--cache-dir", cache, *flags, name=name, **settings)


def assert_one_entry_each(cache, number):
    names = names_in(cache)
    assert len(names) == 2 * number
    assert {name.partition("/")[2] for name in names} == {"entry.json", "features.npy"}


@pytest.mark.parametrize("number", [2, 4])
def test_processes_that_compute_the_same_features_at_once(number, out, cache, started, whole):
    if not whole:
        pytest.skip("with --whole")
    runs = [started(svm(out / str(n), cache, name=f"run {n}")) for n in range(number)]
    for run in runs:
        run.ended_well()
    assert_one_entry_each(cache, 2)
    alone = started(svm(out / "alone", out.with_name("others"), name="alone"))
    alone.ended_well()
    for number, _run in enumerate(runs):
        results = [result_of(RUNS["svm"], out / name) for name in (str(number), "alone")]
        assert results[0] == results[1]


def test_processes_whose_features_do_not_fit_together(out, cache, started, whole):
    if not whole:
        pytest.skip("with --whole")
    sizes = (32, 33, 34, 35)
    limited = ("--cache-limit", "0.0001")  # GB: those of one of them
    for name, folder, flags in (("limited", cache, limited), ("alone", out / "others", ())):
        runs = [
            started(
                svm(out / name / str(n), folder, *flags, name=name, **{"DATA__IMAGE_CROP_SIZE": n})
            )
            for n in sizes
        ]
        for run in runs:
            run.ended_well()
    for size in sizes:
        results = [result_of(RUNS["svm"], out / n / str(size)) for n in ("limited", "alone")]
        assert results[0] == results[1]
    assert not list(cache.glob("partial-*"))
    # several may have made room at once; whoever comes next sees what they have left
    started(svm(out / "next", cache, *limited, name="next")).ended_well()
    assert sum(path.stat().st_size for path in cache.glob("*/features.npy")) <= 100_000


def test_a_killed_process_leaves_room_for_the_next(out, cache, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(svm(out / "first", cache))
    first.until(lambda: list(cache.glob("partial-*/features.npy")), "its file")
    first.kill()
    started(svm(out / "second", cache, name="second")).ended_well()
    assert_one_entry_each(cache, 2)


# The cache itself, as fast as it goes -------------------------------------------------------------


def fill_and_read(folder, seed, rounds):
    """Ask for entries in any order, and compute what is not there."""
    rng, cache = random.Random(seed), FeatureCache(folder, LIMIT * (4 * SHAPE[0] * SHAPE[1] + 4096))
    for _ in range(rounds):
        number = rng.randrange(KEYS)
        features = cache.find({"number": number})
        if features is None:
            with cache.write({"number": number}, SHAPE, {"checkpoint": "", "data": ""}) as path:
                np.lib.format.open_memmap(path, "r+")[:] = number
                features = np.load(path, mmap_mode="r")
        assert features.shape == SHAPE
        assert (features == number).all()


def test_entries_that_come_and_go_are_whole_for_everybody(cache, whole):
    processes = [
        CONTEXT.Process(target=fill_and_read, args=(cache, seed, 2000 if whole else 100))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 4
    assert not list(cache.glob("partial-*"))
    for number in range(KEYS):
        features = FeatureCache(cache).find({"number": number})
        assert features is None or (features == number).all()
    shutil.rmtree(cache)


def test_what_another_process_drops_is_kept_by_who_reads_it(cache):
    reader = FeatureCache(cache, 10**6)
    key = {"number": 1}
    with reader.write(key, SHAPE, {"checkpoint": "", "data": ""}) as path:
        np.lib.format.open_memmap(path, "r+")[:] = 1
    features = reader.find(key)
    process = CONTEXT.Process(target=fill_and_read, args=(cache, 0, 40))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert (features == 1).all()


def test_a_run_whose_features_are_dropped_at_once_has_them_all_the_same(out, cache, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(svm(out / "first", cache))
    has_come(first, out / "first", "features of voc_2007_trainval")
    first.pause()
    for entry in cache.glob("[0-9a-f]*/entry.json"):
        shutil.rmtree(entry.parent)
    first.go_on()
    first.ended_well()
    started(svm(out / "alone", out.with_name("others"), name="alone")).ended_well()
    results = [result_of(RUNS["svm"], out / name) for name in ("first", "alone")]
    assert results[0] == results[1]
