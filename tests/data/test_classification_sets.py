"""Labeled images: identified by names and sizes, drawn from class by class, and batched."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.errors import raises_code
from virtex.data.classification import (
    ClassificationSet,
    evaluation_transform,
    training_transform,
)
from virtex.data.decoding import decode_image
from virtex.data.image_folders import read_image_folder
from virtex.data.image_sets import ImageSet, balanced_fraction
from virtex.data.loading import training_loader, validation_loader
from virtex.data.voc import read_voc07


@pytest.fixture
def val(toy_root) -> ImageSet:
    return read_image_folder(toy_root / "imagenet", "imagenet")[1]


@pytest.fixture
def copied_folder(toy_root, tmp_path) -> Path:
    return Path(shutil.copytree(toy_root / "imagenet", tmp_path / "elsewhere"))


def read_val(folder: Path) -> ImageSet:
    return read_image_folder(folder, "imagenet")[1]


# Image sets --------------------------------------------------------------------------------------


def test_subset(val):
    part = val.subset([5, 3])
    assert part.files == [val.files[5], val.files[3]]
    assert part.labels.tolist() == [val.labels[5], val.labels[3]]
    assert part.class_names == val.class_names
    assert part.path(0) == val.path(5)


def test_fingerprint_of_a_copy_is_the_same(val, copied_folder):
    assert read_val(copied_folder).fingerprint() == val.fingerprint()
    assert val.fingerprint()["images"] == 24


@pytest.mark.parametrize("change", ["size", "name", "order", "fewer"])
def test_fingerprint_of_other_images_differs(val, copied_folder, change):
    file = copied_folder / "val" / val.files[0]
    other = read_val(copied_folder)
    if change == "size":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "name":
        file.rename(file.with_name("other.JPEG"))
        other = read_val(copied_folder)
    elif change == "order":
        other = other.subset(range(len(other))[::-1])
    else:
        other = other.subset(range(len(other) - 1))
    assert other.fingerprint()["sha256"] != val.fingerprint()["sha256"]


def test_record_hashes_images_and_labels(val):
    said = val.describe()
    relabeled = ImageSet(val.name, val.root, val.files, val.labels[::-1], val.class_names)
    assert (said["images"], said["classes"]) == (24, 20)
    assert len(said["files_sha256"]) == 64
    assert relabeled.describe()["files_sha256"] == said["files_sha256"]
    assert relabeled.describe()["annotations_sha256"] != said["annotations_sha256"]


def test_removed_image(copied_folder):
    data = read_val(copied_folder)
    data.path(3).unlink()
    with raises_code("data.image", data.path(3)):
        data.fingerprint()


# Fractions ---------------------------------------------------------------------------------------

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [200, 50, 31, 3]))


@pytest.mark.parametrize(
    ("fraction", "taken"),
    [(0.1, [20, 5, 3, 1]), (0.01, [2, 1, 1, 1]), (0.5, [100, 25, 16, 2]), (1, [200, 50, 31, 3])],
)
def test_fraction_of_every_class(fraction, taken):
    indices = balanced_fraction(LABELS, fraction, seed=0)
    assert np.bincount(LABELS[indices]).tolist() == taken
    assert (np.diff(indices) > 0).all()


def test_fraction_depends_on_seed():
    first, again = (balanced_fraction(LABELS, 0.1, seed=3) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, balanced_fraction(LABELS, 0.1, seed=4))


def test_smaller_fraction_is_a_subset():
    shares = [set(balanced_fraction(LABELS, f, seed=0)) for f in (0.01, 0.1, 0.5, 1)]
    assert all(small <= large for small, large in itertools.pairwise(shares))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 10, float("nan")])
def test_invalid_fraction(fraction):
    with raises_code("arguments.invalid", fraction):
        balanced_fraction(LABELS, fraction, seed=0)


# Transforms --------------------------------------------------------------------------------------

SIZES = [(300, 500), (224, 224), (20, 31), (1, 1)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("transform", [training_transform(224), evaluation_transform(256, 224)])
def test_transforms_give_bytes_of_one_size(transform, height, width):
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    out = transform(image)
    assert out.shape == (3, 224, 224)
    assert out.dtype == torch.uint8


def test_evaluation_crops_the_center():
    image = torch.zeros(3, 64, 100, dtype=torch.uint8)
    image[:, 16:48, 34:66] = 255
    assert (evaluation_transform(64, 32)(image) == 255).all()


def test_crop_larger_than_image():
    with raises_code("config.crop_size", 224, 200):
        evaluation_transform(200, 224)


def test_half_of_training_images_are_mirrored():
    image = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    transform = training_transform(64)
    torch.manual_seed(0)
    mirrored = sum((out := transform(image))[0, 0, 0] > out[0, 0, -1] for _ in range(400))
    assert 160 < mirrored < 240


def test_crops_respect_scale():
    image = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256)
    torch.manual_seed(0)
    for least, most in ((0.08, 1.0), (0.9, 1.0)):
        transform = training_transform(64, (least, most))
        widths = [int(out.max()) - int(out.min()) for out in map(transform, [image] * 50)]
        assert min(widths) >= 0.9 * 256 * (least * 3 / 4) ** 0.5
        assert (min(widths) < 128) == (least < 0.5)


# Samples and batches -----------------------------------------------------------------------------


def test_sample(val):
    transform = evaluation_transform(48, 32)
    sample = ClassificationSet(val, transform, training=False)[(0, 7)]
    assert torch.equal(sample["image"], transform(decode_image(val.path(7))))
    assert sample["label"] == val.labels[7] and type(sample["label"]) is int
    assert sample["image_id"] == 7


def test_augmentation_depends_on_seed_and_position(val):
    data = ClassificationSet(val, training_transform(32))
    first = data[(5, 7)]["image"]
    data[(6, 8)]
    assert torch.equal(data[(5, 7)]["image"], first)
    assert not torch.equal(data[(6, 7)]["image"], first)
    other = ClassificationSet(val, training_transform(32), seed=1)
    assert not torch.equal(other[(5, 7)]["image"], first)


def test_batch(val):
    data = ClassificationSet(val, evaluation_transform(48, 32), training=False)
    batches = list(validation_loader(data, 10))
    assert [batch["image"].shape for batch in batches] == [(n, 3, 32, 32) for n in (10, 10, 4)]
    assert batches[0]["image"].dtype == torch.uint8
    for key, expected in (("label", val.labels.tolist()), ("image_id", list(range(24)))):
        assert torch.cat([batch[key] for batch in batches]).tolist() == expected
        assert batches[0][key].dtype == torch.int64


def test_voc_labels_are_vectors(toy_root):
    images = read_voc07(toy_root, "test")
    data = ClassificationSet(images, evaluation_transform(48, 32), training=False)
    batch = next(iter(validation_loader(data, 10)))
    assert data[(0, 0)]["label"].dtype == np.int8
    assert batch["label"].dtype == torch.int64
    assert np.array_equal(batch["label"].numpy(), images.labels[:10])


def test_workers_and_resume_change_nothing(val):
    data = ClassificationSet(val, training_transform(32))
    whole = list(itertools.islice(training_loader(data, 8, 0, seed=0), 4))
    resumed = list(itertools.islice(training_loader(data, 8, 2, seed=0, num_workers=2), 2))
    for one, other in zip(whole[2:], resumed, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("image", "label", "image_id"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_undecodable_image(copied_folder, num_workers):
    images = read_val(copied_folder)
    images.path(4).write_bytes(images.path(4).read_bytes()[:300])
    data = ClassificationSet(images, evaluation_transform(48, 32), training=False)
    with raises_code("data.image", images.path(4)):
        list(validation_loader(data, 24, num_workers=num_workers))


def test_undecodable_image_is_replaced_with_its_label(copied_folder):
    images = read_val(copied_folder)
    images.path(4).write_bytes(b"")
    data = ClassificationSet(images, training_transform(32), skip_bad_images=True)
    sample = data[(0, 4)]
    assert (sample["image_id"], sample["label"]) == (5, images.labels[5])


def test_gray_images_have_three_channels(copied_folder):
    images = read_val(copied_folder)
    Image.new("L", (40, 30), 200).save(images.path(0), "JPEG")
    image = ClassificationSet(images, evaluation_transform(48, 32))[(0, 0)]["image"]
    assert image.shape == (3, 32, 32)
    assert (image == 200).all()
