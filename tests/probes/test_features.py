"""Pooled features match a plain loop, are cached, and the backbone stays unchanged."""

import logging
import os
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
    BGR_BYTES,
    CROP,
    RESIZE,
    RGB,
    SMALL_IMAGES,
    make_images,
    settings_of,
    small_backbone,
    small_extractor,
)
from virtex.data import decoding
from virtex.engine.frozen import tensors_sha256, verify_unchanged
from virtex.errors import UserError
from virtex.probes.features import AdaptiveBatchForward, FeatureExtractor, center_view, random_view
from virtex.probes.knn import NearestNeighbors

DATA = settings_of("imagenet_linear", "cached", *SMALL_IMAGES).DATA
CENTER = center_view(DATA)


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "val", 10)


@pytest.fixture
def own_images(tmp_path):
    return make_images(tmp_path / "val", 10)


def extract(folder, backbone, images, view=CENTER, **options):
    extractor = small_extractor(folder, **options)
    extractor.open(backbone)
    return extractor.extract(images, view)


def reference_features(backbone, images):
    """Apply torchvision's network to one image at a time, normalized by hand."""
    network = torchvision.models.resnet18().eval()
    network.fc = nn.Identity()
    network.load_state_dict(backbone.state_dict)
    found = []
    for index in range(len(images)):
        image = Image.open(images.path(index)).convert("RGB")
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        resize = v2.Resize(RESIZE, v2.InterpolationMode.BICUBIC, antialias=True)
        small = v2.CenterCrop(CROP)(resize(image)).float()
        if backbone.input.channel_order == "BGR":
            small = small[[2, 1, 0]]
        small = small / 255 * backbone.input.scale
        for channel in range(3):
            small[channel] -= backbone.input.mean[channel]
            small[channel] /= backbone.input.std[channel]
        with torch.no_grad():
            found.append(network(small[None])[0].numpy())
    return np.stack(found)


# Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("input", [RGB, BGR_BYTES], ids=["rgb", "bgr_bytes"])
def test_features_match_plain_loop(tmp_path, backbone, images, input):
    backbone = replace(backbone, input=input)
    found = extract(tmp_path, backbone, images)
    plain = reference_features(backbone, images)
    assert found.dtype == np.float32 and found.shape == (10, 512)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * plain.max())


def test_conversions_are_kept_in_the_cache(tmp_path, backbone, own_images, monkeypatch):
    """A run that reads the features from the cache counts the same converted images."""
    path = own_images.path(3)
    Image.open(path).convert("LA").point(lambda level: level // 2).save(path, "PNG")
    found = []
    for _ in range(2):
        monkeypatch.setattr(decoding, "_conversions", {})
        extract(tmp_path, backbone, own_images)
        found.append(decoding.conversions())
    assert found == [{str(path): decoding.COMPOSITED}] * 2


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64}, {"num_workers": 2}])
def test_batch_size_and_workers_do_not_matter(tmp_path, backbone, images, options):
    first = extract(tmp_path / "first", backbone, images)
    again = extract(tmp_path / "again", backbone, images, **options)
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_random_views_depend_on_seed_only(tmp_path, backbone, images):
    one, same, other = (
        extract(tmp_path / str(n), backbone, images, random_view(DATA, seed), batch_size=size)
        for n, (seed, size) in enumerate([(1, 4), (1, 10), (2, 4)])
    )
    np.testing.assert_allclose(one, same, rtol=1e-4, atol=1e-5)
    assert (np.abs(one - other).max(axis=1) > 1e-2).all()


def test_cache_key_covers_all_inputs(tmp_path, backbone, images):
    extractor = small_extractor(tmp_path)
    larger = settings_of("imagenet_linear", "cached").DATA
    views = [CENTER, center_view(larger), *(random_view(DATA, seed) for seed in (0, 1))]
    keys = []
    other_stride = replace(backbone, arch=replace(backbone.arch, stride_in_1x1=True))
    others = small_backbone(seed=1), replace(backbone, input=BGR_BYTES), other_stride
    for weights in (backbone, *others):
        extractor.open(weights)
        keys += [
            extractor.key(images, view)
            for images in (images, images.subset(range(9)))
            for view in views
        ]
    assert len({extractor.cache.entry_folder(key) for key in keys}) == len(keys) == 32
    assert {key["representation"] for key in keys} == {"avg"}


# Caching -----------------------------------------------------------------------------------------


def count_forward_passes(extractor):
    passes = []
    extractor.network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_second_call_uses_cache(tmp_path, backbone, images):
    extractor = small_extractor(tmp_path)
    extractor.open(backbone)
    passes = count_forward_passes(extractor)
    first = extractor.extract(images, CENTER)
    assert len(passes) == 3
    again = extractor.extract(images, CENTER)
    assert len(passes) == 3 and extractor.images == 10
    assert np.array_equal(first, again) and not again.flags.writeable


