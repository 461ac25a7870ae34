"""Processes that share one feature cache find complete entries only."""

import random
import shutil

import numpy as np
import pytest

from tests.faults.processes import CONTEXT, TIMEOUT
from tests.faults.runs import RUNS, result_of, undisturbed
from virtex.probes.feature_cache import FeatureCache

SHAPE = (50, 16)
KEYS, LIMIT = 6, 3  # distinct entries, and entries that fit


@pytest.fixture
def cache(out):
    return out.with_name("features")


@pytest.mark.whole
def test_processes_that_compute_the_same_features(out, cache, started):
    run = RUNS["svm"]
    processes = [started(run.start(out / str(n), "--cache-dir", cache)) for n in range(3)]
    for process in processes:
        process.succeeds()
    assert len(list(cache.glob("*/features.npy"))) == 2  # trainval and test
    for number in range(3):
        assert result_of(run, out / str(number)) == undisturbed("svm")


def fill_and_read(folder, seed, rounds):
    """Look up entries in random order, and compute those that are missing."""
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


def test_entries_are_complete_for_all_processes(cache, whole):
    processes = [
        CONTEXT.Process(target=fill_and_read, args=(cache, seed, 2000 if whole else 100))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    assert [process.exitcode for process in processes] == [0] * 4
    assert not list(cache.glob("partial-*"))
    for number in range(KEYS):
        features = FeatureCache(cache).find({"number": number})
        assert features is None or (features == number).all()
    shutil.rmtree(cache)


def test_dropped_entry_stays_readable(cache):
    reader = FeatureCache(cache, 10**6)
    key = {"number": 1}
    with reader.write(key, SHAPE, {"checkpoint": "", "data": ""}) as path:
        np.lib.format.open_memmap(path, "r+")[:] = 1
    features = reader.find(key)
    process = CONTEXT.Process(target=fill_and_read, args=(cache, 0, 40))
    process.start()
    process.join(TIMEOUT)
    assert process.exitcode == 0
    assert (features == 1).all()
