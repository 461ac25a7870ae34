"""The datasets of the classification suite, against torchvision's classes."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets import cifar, flowers102, stl10, svhn

from tests.data.suite_data import write_lines, write_set
from tests.errors import raises_code
from tests.probes.small_probes import label_set, small_backbone, small_extractor
from virtex.data.classification import evaluation_transform
from virtex.data.image_sets import ImageSet, PackedImageSet
from virtex.data.layouts import missing_paths
from virtex.data.suite_readers import READERS
from virtex.data.suite_sets import SUITE
from virtex.data.suite_splits import hold_out
from virtex.data.voc import VOC_CLASSES
from virtex.probes.features import View

HAS_H5PY = find_spec("h5py") is not None
READABLE = [name for name in SUITE if name != "pcam" or HAS_H5PY]
PACKED = [name for name in READABLE if name in ("cifar10", "cifar100", "svhn", "stl10", "pcam")]
TRAIN_TEST, TRAIN_VAL_TEST = ("train", "test"), ("train", "val", "test")


class LabeledSTL10(datasets.STL10):
    train_list = datasets.STL10.train_list[:2]  # the tests write no unlabeled images


@pytest.fixture
def unverified(monkeypatch):
    """Accept archives other than the published ones."""
    for module in (cifar, flowers102, stl10, svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


@pytest.fixture(scope="module")
def suite_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("suite")
    for name in READABLE:
        write_set(name, root)
    return root


def torchvision_sets(name, root):
    """Return torchvision's datasets whose images together are those of each group of splits."""
    of_split = {
        "food101": (datasets.Food101, TRAIN_TEST),
        "cars": (datasets.StanfordCars, TRAIN_TEST),
        "aircraft": (datasets.FGVCAircraft, TRAIN_VAL_TEST),
        "dtd": (datasets.DTD, TRAIN_VAL_TEST),
        "pets": (datasets.OxfordIIITPet, ("trainval", "test")),
        "flowers102": (datasets.Flowers102, TRAIN_VAL_TEST),
        "gtsrb": (datasets.GTSRB, TRAIN_TEST),
        "pcam": (datasets.PCAM, TRAIN_VAL_TEST),
        "stl10": (LabeledSTL10, TRAIN_TEST),
        "country211": (datasets.Country211, ("train", "valid", "test")),
    }
    if name in of_split:
        kind, splits = of_split[name]
        return [kind(root, split=split) for split in splits]
    if name.startswith("cifar"):
        kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        return [kind(root, train=train) for train in (True, False)]
    if name == "svhn":
        return [datasets.SVHN(root / "svhn", split=split) for split in TRAIN_TEST]
    kind = {"sun397": datasets.SUN397, "eurosat": datasets.EuroSAT}[name]
    return [kind(root)]  # of which no splits exist


def contents(samples):
    """Pixels and labels, sorted: images are compared without regard to their order."""
    return sorted((np.asarray(image.convert("RGB")).tobytes(), int(y)) for image, y in samples)


def loaded(*sets):
    return [
        (Image.fromarray(images.load(index).permute(1, 2, 0).numpy()), images.labels[index])
        for images in sets
        for index in range(len(images))
    ]


# Against torchvision -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in READABLE if n not in ("voc2007", "caltech101")])
def test_images_and_labels_match_torchvision(name, suite_root, unverified):
    splits = SUITE[name].read(suite_root)
    expected = torchvision_sets(name, suite_root)
    groups = {
        1: [(splits.train, splits.val, splits.test)],
        2: [(splits.train, splits.val), (splits.test,)],
        3: [(splits.train,), (splits.val,), (splits.test,)],
    }[len(expected)]
    for group, data in zip(groups, expected, strict=True):
        assert contents(loaded(*group)) == contents(data)
    classes = getattr(expected[0], "classes", None)
    assert classes is None or list(splits.train.class_names) == list(classes)


def test_voc2007_labels(suite_root):
    splits = SUITE["voc2007"].read(suite_root)
    main = suite_root / "VOC2007" / "ImageSets" / "Main"
    for split, images in zip(TRAIN_VAL_TEST, (splits.train, splits.val, splits.test), strict=True):
        assert images.name == f"voc_2007_{split}" and len(images) == 25
        for column, name in enumerate(VOC_CLASSES):
            lines = (main / f"{name}_{split}.txt").read_text().splitlines()
            assert images.labels[:, column].tolist() == [int(line.split()[1]) for line in lines]


