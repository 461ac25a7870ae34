"""The training stream is a function of the seed."""

import itertools
from pathlib import Path

import pycocotools.mask
import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from tests.detectron.protocol_values import sample
from tests.errors import raises_code
from virtex.detectron.datasets import register_detection_sets, training_samples
from virtex.detectron.loading import (
    ResumableBatches,
    SeededSamples,
    check_mask_format,
    training_batches,
)
from virtex.detectron.settings import build_settings
from virtex.tasks import packaged_protocol


@pytest.fixture
def cfg(toy):
    register_detection_sets(toy)
    settings = build_settings(packaged_protocol("coco", "toy"), [], 1, "cpu")
    settings.cfg.SEED = 3
    return settings.cfg


def take(cfg, samples, count, **arguments):
    return list(itertools.islice(training_batches(cfg, samples, **arguments), count))


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a["file_name"] == b["file_name"]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_resumed_stream_continues(cfg):
    samples = training_samples(cfg)
    assert_same(take(cfg, samples, 9)[5:], take(cfg, samples, 4, start=5))


def test_stream_is_independent_of_workers(cfg):
    samples = training_samples(cfg)
    assert_same(
        take(cfg, samples, 3, num_workers=0),
        take(cfg, samples, 3, num_workers=2),
    )


def test_stream_depends_on_seed(cfg):
    samples = training_samples(cfg)
    first = [s["file_name"] for batch in take(cfg, samples, 3) for s in batch]
    cfg.SEED = 4
    assert first != [s["file_name"] for batch in take(cfg, samples, 3) for s in batch]


def test_augmentation_differs_between_epochs(cfg):
    samples = training_samples(cfg)[:4]
    shapes = {
        tuple(sample["image"].shape)
        for batch in take(cfg, samples, 12, num_workers=0)
        for sample in batch
        if sample["image_id"] == samples[0]["image_id"]
    }
    assert len(shapes) > 1


def test_model_random_state_is_resumed(cfg):
    samples = training_samples(cfg)
    draws = []
    for _ in training_batches(cfg, samples):
        draws.append(torch.rand(1).item())
        if len(draws) == 5:
            break
    next(training_batches(cfg, samples, start=4))
    assert torch.rand(1).item() == draws[4]
    assert len(set(draws)) == 5


def test_batches_are_grouped_by_aspect_ratio():
    wide = [bool(i % 3) for i in range(30)]
    batches = ResumableBatches(TrainingSampler(30, seed=0), wide, batch_size=4, start=0)
    for batch in itertools.islice(batches, 20):
        assert len({wide[index] for _, index in batch}) == 1
        assert len(batch) == 4


def test_epoch_visits_each_image_once():
    batches = ResumableBatches(TrainingSampler(12, seed=0), None, batch_size=4, start=0)
    indices = [index for batch in itertools.islice(batches, 3) for _, index in batch]
    assert sorted(indices) == list(range(12))


@pytest.fixture
def one_broken(cfg, tmp_path):
    samples = training_samples(cfg)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(samples[2]["file_name"]).read_bytes()[:500])
    samples[2] = {**samples[2], "file_name": str(broken)}
    return samples


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named(cfg, one_broken, workers):
    with raises_code("data.image", "broken.jpg", "--skip-bad-images"):
        take(cfg, one_broken, 20, num_workers=workers)


def test_unreadable_image_is_skipped_on_request(cfg, one_broken):
    batches = take(cfg, one_broken, 12, skip_bad_images=True)
    names = {sample["file_name"] for batch in batches for sample in batch}
    assert len(batches) == 12
    assert not any(name.endswith("broken.jpg") for name in names)


def test_image_size_must_match_annotation(cfg):
    samples = training_samples(cfg)
    samples = [{**s, "width": s["width"] + 1} for s in samples]
    with raises_code("data.image_size"):
        take(cfg, samples, 1, num_workers=0)


def test_run_length_masks_need_the_bitmask_format(cfg, tmp_path):
    found = sample(tmp_path)
    polygons = found["annotations"][0]["segmentation"]
    encoded = pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygons, 90, 120))
    found["annotations"][0]["segmentation"] = encoded
    with raises_code("data.mask_format", "INPUT.MASK_FORMAT bitmask"):
        check_mask_format(cfg, [found])
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_mask_format(cfg, [found])
    mapped = SeededSamples([found], cfg, False)[0, 0]
    scale = mapped["image"].shape[1] / 90
    expected = pycocotools.mask.area(encoded) * scale**2
    assert float(mapped["instances"].gt_masks.tensor.sum()) == pytest.approx(expected, rel=0.05)
