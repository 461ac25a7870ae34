"""Class folders are read as by torchvision."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from tests.errors import raises_code
from virtex.data.image_folders import read_image_folder


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """Return a copy of ImageNet that a test may change."""
    return Path(shutil.copytree(toy_root / "imagenet", tmp_path / "imagenet"))


def test_same_as_torchvision(toy_root):
    folder = toy_root / "imagenet"
    for data, split in zip(read_image_folder(folder, "imagenet"), ("train", "val"), strict=True):
        theirs = ImageFolder(str(folder / split))
        assert data.class_names == theirs.classes
        assert [
            (str(data.path(index)), label) for index, label in enumerate(data.labels)
        ] == theirs.samples


def test_split_names(toy_root):
    train, val = read_image_folder(toy_root / "imagenet", "pets")
    assert (train.name, val.name) == ("pets_train", "pets_val")
    assert (len(train), len(val)) == (100, 24)
    assert train.labels.dtype == np.int64


def test_subfolders_belong_to_the_class(spoiled):
    before = read_image_folder(spoiled, "imagenet")[1]
    file = spoiled / "val" / before.files[0]
    (file.parent / "more/and more").mkdir(parents=True)
    file.rename(file.parent / "more/and more" / file.name)
    after = read_image_folder(spoiled, "imagenet")[1]
    assert f"{file.parent.name}/more/and more/{file.name}" in after.files
    assert np.array_equal(after.labels, before.labels)


def test_other_files_are_ignored(spoiled):
    before = read_image_folder(spoiled, "imagenet")[0]
    (spoiled / "train/n90000001/notes.txt").write_text("")
    (spoiled / "train/notes.txt").write_text("")
    assert read_image_folder(spoiled, "imagenet")[0].files == before.files


def test_missing_folder(tmp_path):
    with raises_code("data.missing", tmp_path / "nowhere", "train", "does not exist"):
        read_image_folder(tmp_path / "nowhere", "imagenet")


def test_missing_split(spoiled):
    (spoiled / "val").rename(spoiled / "pictures")
    with raises_code("data.missing", spoiled, "val", "pictures/, train/"):
        read_image_folder(spoiled, "imagenet")


@pytest.mark.parametrize("name", ["test", "validation"])
def test_split_under_another_name(spoiled, name):
    (spoiled / "val").rename(spoiled / name)
    with raises_code("data.missing", spoiled, f"{name} to val"):
        read_image_folder(spoiled, "imagenet")


def test_images_without_class_folders(spoiled):
    for folder in list((spoiled / "val").iterdir()):
        for file in folder.iterdir():
            file.rename(spoiled / "val" / file.name)
        folder.rmdir()
    with raises_code("data.class_folders", spoiled / "val", "move"):
        read_image_folder(spoiled, "imagenet")


def test_empty_split(spoiled):
    shutil.rmtree(spoiled / "train")
    (spoiled / "train").mkdir()
    with raises_code("data.class_folders", spoiled / "train", "is empty"):
        read_image_folder(spoiled, "imagenet")


def test_empty_class_folders(spoiled):
    for name in ("n90000003", "n90000005"):
        for file in (spoiled / "val" / name).iterdir():
            file.unlink()
    with raises_code("data.class_folders", spoiled / "val", "n90000003, n90000005"):
        read_image_folder(spoiled, "imagenet")


def test_different_classes(spoiled):
    (spoiled / "val/n90000004").rename(spoiled / "val/cats")
    with raises_code("data.class_folders", spoiled, "cats, n90000004"):
        read_image_folder(spoiled, "imagenet")
