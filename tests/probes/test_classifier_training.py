"""Linear probe and fine-tuning: training crops, evaluation and report."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from tests.errors import raises_code
from tests.probes.small_probes import (
    CROP,
    RESIZE,
    RGB,
    SMALL_IMAGES,
    make_images,
    settings_of,
    small_backbone,
)
from virtex.data.classification import evaluation_transform
from virtex.data.decoding import decode_image
from virtex.data.image_sets import ImageSet
from virtex.data.resampling import Resampling
from virtex.probes.classifier_training import ClassifierTraining, TrainingOptions

SHORT = ("OPTIM.BATCH_SIZE", 4, "OPTIM.NUM_EPOCHS", 2.0, *SMALL_IMAGES)


def training_of(folder, train, val, *overrides, protocol=("imagenet_linear", "toy"), seed=0):
    folder.mkdir(exist_ok=True)
    options = TrainingOptions(folder, torch.device("cpu"), seed)
    return ClassifierTraining(train, val, settings_of(*protocol, *SHORT, *overrides), options)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return make_images(folder / "train", 12, classes=7), make_images(folder / "val", 13, 7, 1)


def saved_network(folder):
    """Load the classifier of a checkpoint into a torchvision network."""
    saved = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    network = torchvision.models.resnet18(num_classes=7)
    tensors = {k.removeprefix("visual.cnn."): v for k, v in saved.items() if "cnn." in k}
    tensors |= {f"fc.{part}": saved[f"head.{part}"] for part in ("weight", "bias")}
    network.load_state_dict(tensors)
    return network.eval()


@pytest.mark.parametrize(
    ("protocol", "resampling"),
    [
        (("imagenet_linear", "toy"), Resampling("bilinear", antialias=False)),
        (("imagenet_semi_supervised", "toy"), Resampling("bilinear", antialias=True)),
    ],
)
def test_metrics_match_torchvision_on_center_crops(tmp_path, splits, protocol, resampling):
    train, val = splits
    training = training_of(tmp_path / "run", train, val, "OPTIM.LR", 0.01, protocol=protocol)
    metrics = training(small_backbone())
    network = saved_network(tmp_path / "run")
    crop = evaluation_transform(RESIZE, CROP, resampling)
    steps = [crop, v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize(RGB.mean, RGB.std)])
    with torch.no_grad():
        images = torch.stack([transform(decode_image(val.path(i))) for i in range(len(val))])
        order = network(images).argsort(dim=1, descending=True).numpy()
    first = (order[:, 0] == val.labels).mean() * 100
    five = (order[:, :5] == val.labels[:, None]).any(axis=1).mean() * 100
    assert metrics["top1"] == pytest.approx(first)
    assert metrics["top5"] == pytest.approx(five)
    rows = list(csv.DictReader((tmp_path / "run" / "per_class.csv").open()))
    assert sum(float(r["top1"]) * int(r["images"]) for r in rows) / len(val) == pytest.approx(
        first, abs=1e-3
    )


@pytest.mark.parametrize(("scale", "spread"), [([0.01, 0.02], (0, 0.3)), ([0.9, 1.0], (0.7, 1))])
def test_training_crops_have_configured_scale(tmp_path, scale, spread):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    (tmp_path / "ramp").mkdir()
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp" / "0.png")
    ramps = ImageSet("ramp", tmp_path / "ramp", ["0.png"], np.zeros(1, dtype=np.int64), ["ramp"])
    training = training_of(tmp_path / "run", ramps, ramps, "DATA.CROP_SCALE", scale)
    batches = training.batches(0)
    images = torch.cat([next(batches)["image"] for _ in range(4)]).float()
    assert images.shape[1:] == (3, CROP, CROP)
    widths = (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))) / 255
    assert spread[0] < widths.min() and widths.max() <= spread[1]


def test_half_of_training_crops_are_flipped(tmp_path):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    (tmp_path / "ramp").mkdir()
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp" / "0.png")
    ramps = ImageSet("ramp", tmp_path / "ramp", ["0.png"], np.zeros(1, dtype=np.int64), ["ramp"])
    batches = training_of(tmp_path / "run", ramps, ramps).batches(0)
    images = torch.cat([next(batches)["image"] for _ in range(25)]).float()
    flipped = (images[..., 0] > images[..., -1]).flatten(1).all(dim=1)
    assert 30 <= flipped.sum() <= 70  # of 100


def test_float32_on_cpu_is_a_deviation(tmp_path, splits):
    steps = ("OPTIM.LR_STEP_EPOCHS", [1.0])
    training = training_of(tmp_path, *splits, *steps, protocol=("inaturalist", "paper"))
    (deviation,) = training.report.deviations
    assert (deviation.key, deviation.protocol, deviation.run) == ("AMP", True, False)
    assert training.report.setup["precision"] == "float32"


def test_changed_frozen_backbone_fails(tmp_path, splits, monkeypatch):
    train = nn.Module.train  # no longer keeps frozen backbones in eval mode
    monkeypatch.setattr("virtex.probes.pooled.PooledBackbone.train", train)
    with raises_code("probe.backbone_changed"):
        training_of(tmp_path, *splits)(small_backbone())


def test_number_of_classes_comes_from_training_set(tmp_path, splits):
    train, val = splits
    names = [*train.class_names, "one without images"]
    wider = [replace(images, class_names=names) for images in (train, val)]
    training_of(tmp_path / "run", *wider)(small_backbone())
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert saved["head.weight"].shape == (8, 512)
