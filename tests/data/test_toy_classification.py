"""The toy ImageNet and iNaturalist folders."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.data.conftest import TRAIN, VAL
from virtex.data.toy.classification import long_tail


def inaturalist(toy_root: Path, split: str) -> dict:
    return json.loads((toy_root / "inaturalist" / "annotations" / f"{split}2018.json").read_text())


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL)])
def test_imagenet_has_its_number_of_images(toy_root, split, count):
    assert len(list((toy_root / "imagenet" / split).glob("n*/*.JPEG"))) == count


def test_imagenet_train_and_val_have_the_same_twenty_classes(toy_root):
    folders = [
        {path.name for path in (toy_root / "imagenet" / split).iterdir()}
        for split in ("train", "val")
    ]
    assert folders[0] == folders[1]
    assert len(folders[0]) == 20


def test_imagenet_classes_are_of_equal_size(toy_root):
    sizes = [len(list(path.iterdir())) for path in (toy_root / "imagenet" / "train").iterdir()]
    assert max(sizes) - min(sizes) <= 1


def test_imagenet_images_are_rgb_jpegs(toy_root):
    for path in (toy_root / "imagenet").rglob("*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL)])
def test_inaturalist_has_its_number_of_images(toy_root, split, count):
    content = inaturalist(toy_root, split)
    assert len(content["images"]) == len(content["annotations"]) == count


def test_inaturalist_lists_exactly_the_files_on_disk(toy_root):
    root = toy_root / "inaturalist"
    listed = [
        image["file_name"] for s in ("train", "val") for image in inaturalist(toy_root, s)["images"]
    ]
    on_disk = [str(path.relative_to(root)) for path in (root / "train_val2018").rglob("*.jpg")]
    assert sorted(listed) == sorted(on_disk)


@pytest.mark.parametrize("split", ["train", "val"])
def test_inaturalist_images_lie_in_the_folder_of_their_class(toy_root, split):
    content = inaturalist(toy_root, split)
    categories = {category["id"]: category for category in content["categories"]}
    labels = {one["image_id"]: categories[one["category_id"]] for one in content["annotations"]}
    for image in content["images"]:
        _, super_name, number, _ = image["file_name"].split("/")
        label = labels[image["id"]]
        assert (super_name, int(number)) == (label["supercategory"], label["id"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_inaturalist_states_the_size_of_its_images(toy_root, split):
    for image in inaturalist(toy_root, split)["images"]:
        with Image.open(toy_root / "inaturalist" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


def test_inaturalist_has_the_same_classes_in_both_splits(toy_root):
    train, val = (inaturalist(toy_root, split)["categories"] for split in ("train", "val"))
    assert train == val
    assert [category["id"] for category in train] == list(range(30))


def test_inaturalist_train_has_every_class_and_a_long_tail(toy_root):
    counts = Counter(one["category_id"] for one in inaturalist(toy_root, "train")["annotations"])
    assert len(counts) == 30
    assert max(counts.values()) >= 8 * min(counts.values())


def test_inaturalist_ids_are_not_shared_by_train_and_val(toy_root):
    ids = [{image["id"] for image in inaturalist(toy_root, s)["images"]} for s in ("train", "val")]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("total", [3, 30, 31, 100, 1000])
def test_a_long_tail_hands_out_every_image(total):
    counts = long_tail(total, 30)
    assert counts.sum() == total
    assert sorted(counts, reverse=True) == counts.tolist()