@pytest.mark.parametrize("name", READABLE)
def test_splits(name, suite_root, unverified):
    """Names are those of the published sizes, reading again gives the same, nothing is lost."""
    suite_set = SUITE[name]
    assert missing_paths(suite_root, suite_set.layout) == []
    splits, again = suite_set.read(suite_root), suite_set.read(str(suite_root))
    sets = (splits.train, splits.val, splits.test)
    assert [images.name for images in sets] == list(suite_set.images)
    for images, second in zip(sets, (again.train, again.val, again.test), strict=True):
        assert images.describe() == second.describe()
        assert images.labels.dtype == (np.int8 if name == "voc2007" else np.int64)
        assert images.load(0).dtype == torch.uint8 and images.load(0).shape[0] == 3
    assert max(Counter(file for images in sets for file in images.files).values()) == 1


def held_out_by_ssl_transfer(files):
    """As ``get_train_valid_loader`` of ssl-transfer's linear.py chooses the validation images."""
    state = np.random.get_state()
    indices = list(range(len(files)))
    np.random.seed(0)
    np.random.shuffle(indices)
    np.random.set_state(state)
    return {files[index] for index in indices[: int(np.floor(0.2 * len(files)))]}


def test_validation_images_match_ssl_transfer(suite_root, unverified):
    """In the order of its dataset classes."""
    batches = [f"data_batch_{batch}[{row}]" for batch in range(1, 6) for row in range(3)]
    assert set(SUITE["cifar10"].read(suite_root).val.files) == held_out_by_ssl_transfer(batches)
    meta = suite_root / "food-101" / "meta"
    listed = json.loads((meta / "train.json").read_text())
    classes = (meta / "classes.txt").read_text().splitlines()
    food = [f"images/{image}.jpg" for name in classes for image in listed[name]]
    assert set(SUITE["food101"].read(suite_root).val.files) == held_out_by_ssl_transfer(food)
    scenes = (suite_root / "SUN397" / "Training_01.txt").read_text().splitlines()
    expected = held_out_by_ssl_transfer([scene[1:] for scene in scenes])
    assert set(SUITE["sun397"].read(suite_root).val.files) == expected


