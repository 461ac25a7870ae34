"""Pooled features: those of a plain loop, computed once, of a backbone that stays as it is."""

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

from tests.probes.small_probes import (
    BGR_OF_BYTES,
    CROP,
    RESIZE,
    RGB,
    SMALL_PICTURES,
    settings_of,
    small_backbone,
    small_extraction,
    some_pictures,
)
from virtex.errors import UserError
from virtex.probes.features import AdaptiveBatchForward, Extraction, center_view, random_view
from virtex.probes.frozen import require_unchanged, tensors_sha256
from virtex.probes.knn import NearestNeighbors

DATA = settings_of("imagenet_linear", "cached", *SMALL_PICTURES).DATA
CENTER = center_view(DATA)


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return some_pictures(tmp_path_factory.mktemp("data") / "val", 10)


@pytest.fixture
def own_pictures(tmp_path):
    return some_pictures(tmp_path / "val", 10)


def computed(folder, backbone, images, view=CENTER, **options):
    extraction = small_extraction(folder, **options)
    extraction.open(backbone)
    return extraction.features(images, view)


def plain_features(backbone, images):
    """torchvision's own network, one picture after another, mean and deviation by hand."""
    network = torchvision.models.resnet18().eval()
    network.fc = nn.Identity()
    network.load_state_dict(backbone.state_dict)
    found = []
    for index in range(len(images)):
        picture = Image.open(images.path(index)).convert("RGB")
        picture = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        small = v2.CenterCrop(CROP)(v2.Resize(RESIZE, antialias=True)(picture)).float()
        if backbone.input.channel_order == "BGR":
            small = small[[2, 1, 0]]
        small = small / 255 * backbone.input.scale
        for channel in range(3):
            small[channel] -= backbone.input.mean[channel]
            small[channel] /= backbone.input.std[channel]
        with torch.no_grad():
            found.append(network(small[None])[0].numpy())
    return np.stack(found)


# What is computed --------------------------------------------------------------------------------


@pytest.mark.parametrize("input", [RGB, BGR_OF_BYTES], ids=["RGB", "BGR of bytes"])
def test_features_are_those_of_a_plain_loop(tmp_path, backbone, pictures, input):
    backbone = replace(backbone, input=input)
    found = computed(tmp_path, backbone, pictures)
    plain = plain_features(backbone, pictures)
    assert found.dtype == np.float32 and found.shape == (10, 512)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5 * plain.max())


def test_they_come_in_the_order_of_the_image_set(tmp_path, backbone, pictures):
    order = [7, 2, 9, 0]
    found = computed(tmp_path, backbone, pictures.subset(order))
    np.testing.assert_allclose(found, computed(tmp_path, backbone, pictures)[order], rtol=1e-4)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64}, {"num_workers": 2}])
def test_neither_batches_nor_workers_change_them(tmp_path, backbone, pictures, options):
    first = computed(tmp_path / "first", backbone, pictures)
    again = computed(tmp_path / "again", backbone, pictures, **options)
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_random_views_depend_on_their_seed_alone(tmp_path, backbone, pictures):
    one, same, other = (
        computed(tmp_path / str(n), backbone, pictures, random_view(DATA, seed), batch_size=size)
        for n, (seed, size) in enumerate([(1, 4), (1, 10), (2, 4)])
    )
    np.testing.assert_allclose(one, same, rtol=1e-4, atol=1e-5)
    assert (np.abs(one - other).max(axis=1) > 1e-2).all()


def test_the_key_says_backbone_input_pictures_transform_and_seed(tmp_path, backbone, pictures):
    extraction = small_extraction(tmp_path)
    larger = settings_of("imagenet_linear", "cached").DATA
    views = [CENTER, center_view(larger), *(random_view(DATA, seed) for seed in (0, 1))]
    keys = []
    other_stride = replace(backbone, arch=replace(backbone.arch, stride_in_1x1=True))
    others = small_backbone(seed=1), replace(backbone, input=BGR_OF_BYTES), other_stride
    for weights in (backbone, *others):
        extraction.open(weights)
        keys += [
            extraction.key(images, view)
            for images in (pictures, pictures.subset(range(9)))
            for view in views
        ]
    assert len({extraction.cache.place(key) for key in keys}) == len(keys) == 32
    assert {key["pooling"] for key in keys} == {"global average"}


