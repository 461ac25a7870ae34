"""Probes in two processes, which torchrun starts, find what one process finds."""

import contextlib
import csv
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.eval_tools.probe_runs import (
    VAL_IMAGES,
    arguments,
    ended_well,
    record_of,
    write_data,
)
from tests.run_states import content_of

PROBES = ("svm", "cached", "knn", "linear")
FLAGS = {"linear": ("--checkpoint-every", "5")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("two_processes")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module", autouse=True)
def kept_apart(folder):
    """Random backbones are kept here, not in the user's cache."""
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
        probe: ended_well(
            probe, data, folder / "alone" / probe, *flags_of(probe, folder / "alone/features")
        )
        for probe in PROBES
    }


@pytest.fixture(scope="module")
def two(folder, alone):
    """Probe -> the folder of its run in two processes; all in one job, which starts only once."""
    found = {probe: folder / "two" / probe for probe in PROBES}
    flags = {probe: flags_of(probe, folder / "two/features") for probe in PROBES}
    runs = [
        (probe, port, arguments(probe, folder / "data", found[probe], *flags[probe]))
        for probe, port in zip(PROBES, free_ports(len(PROBES)), strict=True)
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "tests.eval_tools.probe_runs", folder / "runs.json"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return found


def free_ports(number):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.parametrize("probe", PROBES)
def test_two_processes_give_the_metrics_of_one(alone, two, probe):
    record, expected = record_of(two[probe]), record_of(alone[probe])
    assert record["environment"]["processes"] == 2
    assert record["metrics"] == pytest.approx(expected["metrics"], abs=1e-9)
    assert record["verification"] == expected["verification"]
    assert record["data"] == expected["data"]


@pytest.mark.parametrize("probe", ["cached", "linear"])
def test_every_validation_image_counts_once(alone, two, probe):
    tables = []
    for run in (two, alone):
        with open(run[probe] / "per_class.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert VAL_IMAGES % 2
    assert sum(int(row["images"]) for row in tables[0]) == VAL_IMAGES
    assert tables[0] == tables[1]


@pytest.mark.parametrize("metric", ["top1", "top5", "k20/top5"])
def test_neighbors_are_counted_over_every_validation_image(two, metric):
    right = record_of(two["knn"])["metrics"][metric] * VAL_IMAGES / 100
    assert right == pytest.approx(round(right), abs=1e-9)


def features_in(cache):
    """Entry -> features."""
    return {path.parent.name: np.load(path) for path in cache.glob("*/features.npy")}


def test_features_that_two_processes_share_out_are_those_of_one(folder, alone, two):
    found, expected = (features_in(folder / name / "features") for name in ("two", "alone"))
    assert len(expected) == 4  # train and val of VOC2007 and of ImageNet
    assert found.keys() == expected.keys()
    for name, features in expected.items():
        assert features.any(axis=1).all()
        # other batches are other orders of summation
        np.testing.assert_allclose(found[name], features, rtol=0, atol=1e-6)
    assert not list(Path(folder, "two/features").glob("partial-*"))


def test_two_processes_compute_features_once_for_all_probes(two):
    assert "features of imagenet_train" in (two["cached"] / "log.txt").read_text()
    assert "features of imagenet_train" not in (two["knn"] / "log.txt").read_text()


def test_a_grid_that_processes_share_out_chooses_the_same_setting(alone, two):
    chosen = [record_of(run["cached"])["details"]["chosen"] for run in (two, alone)]
    assert chosen[0] == chosen[1]
    grids = [(run["cached"] / "grid.csv").read_text() for run in (two, alone)]
    assert len(grids[0].splitlines()) == 1 + 3 * 4
    assert grids[0] == grids[1]


def test_an_svm_chooses_the_same_costs(alone, two):
    costs = [record_of(run["svm"])["details"]["svm_costs"] for run in (two, alone)]
    assert costs[0] == costs[1]


def test_the_same_global_batches_train_the_same_head(alone, two):
    found, expected = (content_of(run["linear"])["model"] for run in (two, alone))
    assert found.keys() == expected.keys()
    assert expected["head.weight"].abs().max() > 0.03  # it has moved from where it began
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