def test_every_class_keeps_a_training_image():
    """Images 2 and 8 of 10 would be held out."""
    train, val = hold_out(label_set([0] * 10))
    assert val.files == ["2.jpg", "8.jpg"] and len(train) == 8
    train, val = hold_out(label_set([0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert val.files == ["8.jpg"] and "2.jpg" in train.files
    train, val = hold_out(label_set([0, 0, 1, 0, 0, 0, 0, 0, 1, 0]))
    assert val.files == ["8.jpg"] and "2.jpg" in train.files


# Caltech-101 --------------------------------------------------------------------------------------


def test_caltech101_without_split_files(suite_root):
    splits = SUITE["caltech101"].read(suite_root)
    assert splits.test.class_names == ["BACKGROUND_Google", "Faces", "accordion"]
    counts = [np.bincount(images.labels) for images in (splits.train, splits.val, splits.test)]
    assert (counts[0] + counts[1]).tolist() == [30, 4, 30]
    assert counts[2].tolist() == [10, 1, 3]
    own = datasets.Caltech101(suite_root)  # without the background
    samples = ((image, label + 1) for image, label in own)
    found = loaded(splits.train, splits.val, splits.test)
    assert contents(sample for sample in found if sample[1]) == contents(samples)


def test_caltech101_with_split_files(tmp_path):
    root = write_set("caltech101", tmp_path) / "caltech101"
    train = [f"BACKGROUND_Google/image_{n:04}.jpg 0" for n in range(12, 1, -1)]
    train += [f"Faces/image_000{n}.jpg 1" for n in (1, 2)]
    write_lines(root / "train.txt", [*train, "accordion/image_0001.jpg 2"])
    write_lines(root / "test.txt", ["accordion/image_0007.jpg 2", "Faces/image_0004.jpg 1"])
    splits = SUITE["caltech101"].read(tmp_path)
    files = [*splits.train.files, *splits.val.files]
    listed = [*train, "accordion/image_0001.jpg 2"]
    assert sorted(files) == sorted(f"101_ObjectCategories/{line.split()[0]}" for line in listed)
    assert splits.test.labels.tolist() == [2, 1]
    write_lines(root / "test.txt", ["accordion/image_0007.jpg 1"])
    with raises_code("data.annotations", root / "test.txt", "accordion/image_0007.jpg 1"):
        SUITE["caltech101"].read(tmp_path)
    (root / "test.txt").unlink()
    with raises_code("data.missing", root / "test.txt"):
        SUITE["caltech101"].read(tmp_path)


# The table ----------------------------------------------------------------------------------------


def test_table():
    assert list(SUITE) == list(READERS)
    for name, each in SUITE.items():
        assert name == each.name and each.metric in ("top1", "mean_per_class", "mAP")
        assert len(each.images) == 3


def test_no_heavy_imports():
    code = "import sys, virtex.data.suite_sets; print([m for m in sys.modules if m in %r])"
    heavy = ("numpy", "torch", "torchvision", "scipy", "sklearn")
    command = [sys.executable, "-c", code % (heavy,)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "documented", "classes", "per"),
    [
        ("food101", "250 manually reviewed test images .* 750 training", 101, 101),
        ("cars", "8,144 training images and 8,041 testing", 196, 1),
        ("country211", "150 train images, 50 validation images, and 100 test", 211, 211),
        ("pcam", "327,680 color images", 2, 1),
        ("aircraft", "10,000 images", 100, 1),
    ],
)
def test_published_sizes_match_torchvision(name, documented, classes, per):
    kinds = {"food101": "Food101", "cars": "StanfordCars", "country211": "Country211"}
    kind = {**kinds, "pcam": "PCAM", "aircraft": "FGVCAircraft"}[name]
    text = " ".join(getattr(datasets, kind).__doc__.split())
    found = re.search(documented, text)
    assert found and SUITE[name].num_classes == classes
    numbers = sorted(int(n.replace(",", "")) * per for n in re.findall(r"\d[\d,]*\d", found[0]))
    sizes = list(SUITE[name].images.values())
    parts = {1: [sum(sizes)], 2: [sum(sizes[:2]), sizes[2]], 3: sizes}[len(numbers)]
    assert sorted(parts) == numbers


# Packed images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
def test_packed_images(name, suite_root, unverified):
    train = SUITE[name].read(suite_root).train
    assert isinstance(train, PackedImageSet)
    chosen = train.subset([3, 1])
    assert len(chosen) == 2 and chosen.files == [train.files[3], train.files[1]]
    assert chosen.labels.tolist() == train.labels[[3, 1]].tolist()
    assert torch.equal(chosen.load(1), train.load(1)) and chosen.name == train.name
    assert chosen.fingerprint() != train.subset([1, 3]).fingerprint()
    assert chosen.describe() == train.subset([3, 1]).describe()
    assert all((train.root / archive).is_file() for archive in train.archives)


def test_cifar10_files_are_rows_of_batches(suite_root, unverified):
    splits = SUITE["cifar10"].read(suite_root)
    assert sorted([*splits.train.files, *splits.val.files]) == [
        f"data_batch_{batch}[{row}]" for batch in range(1, 6) for row in range(3)
    ]
    assert splits.test.files == ["test_batch[0]", "test_batch[1]", "test_batch[2]"]


def test_hashes_of_packed_images_cover_their_archives(tmp_path, unverified):
    write_set("svhn", tmp_path)
    train = SUITE["svhn"].read(tmp_path).train
    before, after = train.subset([0]), train.subset([0])
    described = before.describe()["files_sha256"]
    path = tmp_path / "svhn" / "train_32x32.mat"
    path.write_bytes(path.read_bytes() + b"0")
    assert after.describe()["files_sha256"] != described
    path.unlink()
    with raises_code("data.image", path):
        train.subset([0]).fingerprint()


def test_features_of_packed_images(tmp_path, suite_root, unverified):
    """They equal those of the same images in PNG files, with and without the cache."""
    packed = SUITE["cifar10"].read(suite_root).test
    files = [f"{index}.png" for index in range(len(packed))]
    for index, file in enumerate(files):
        Image.fromarray(packed.load(index).permute(1, 2, 0).numpy()).save(tmp_path / file)
    images = ImageSet("png", tmp_path, files, packed.labels, packed.class_names)
    view = View(evaluation_transform(32, 32), {"crop": 32})
    extractor = small_extractor(tmp_path)
    extractor.open(small_backbone())
    expected = np.array(extractor.extract(images, view))
    for _ in range(2):
        assert np.array_equal(extractor.extract(packed, view), expected)
    assert extractor.images == 2 * len(packed)


# Invalid data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READABLE)
def test_missing_data(name, tmp_path):
    with raises_code("data.missing", tmp_path):
        SUITE[name].read(tmp_path)


def test_pcam_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with raises_code("environment.missing_package", "h5py"):
        SUITE["pcam"].read(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "flowers102", "svhn", "stl10"])
def test_modified_archives(name, tmp_path):
    """torchvision compares MD5 with those of the published files before it unpickles any."""
    write_set(name, tmp_path)
    with raises_code("data.missing", tmp_path):
        SUITE[name].read(tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "code"),
    [
        ("food101", "food-101/images/waffles/3.jpg", "data.missing_images"),
        ("food101", "food-101/meta/test.json", "data.missing"),
        ("sun397", "SUN397/a/abbey/sun_Testing0.jpg", "data.missing_images"),
        ("sun397", "SUN397/Training_01.txt", "data.missing"),
        ("cars", "stanford_cars/cars_train/00001.jpg", "data.missing_images"),
        ("cars", "stanford_cars/devkit/cars_meta.mat", "data.missing"),
        ("aircraft", "fgvc-aircraft-2013b/data/images/0001001.jpg", "data.missing_images"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "data.missing"),
        ("dtd", "dtd/dtd/images/banded/banded_val0.jpg", "data.missing_images"),
        ("gtsrb", "gtsrb/GTSRB/Final_Test/Images/00003.ppm", "data.missing_images"),
        ("gtsrb", "gtsrb/GT-final_test.csv", "data.missing"),
        ("stl10", "stl10_binary/class_names.txt", "data.missing"),
    ],
)
def test_removed_files(name, path, code, tmp_path, unverified):
    write_set(name, tmp_path)
    (tmp_path / path).unlink()
    with raises_code(code, path.rpartition("/")[2]):
        SUITE[name].read(tmp_path)