# Once --------------------------------------------------------------------------------------------


def count_forward_passes(extraction):
    passes = []
    extraction.network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_a_second_call_computes_nothing(tmp_path, backbone, pictures):
    extraction = small_extraction(tmp_path)
    extraction.open(backbone)
    passes = count_forward_passes(extraction)
    first = extraction.features(pictures, CENTER)
    assert len(passes) == 3
    again = extraction.features(pictures, CENTER)
    assert len(passes) == 3 and extraction.images == 10
    assert np.array_equal(first, again) and not again.flags.writeable


def test_a_later_run_does_not_look_at_the_pictures(tmp_path, backbone, own_pictures):
    first = np.array(computed(tmp_path, backbone, own_pictures))
    for index in range(10):
        path = own_pictures.path(index)
        before = path.stat()
        path.write_bytes(b"\0" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert np.array_equal(computed(tmp_path, backbone, own_pictures), first)


def test_pictures_of_the_same_names_and_sizes_have_features_of_their_own(
    tmp_path, backbone, own_pictures
):
    first = np.array(computed(tmp_path, backbone, own_pictures))
    path, other = own_pictures.path(0), own_pictures.path(1)
    size = max(path.stat().st_size, other.stat().st_size)
    for file in (path, other):  # bytes behind a picture's end change nothing of it
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    swapped = [path.read_bytes(), other.read_bytes()]
    path.write_bytes(swapped[1])
    other.write_bytes(swapped[0])
    again = computed(tmp_path, backbone, own_pictures.subset(range(len(own_pictures))))
    np.testing.assert_allclose(again[[0, 1]], first[[1, 0]], atol=1e-6)


def test_another_backbone_has_features_of_its_own(tmp_path, backbone, pictures):
    first = computed(tmp_path, backbone, pictures)
    other = computed(tmp_path, small_backbone(seed=1), pictures)
    assert np.abs(first - other).max() > 1e-2


# What goes wrong ---------------------------------------------------------------------------------


def test_a_broken_picture_is_named_and_nothing_is_kept(tmp_path, backbone, own_pictures):
    path = own_pictures.path(6)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"val/6\.jpg cannot be read"):
        computed(tmp_path, backbone, own_pictures)
    assert list((tmp_path / "cache").iterdir()) == []


def test_features_that_are_not_finite_name_their_picture(tmp_path, backbone, own_pictures):
    Image.new("RGB", (50, 50)).save(own_pictures.path(6))
    extraction = small_extraction(tmp_path)
    extraction.open(backbone)

    def spoil_black(module, inputs, features):
        black = inputs[0].flatten(1).amax(dim=1) == 0
        return features.where(~black[:, None], torch.nan)

    extraction.network.register_forward_hook(spoil_black)
    with pytest.raises(UserError, match=r"val/6\.jpg are not finite"):
        extraction.features(own_pictures, CENTER)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_backbone_that_gives_infinity_is_no_backbone(tmp_path, backbone, pictures):
    huge = {**backbone.state_dict, "layer4.1.bn2.bias": torch.full((512,), 3e38)}
    huge["layer4.1.bn2.weight"] = torch.full((512,), 3e38)
    with pytest.raises(UserError, match=r"val/0\.jpg are not finite"):
        computed(tmp_path, replace(backbone, state_dict=huge), pictures)


# Memory ------------------------------------------------------------------------------------------


def out_of_memory_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")


def out_of_memory_of_the_cpu():
    torch.empty(2**60, dtype=torch.uint8)  # the allocator's own words


OUT_OF_MEMORY = [out_of_memory_of_a_gpu, out_of_memory_of_the_cpu]


def network_of(most, fail):
    """Twice the mean of each picture, of at most so many at once."""

    def network(images):
        if len(images) > most:
            fail()
        return 2 * images.flatten(1).mean(dim=1, keepdim=True)

    return network


