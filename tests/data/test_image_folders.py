"""Class folders are read as torchvision reads them; what is missing is named with its remedy."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from virtex.data.image_folders import read_image_folder
from virtex.errors import UserError


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """A copy of ImageNet to be spoiled."""
    return Path(shutil.copytree(toy_root / "imagenet", tmp_path / "imagenet"))


def test_both_splits_are_what_torchvision_finds(toy_root):
    folder = toy_root / "imagenet"
    for data, split in zip(read_image_folder(folder, "imagenet"), ("train", "val"), strict=True):
        theirs = ImageFolder(str(folder / split))
        assert data.class_names == theirs.classes
        assert [
            (str(data.path(index)), label) for index, label in enumerate(data.labels)
        ] == theirs.samples


def test_splits_have_the_name_of_the_data_set(toy_root):
    train, val = read_image_folder(toy_root / "imagenet", "pets")
    assert (train.name, val.name) == ("pets_train", "pets_val")
    assert (len(train), len(val)) == (100, 24)
    assert train.labels.dtype == np.int64


def test_folders_in_class_folders_belong_to_the_class(spoiled):
    before = read_image_folder(spoiled, "imagenet")[1]
    file = spoiled / "val" / before.files[0]
    (file.parent / "more/and more").mkdir(parents=True)
    file.rename(file.parent / "more/and more" / file.name)
    after = read_image_folder(spoiled, "imagenet")[1]
    assert f"{file.parent.name}/more/and more/{file.name}" in after.files
    assert np.array_equal(after.labels, before.labels)


def test_files_that_are_no_images_are_left_out(spoiled):
    before = read_image_folder(spoiled, "imagenet")[0]
    (spoiled / "train/n90000001/notes.txt").write_text("")
    (spoiled / "train/notes.txt").write_text("")
    assert read_image_folder(spoiled, "imagenet")[0].files == before.files


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere has no folder train: it does not exist"):
        read_image_folder(tmp_path / "nowhere", "imagenet")


def test_what_was_found_in_the_place_of_a_split_is_told(spoiled):
    (spoiled / "val").rename(spoiled / "pictures")
    with pytest.raises(UserError, match=r"no folder val: it holds pictures/, train/; give"):
        read_image_folder(spoiled, "imagenet")


@pytest.mark.parametrize("name", ["test", "validation"])
def test_a_split_of_another_name_is_to_be_renamed(spoiled, name):
    (spoiled / "val").rename(spoiled / name)
    with pytest.raises(UserError, match=f"rename or link its folder {name} to val"):
        read_image_folder(spoiled, "imagenet")


def test_val_images_without_class_folders_are_to_be_moved(spoiled):
    for folder in list((spoiled / "val").iterdir()):
        for file in folder.iterdir():
            file.rename(spoiled / "val" / file.name)
        folder.rmdir()
    with pytest.raises(UserError, match=r"val has no class folders: it holds .*, …; move"):
        read_image_folder(spoiled, "imagenet")


def test_an_empty_split_is_told(spoiled):
    shutil.rmtree(spoiled / "train")
    (spoiled / "train").mkdir()
    with pytest.raises(UserError, match="train has no class folders: it is empty; give it one"):
        read_image_folder(spoiled, "imagenet")


def test_class_folders_without_an_image_are_counted_and_named(spoiled):
    for name in ("n90000003", "n90000005"):
        for file in (spoiled / "val" / name).iterdir():
            file.unlink()
    with pytest.raises(UserError, match=r"2 class folders .*val hold no image: n90000003, n9"):
        read_image_folder(spoiled, "imagenet")


def test_classes_of_one_split_alone_are_named(spoiled):
    (spoiled / "val/n90000004").rename(spoiled / "val/cats")
    with pytest.raises(UserError) as raised:
        read_image_folder(spoiled, "imagenet")
    assert "1 class folders of val are not in train (cats)" in str(raised.value)
    assert "1 class folders of train are not in val (n90000004)" in str(raised.value)
