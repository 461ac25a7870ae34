"""Probes in two processes give the same results as in one process."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.eval_tools.probe_runs import (
    KINDS,
    VAL_IMAGES,
    arguments,
    record_of,
    run_to_end,
    write_data,
)
from tests.faults.processes import Process, torchrun_environments
from tests.run_states import content_of

PROBES = ("svm", "cached", "knn", "linear")
FLAGS = {"linear": ("--checkpoint-every", "5")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("two_processes")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module", autouse=True)
def private_backbone_cache(folder):
    """Keep random backbones out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FVCORE_CACHE", str(folder / "backbones"))
        yield


def flags_of(probe, cache):
    features = () if probe == "linear" else ("--cache-dir", cache)
    return (*FLAGS.get(probe, ()), *features)


@pytest.fixture(scope="module")
def alone(folder):
    """Probe -> the folder of its run in this process."""
    data = write_data(folder / "data")
    return {
        probe: run_to_end(
            probe, data, folder / "alone" / probe, *flags_of(probe, folder / "alone/features")
        )
        for probe in PROBES
    }


@pytest.fixture(scope="module")
def two(folder, alone):
    """Probe -> the folder of its run in two processes."""
    found = {probe: folder / "two" / probe for probe in PROBES}
    for probe, out in found.items():
        argv = arguments(probe, folder / "data", out, *flags_of(probe, folder / "two/features"))
        processes = [
            Process(KINDS[probe].tool.__name__, argv, folder / f"{probe}_{rank}", environment)
            for rank, environment in enumerate(torchrun_environments(2))
        ]
        try:
            for process in processes:
                process.succeeds()
        finally:
            for process in processes:
                process.clean_up()
    return found


@pytest.mark.parametrize("probe", PROBES)
def test_same_metrics(alone, two, probe):
    record, expected = record_of(two[probe]), record_of(alone[probe])
    assert record["environment"]["processes"] == 2
    assert record["metrics"] == pytest.approx(expected["metrics"], abs=1e-9)
    assert record["verification"] == expected["verification"]
    assert record["data"] == expected["data"]


@pytest.mark.parametrize("probe", ["cached", "linear"])
def test_each_validation_image_counts_once(alone, two, probe):
    tables = []
    for run in (two, alone):
        with open(run[probe] / "per_class.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert VAL_IMAGES % 2
    assert sum(int(row["images"]) for row in tables[0]) == VAL_IMAGES
    assert tables[0] == tables[1]


@pytest.mark.parametrize("metric", ["top1", "top5", "k20/top5"])
def test_knn_accuracy_covers_all_images(two, metric):
    right = record_of(two["knn"])["metrics"][metric] * VAL_IMAGES / 100
    assert right == pytest.approx(round(right), abs=1e-9)


def features_in(cache):
    """Entry -> features."""
    return {path.parent.name: np.load(path) for path in cache.glob("*/features.npy")}


def test_same_features(folder, alone, two):
    found, expected = (features_in(folder / name / "features") for name in ("two", "alone"))
    assert len(expected) == 4  # train and val of VOC2007 and of ImageNet
    assert found.keys() == expected.keys()
    for name, features in expected.items():
        assert features.any(axis=1).all()
        # other batches change the order of summation
        np.testing.assert_allclose(found[name], features, rtol=0, atol=1e-6)
    assert not list(Path(folder, "two/features").glob("partial-*"))


def test_features_are_computed_once(two):
    assert "INFO: features of imagenet_train" in (two["cached"] / "log.txt").read_text()
    assert "INFO: features of imagenet_train" not in (two["knn"] / "log.txt").read_text()


def test_same_grid(alone, two):
    chosen = [record_of(run["cached"])["details"]["chosen"] for run in (two, alone)]
    assert chosen[0] == chosen[1]
    grids = [(run["cached"] / "grid.csv").read_text() for run in (two, alone)]
    assert len(grids[0].splitlines()) == 1 + 3 * 4
    assert grids[0] == grids[1]


def test_same_svm_costs(alone, two):
    costs = [record_of(run["svm"])["details"]["svm_costs"] for run in (two, alone)]
    assert costs[0] == costs[1]


def test_same_trained_head(alone, two):
    found, expected = (content_of(run["linear"])["model"] for run in (two, alone))
    assert found.keys() == expected.keys()
    assert expected["head.weight"].abs().max() > 0.03  # it has been trained
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