def add_line(path, line):
    path.write_text(f"{path.read_text()}{line}\n")


@pytest.mark.parametrize(
    ("name", "path", "line", "code", "named"),
    [
        ("aircraft", "variants.txt", "Tu-154", "data.annotations", "Tu-154"),  # no images
        ("aircraft", "images_variant_val.txt", "0001000 Concorde", "data.annotations", "Concorde"),
        ("aircraft", "images_variant_val.txt", "0000000 A300B4", "data.annotations", "0000000"),
        ("aircraft", "images_variant_val.txt", "0001000 A300B4", "data.annotations", "0001000"),
        ("aircraft", "images_variant_val.txt", "7777777 A300B4", "data.missing_images", "7777777"),
        ("dtd", "val1.txt", "wood/wood_1.jpg", "data.classes_differ", "wood"),
        ("sun397", "Testing_01.txt", "/b/bar/sun_1.jpg", "data.annotations", "bar/sun_1.jpg"),
        ("pets", "test.txt", "American_bulldog_3 3 1 1", "data.classes_differ", "test"),
        ("gtsrb", "GT-final_test.csv", "00000.ppm;9;9;0;0;9;9;43", "data.annotations", "43"),
        ("gtsrb", "GT-final_test.csv", "00000.ppm;9;9;0;0;9;9;-1", "data.annotations", "-1"),
        ("gtsrb", "GT-final_test.csv", "00000.ppm;9;9;0;0;9;9;x", "data.annotations", "gtsrb"),
    ],
)
def test_invalid_lines(name, path, line, code, named, tmp_path):
    write_set(name, tmp_path)
    (found,) = tmp_path.rglob(path)
    add_line(found, line)
    with raises_code(code, named):
        SUITE[name].read(tmp_path)


def test_class_folder_without_images(tmp_path):
    write_set("country211", tmp_path)
    (tmp_path / "country211" / "train" / "XK").mkdir()
    with raises_code("data.class_folders", "XK"):
        SUITE["country211"].read(tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cars", "stanford_cars/devkit/cars_train_annos.mat"),
        ("cifar10", "cifar-10-batches-py/data_batch_2"),
        ("food101", "food-101/meta/train.json"),
        ("stl10", "stl10_binary/train_X.bin"),
        ("svhn", "svhn/test_32x32.mat"),
    ],
)
@pytest.mark.parametrize("keep", [0, 90])
def test_truncated_annotations(name, path, keep, tmp_path, unverified):
    write_set(name, tmp_path)
    (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:keep])
    with raises_code("data.annotations", name[:4]):
        SUITE[name].read(tmp_path)
