"""frozen_suite: several datasets and protocols in one run, on the features of one cache."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.errors import assert_invalid_input
from tests.tool_runs import completed, run
from tests.toy_data import copy_toy_data
from virtex.eval_tools import frozen_suite
from virtex.eval_tools import leaderboard as leaderboard_tool
from virtex.records import read_record
from virtex.tasks.suite import SUITE_TASKS

CLASSES, IMAGES = ("Forest", "River", "SeaLake"), 12
SMALL = ("DATA.IMAGE_RESIZE_SIZE", 36, "DATA.IMAGE_CROP_SIZE", 32)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """EuroSAT's layout, with classes of different colors."""
    root = tmp_path_factory.mktemp("suite")
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        folder = root / "eurosat/2750" / name
        folder.mkdir(parents=True)
        for image in range(IMAGES):
            pixels = rng.integers(0, 120, size=(40, 40, 3), dtype=np.uint8)
            pixels[..., number] += 120
            Image.fromarray(pixels).save(folder / f"{name}_{image}.jpg", quality=95)
    return root


def arguments(data_root, output, *more):
    return (
        *(*more, "--checkpoint", "random:resnet18?seed=0", "--data-root", data_root),
        *("--output-dir", output, "--cache-dir", output.parent / "cache", "--num-gpus", 0),
        *("--num-workers", 0),
    )


def test_protocols_share_features(data_root, tmp_path):
    output = tmp_path / "output"
    options = ("--tasks", "eurosat", "dtd", "--skip-missing")
    protocols = ("--protocols", "logistic", "knn", "low-shot")
    done = completed(frozen_suite, *arguments(data_root, output, *options, *protocols), *SMALL)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.iterdir()) == [
        "eurosat", "eurosat_knn", "eurosat_low-shot",
    ]  # fmt: skip
    records = {path.name: read_record(path / "result.json") for path in output.iterdir()}
    logistic, knn, low_shot = (records[name] for name in sorted(records))
    assert logistic["task"] == knn["task"] == low_shot["task"] == "eurosat"
    assert logistic["metrics"]["top1"] > 80  # colors differ
    assert knn["metrics"]["top1"] > 80
    assert low_shot["metrics"]["4-shot/top1"] > 50
    sizes = [records["eurosat"]["data"][f"eurosat_{s}"]["images"] for s in ("train", "val", "test")]
    assert sum(sizes) == len(CLASSES) * IMAGES
    assert "extract_seconds" in logistic["timing"]
    assert "extract_seconds" not in knn["timing"]  # from the cache
    assert "extract_seconds" not in low_shot["timing"]

    # a second run keeps the records, and the leaderboard shows them
    before = (output / "eurosat/result.json").read_bytes()
    again = arguments(data_root, output, "--tasks", "eurosat", "--resume")
    assert completed(frozen_suite, *again, *SMALL).returncode == 0
    assert (output / "eurosat/result.json").read_bytes() == before
    table = tmp_path / "table.csv"
    assert completed(leaderboard_tool, output, "--output", table).returncode == 0
    assert "eurosat" in table.read_text()


def test_several_labels(tmp_path):
    toy = copy_toy_data(tmp_path / "toy", 12, 6)
    output = tmp_path / "output"
    overrides = (*SMALL, "LOGISTIC.NUM_STRENGTHS", 3)
    found = run(frozen_suite, *arguments(toy, output, "--tasks", "voc2007"), *overrides)
    assert found[0] == 0, found[2]
    record = json.loads((output / "voc2007/result.json").read_text())
    assert record["primary_metric"] == "mAP" and 0 < record["metrics"]["mAP"] <= 100


def test_missing_data(tmp_path):
    names = ("food101", "svhn")
    options = arguments(tmp_path, tmp_path / "output", "--tasks", *names)
    assert_invalid_input(completed(frozen_suite, *options), "data.missing", "food-101")
    done = completed(frozen_suite, *options, "--skip-missing")
    assert_invalid_input(done, "data.missing", *names)
    assert not (tmp_path / "output").exists()
    status, listed, _ = run(frozen_suite, *options, "--dry-run")
    assert status == 0
    assert "train_32x32.mat" in listed and "http://ufldl.stanford.edu" in listed


def test_every_dataset_has_its_protocols():
    for name, task in SUITE_TASKS.items():
        expected = (
            ["logistic", "low-shot"] if name == "voc2007" else ["logistic", "knn", "low-shot"]
        )
        assert list(task.protocols) == expected
        assert task.protocols["low-shot"].primary_metric == f"16-shot/{task.primary_metric}"
