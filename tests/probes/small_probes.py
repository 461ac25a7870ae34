"""A small backbone, images, labels and feature extraction for the tests of probes."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from virtex.backbones.registry import detect_arch
from virtex.checkpoints.backbone import Backbone, Coverage, InputSpec, Source
from virtex.data.image_sets import ImageSet
from virtex.probes.feature_cache import FeatureCache
from virtex.probes.features import FeatureExtractor
from virtex.probes.settings import load_settings
from virtex.tasks import packaged_protocol

RGB = InputSpec("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BGR_BYTES = InputSpec("BGR", (103.5, 116.3, 123.7), (57.4, 57.1, 58.4), 255.0)
RESIZE, CROP = 40, 32
SMALL_IMAGES = ("DATA.IMAGE_RESIZE_SIZE", RESIZE, "DATA.IMAGE_CROP_SIZE", CROP)


def small_backbone(seed=0, input=RGB):
    """Return a ResNet-18 with non-trivial BatchNorm statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.resnet18()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.8, 1.5)
    weights = {name: t for name, t in network.state_dict().items() if not name.startswith("fc.")}
    source = Source(f"a resnet18 of seed {seed}", "", "", "torchvision", Coverage({}))
    return Backbone(detect_arch(weights), weights, input, source)


def make_images(folder: Path, count, classes=3, seed=0):
    """Write JPEGs of different sizes, of alternating classes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{number}.jpg" for number in range(count)]
    for file in files:
        height, width = rng.integers(40, 70, 2)
        coarse = rng.integers(256, size=(height // 6, width // 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((int(width), int(height))).save(folder / file)
    names = [f"class {number}" for number in range(classes)]
    return ImageSet(folder.name, folder, files, np.arange(count) % classes, names)


def label_set(labels, name="train", classes=None):
    """Return an image set without files."""
    labels = np.asarray(labels)
    names = [f"class {number}" for number in range(classes or labels.max() + 1)]
    files = [f"{number}.jpg" for number in range(len(labels))]
    return ImageSet(name, Path("nowhere"), files, labels, names)


def make_clusters(labels, spread=1.0, size=8, seed=0):
    """Return features (images, size) float32 around one center per class."""
    centers = np.random.default_rng(7).normal(size=(100, size))
    noise = np.random.default_rng(seed).normal(size=(len(labels), size))
    return (centers[labels] + spread * noise).astype(np.float32)


def small_extractor(folder: Path, **options):
    options = {"batch_size": 4, **options}
    return FeatureExtractor(torch.device("cpu"), FeatureCache(folder / "cache"), **options)


def settings_of(task, protocol, *overrides):
    return load_settings(packaged_protocol(task, protocol), overrides)[0]