@pytest.mark.parametrize("fail", OUT_OF_MEMORY)
def test_parts_are_halved_until_they_fit(fail, caplog):
    images = torch.rand(13, 3, 4, 4)
    with caplog.at_level(logging.WARNING):
        forward = AdaptiveBatchForward(network_of(3, fail), 16)
        found = forward(images)
    torch.testing.assert_close(found, network_of(13, fail)(images))
    assert forward.size == 2
    assert [r.message for r in caplog.records] == [
        f"out of memory: going on with {size} images at once" for size in (8, 4, 2)
    ]


def test_parts_stay_as_small_as_they_became(caplog):
    forward = AdaptiveBatchForward(network_of(3, out_of_memory_of_the_cpu), 4)
    forward(torch.rand(4, 3, 4, 4))
    caplog.clear()
    assert forward(torch.rand(5, 3, 4, 4)).shape == (5, 1)
    assert not caplog.records


@pytest.mark.parametrize("fail", OUT_OF_MEMORY)
def test_one_picture_that_does_not_fit_is_an_error_of_one_line(fail):
    with pytest.raises(UserError, match=r"memory does not do for one image .*--num-gpus 0") as said:
        AdaptiveBatchForward(network_of(0, fail), 4)(torch.rand(3, 3, 4, 4))
    assert "\n" not in str(said.value)


def test_other_errors_of_the_network_are_its_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        AdaptiveBatchForward(nn.Linear(3, 2), 4)(torch.rand(3, 7))


def test_a_backbone_that_needs_more_memory_gives_the_same_features(tmp_path, backbone, pictures):
    extraction = small_extraction(tmp_path, batch_size=10)
    extraction.open(backbone)

    def four_at_most(module, inputs):
        if len(inputs[0]) > 4:
            out_of_memory_of_the_cpu()

    extraction.network.register_forward_pre_hook(four_at_most)
    found = extraction.features(pictures, CENTER)
    plain = computed(tmp_path / "plain", backbone, pictures)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


# Frozen ------------------------------------------------------------------------------------------


def test_a_backbone_that_stayed_as_it_was_is_said_to_be_unchanged(tmp_path, backbone, pictures):
    extraction = small_extraction(tmp_path)
    extraction.open(backbone)
    extraction.features(pictures, CENTER)
    said = extraction.close()
    assert said == {"tensors_sha256": extraction.sha256, "unchanged": True}


class Learning(Extraction):
    """Forgets eval mode, so that BatchNorm goes on learning its statistics."""

    def open(self, backbone):
        super().open(backbone)
        self.network.cnn.train()


def test_statistics_that_were_learnt_fail_the_whole_run(tmp_path, backbone, pictures):
    settings = settings_of("imagenet_knn", "toy", *SMALL_PICTURES)
    splits = replace(pictures, name="train"), pictures
    extraction = Learning(torch.device("cpu"), small_extraction(tmp_path).cache, 5)
    with pytest.raises(UserError, match="frozen backbone changed during the evaluation"):
        NearestNeighbors(*splits, settings, extraction)(backbone)
    assert extraction.cache.entries() == []  # nobody else takes what it computed


def test_a_run_whose_backbone_stayed_as_it_was_says_so(tmp_path, backbone, pictures):
    settings = settings_of("imagenet_knn", "toy", *SMALL_PICTURES)
    splits = replace(pictures, name="train"), pictures
    probe = NearestNeighbors(*splits, settings, small_extraction(tmp_path))
    probe(backbone)
    assert probe.report.verification["backbone"]["unchanged"] is True


@pytest.mark.parametrize("name", ["conv1.weight", "layer3.0.bn1.running_var", "bn1.bias"])
def test_a_tensor_that_changed_by_a_hair_is_seen(name):
    network = torchvision.models.resnet18()
    sha256 = tensors_sha256(network)
    require_unchanged(network, sha256)
    tensor = network.state_dict()[name].view(-1)
    tensor[3] = torch.nextafter(tensor[3], torch.tensor(torch.inf))
    with pytest.raises(UserError, match=f"{sha256} before"):
        require_unchanged(network, sha256)


def test_tensors_that_changed_places_are_seen():
    network = torchvision.models.resnet18()
    sha256 = tensors_sha256(network)
    first, second = network.layer1[0].conv1.weight, network.layer1[0].conv2.weight
    first.data, second.data = second.data, first.data
    assert tensors_sha256(network) != sha256