def test_later_run_does_not_read_images(tmp_path, backbone, own_images):
    first = np.array(extract(tmp_path, backbone, own_images))
    for index in range(10):
        path = own_images.path(index)
        before = path.stat()
        path.write_bytes(b"\0" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert np.array_equal(extract(tmp_path, backbone, own_images), first)


def test_changed_images_of_same_size_are_recomputed(tmp_path, backbone, own_images):
    first = np.array(extract(tmp_path, backbone, own_images))
    path, other = own_images.path(0), own_images.path(1)
    size = max(path.stat().st_size, other.stat().st_size)
    for file in (path, other):  # decoders ignore trailing bytes
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    swapped = [path.read_bytes(), other.read_bytes()]
    path.write_bytes(swapped[1])
    other.write_bytes(swapped[0])
    again = extract(tmp_path, backbone, own_images.subset(range(len(own_images))))
    np.testing.assert_allclose(again[[0, 1]], first[[1, 0]], atol=1e-6)


# Errors ------------------------------------------------------------------------------------------


def test_broken_image_is_named(tmp_path, backbone, own_images):
    path = own_images.path(6)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"val/6\.jpg"):
        extract(tmp_path, backbone, own_images)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nonfinite_features_name_the_image(tmp_path, backbone, own_images):
    Image.new("RGB", (50, 50)).save(own_images.path(6))
    extractor = small_extractor(tmp_path)
    extractor.open(backbone)

    def spoil_black(module, inputs, features):
        black = inputs[0].flatten(1).amax(dim=1) == 0
        return features.where(~black[:, None], torch.nan)

    extractor.network.register_forward_hook(spoil_black)
    with raises_code("probe.features_not_finite", "val/6.jpg"):
        extractor.extract(own_images, CENTER)
    assert list((tmp_path / "cache").iterdir()) == []


# Memory ------------------------------------------------------------------------------------------


def run_out_of_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")


def run_out_of_cpu_memory():
    torch.empty(2**60, dtype=torch.uint8)  # raises the message of the CPU allocator


OUT_OF_MEMORY = [run_out_of_gpu_memory, run_out_of_cpu_memory]


def network_of(most, fail):
    """Return a network, twice the mean of each image, that fails on larger batches."""

    def network(images):
        if len(images) > most:
            fail()
        return 2 * images.flatten(1).mean(dim=1, keepdim=True)

    return network


@pytest.mark.parametrize("fail", OUT_OF_MEMORY)
def test_batch_is_halved_until_it_fits(fail, caplog):
    images = torch.rand(13, 3, 4, 4)
    with caplog.at_level(logging.WARNING):
        forward = AdaptiveBatchForward(network_of(3, fail), 16)
        found = forward(images)
    torch.testing.assert_close(found, network_of(13, fail)(images))
    assert forward.size == 2
    assert len(caplog.records) == 3


@pytest.mark.parametrize("fail", OUT_OF_MEMORY)
def test_out_of_memory_with_batch_size_1(fail):
    with raises_code("device.out_of_memory", "--num-gpus 0") as caught:
        AdaptiveBatchForward(network_of(0, fail), 4)(torch.rand(3, 3, 4, 4))
    assert "\n" not in str(caught.value)


def test_other_errors_propagate():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        AdaptiveBatchForward(nn.Linear(3, 2), 4)(torch.rand(3, 7))


def test_halved_batches_give_same_features(tmp_path, backbone, images):
    extractor = small_extractor(tmp_path, batch_size=10)
    extractor.open(backbone)

    def four_at_most(module, inputs):
        if len(inputs[0]) > 4:
            run_out_of_cpu_memory()

    extractor.network.register_forward_pre_hook(four_at_most)
    found = extractor.extract(images, CENTER)
    plain = extract(tmp_path / "plain", backbone, images)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


# Frozen ------------------------------------------------------------------------------------------


class Learning(FeatureExtractor):
    """Leaves train mode on, so that BatchNorm statistics change."""

    def open(self, backbone):
        super().open(backbone)
        self.network.cnn.train()


def test_changed_statistics_fail_the_run(tmp_path, backbone, images):
    settings = settings_of("imagenet_knn", "toy", *SMALL_IMAGES)
    splits = replace(images, name="train"), images
    extractor = Learning(torch.device("cpu"), small_extractor(tmp_path).cache, 5)
    with raises_code("probe.backbone_changed"):
        NearestNeighbors(*splits, settings, extractor)(backbone)
    assert extractor.cache.entries() == []  # the features are not cached


def test_run_reports_unchanged_backbone(tmp_path, backbone, images):
    settings = settings_of("imagenet_knn", "toy", *SMALL_IMAGES)
    splits = replace(images, name="train"), images
    probe = NearestNeighbors(*splits, settings, small_extractor(tmp_path))
    probe(backbone)
    assert probe.report.verification["backbone"]["unchanged"] is True


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.0.bn1.running_var", "bn1.bias"])
def test_change_by_one_ulp_is_detected(name):
    network = torchvision.models.resnet18()
    sha256 = tensors_sha256(network)
    verify_unchanged(network, sha256)
    tensor = network.state_dict()[name].view(-1)
    tensor[3] = torch.nextafter(tensor[3], torch.tensor(torch.inf))
    with raises_code("probe.backbone_changed", sha256):
        verify_unchanged(network, sha256)


def test_swapped_tensors_are_detected():
    network = torchvision.models.resnet18()
    sha256 = tensors_sha256(network)
    first, second = network.layer1[0].conv1.weight, network.layer1[0].conv2.weight
    first.data, second.data = second.data, first.data
    assert tensors_sha256(network) != sha256
