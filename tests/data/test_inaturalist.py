"""iNaturalist 2018: labels from its JSON files; whatever keeps an image from one is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from virtex.data.inaturalist import read_inaturalist
from virtex.errors import UserError


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """A copy of iNaturalist to be spoiled."""
    shutil.copytree(toy_root / "inaturalist", tmp_path / "inaturalist")
    return tmp_path


def file_of(root: Path, split: str) -> Path:
    return root / "inaturalist/annotations" / f"{split}2018.json"


def change(root: Path, changes, splits=("val",)) -> None:
    for split in splits:
        content = json.loads(file_of(root, split).read_text())
        changes(content)
        file_of(root, split).write_text(json.dumps(content))


def test_every_image_has_the_category_of_its_annotation(toy_root):
    for data, split in zip(read_inaturalist(toy_root), ("train", "val"), strict=True):
        content = json.loads(file_of(toy_root, split).read_text())
        assert data.files == [image["file_name"] for image in content["images"]]
        assert data.labels.tolist() == [a["category_id"] for a in content["annotations"]]
        assert data.labels.dtype == np.int64
        assert data.class_names == [category["name"] for category in content["categories"]]
        assert data.path(0).is_file()


def test_splits_have_names(toy_root):
    train, val = read_inaturalist(toy_root)
    assert (train.name, val.name) == ("inaturalist_2018_train", "inaturalist_2018_val")
    assert (len(train), len(val)) == (100, 24)


def test_labels_count_the_categories_in_the_order_of_their_ids(spoiled):
    before = read_inaturalist(spoiled)[0]

    def renumber(content):
        for category in content["categories"]:
            category["id"] = 1000 - 3 * category["id"]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1000 - 3 * annotation["category_id"]

    change(spoiled, renumber, ("train", "val"))
    after = read_inaturalist(spoiled)[0]
    assert after.class_names == before.class_names[::-1]
    assert np.array_equal(after.labels, len(before.class_names) - 1 - before.labels)


def test_categories_without_an_image_count_as_classes(spoiled):
    before = read_inaturalist(spoiled)[0]
    change(spoiled, lambda c: c["categories"].append({"id": 9000}), ("train", "val"))
    train, val = read_inaturalist(spoiled)
    assert len(train.class_names) == len(val.class_names) == len(before.class_names) + 1
    assert train.class_names[-1] == "9000"


def test_annotations_may_stand_in_any_order(spoiled):
    before = read_inaturalist(spoiled)[1]
    change(spoiled, lambda content: content["annotations"].reverse())
    assert np.array_equal(read_inaturalist(spoiled)[1].labels, before.labels)


def test_an_image_annotated_twice_with_one_category_has_it(spoiled):
    before = read_inaturalist(spoiled)[1]
    change(spoiled, lambda c: c["annotations"].append({**c["annotations"][0], "id": 9000}))
    assert np.array_equal(read_inaturalist(spoiled)[1].labels, before.labels)


def test_an_image_with_two_categories_is_named(spoiled):
    def add(content):
        first = content["annotations"][0]
        content["annotations"].append(
            {**first, "id": 9000, "category_id": first["category_id"] + 1}
        )

    change(spoiled, add)
    with pytest.raises(UserError, match=r"val2018\.json: annotations\[24\] gives image 100 "):
        read_inaturalist(spoiled)


def test_images_without_an_annotation_are_counted_and_named(spoiled):
    def remove(content):
        del content["annotations"][:7]

    change(spoiled, remove)
    with pytest.raises(UserError, match=r"7 images have no annotation: train_val2018/.*, …"):
        read_inaturalist(spoiled)


@pytest.mark.parametrize(
    ("place", "field", "value", "said"),
    [
        ("annotations", "category_id", 9000, r"category_id 9000 is not in categories"),
        ("annotations", "image_id", -1, r"image_id -1 is not in images"),
        ("annotations", "category_id", "7", "category_id must be a whole number"),
        ("categories", "id", None, "id must be a whole number"),
        ("images", "file_name", "../7.jpg", r"file_name must be a path below the folder"),
        ("images", "file_name", "a/../../7.jpg", r"file_name must be a path below the folder"),
        ("images", "file_name", "/etc/7.jpg", r"file_name must be a path below the folder"),
        ("images", "file_name", "", r"file_name must be a path below the folder"),
    ],
)
def test_an_entry_that_cannot_be_is_named(spoiled, place, field, value, said):
    change(spoiled, lambda content: content[place][0].update({field: value}))
    with pytest.raises(UserError, match=rf"val2018\.json: {place}\[0\].*{said}"):
        read_inaturalist(spoiled)


def test_a_file_of_images_alone_is_refused(spoiled):
    change(spoiled, lambda content: content.pop("annotations"))
    with pytest.raises(UserError, match=r"annotations is not there, but iNaturalist 2018"):
        read_inaturalist(spoiled)


def test_a_missing_file_is_named(spoiled):
    file_of(spoiled, "train").unlink()
    with pytest.raises(UserError, match=r"train2018\.json is missing"):
        read_inaturalist(spoiled)


def test_files_with_different_categories_are_refused(spoiled):
    change(spoiled, lambda content: content["categories"].append({"id": 9000}))
    with pytest.raises(UserError, match=r"val2018\.json has other categories .*\(id 9000\)"):
        read_inaturalist(spoiled)


def test_a_split_without_an_image_is_refused(spoiled):
    change(spoiled, lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(UserError, match=r"val2018\.json lists no image"):
        read_inaturalist(spoiled)


def test_missing_images_are_counted_and_the_first_are_named(spoiled):
    for file in read_inaturalist(spoiled)[0].files[:6]:
        (spoiled / "inaturalist" / file).unlink()
    with pytest.raises(UserError, match=r"6 images of .*train2018\.json are missing: .*, …"):
        read_inaturalist(spoiled)
