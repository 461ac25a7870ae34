"""iNaturalist 2018: labels from JSON files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.errors import raises_code
from virtex.data.inaturalist import read_inaturalist


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """Return a copy of iNaturalist that a test may change."""
    shutil.copytree(toy_root / "inaturalist", tmp_path / "inaturalist")
    return tmp_path


def file_of(root: Path, split: str) -> Path:
    return root / "inaturalist/annotations" / f"{split}2018.json"


def change(root: Path, changes, splits=("val",)) -> None:
    for split in splits:
        content = json.loads(file_of(root, split).read_text())
        changes(content)
        file_of(root, split).write_text(json.dumps(content))


def test_labels(toy_root):
    for data, split in zip(read_inaturalist(toy_root), ("train", "val"), strict=True):
        content = json.loads(file_of(toy_root, split).read_text())
        assert data.files == [image["file_name"] for image in content["images"]]
        assert data.labels.tolist() == [a["category_id"] for a in content["annotations"]]
        assert data.labels.dtype == np.int64
        assert data.class_names == [category["name"] for category in content["categories"]]
        assert data.path(0).is_file()
        assert data.name == f"inaturalist_2018_{split}"


def test_labels_follow_category_ids(spoiled):
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


def test_classes_may_have_no_image(spoiled):
    before = read_inaturalist(spoiled)[0]
    change(spoiled, lambda c: c["categories"].append({"id": 9000}), ("train", "val"))
    train, val = read_inaturalist(spoiled)
    assert len(train.class_names) == len(val.class_names) == len(before.class_names) + 1
    assert train.class_names[-1] == "9000"


def test_annotations_in_any_order_and_repeated(spoiled):
    before = read_inaturalist(spoiled)[1]
    change(spoiled, lambda c: c["annotations"].append({**c["annotations"][0], "id": 9000}))
    change(spoiled, lambda content: content["annotations"].reverse())
    assert np.array_equal(read_inaturalist(spoiled)[1].labels, before.labels)


def test_image_with_two_categories(spoiled):
    def add(content):
        first = content["annotations"][0]
        content["annotations"].append(
            {**first, "id": 9000, "category_id": first["category_id"] + 1}
        )

    change(spoiled, add)
    with raises_code("data.annotations", "val2018.json: annotations[24]: image 100 "):
        read_inaturalist(spoiled)


def test_image_without_category(spoiled):
    def remove(content):
        del content["annotations"][:7]

    change(spoiled, remove)
    with raises_code("data.annotations", "val2018.json: 7 images", "train_val2018/"):
        read_inaturalist(spoiled)


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        ("annotations", "category_id", 9000),
        ("annotations", "image_id", -1),
        ("annotations", "category_id", "7"),
        ("categories", "id", None),
        ("images", "file_name", "../7.jpg"),
        ("images", "file_name", "a/../../7.jpg"),
        ("images", "file_name", "/etc/7.jpg"),
        ("images", "file_name", ""),
    ],
)
def test_invalid_field(spoiled, place, field, value):
    change(spoiled, lambda content: content[place][0].update({field: value}))
    with raises_code("data.annotations", f"val2018.json: {place}[0]", f"{field}: "):
        read_inaturalist(spoiled)


def test_file_without_annotations(spoiled):
    change(spoiled, lambda content: content.pop("annotations"))
    with raises_code("data.annotations", "val2018.json: annotations: "):
        read_inaturalist(spoiled)


def test_missing_file(spoiled):
    file_of(spoiled, "train").unlink()
    with raises_code("data.missing", "train2018.json"):
        read_inaturalist(spoiled)


def test_different_categories(spoiled):
    change(spoiled, lambda content: content["categories"].append({"id": 9000}))
    with raises_code("data.annotations", "val2018.json", "train2018.json", "9000"):
        read_inaturalist(spoiled)


def test_split_without_images(spoiled):
    change(spoiled, lambda content: content.update(images=[], annotations=[]))
    with raises_code("data.empty", "val2018.json"):
        read_inaturalist(spoiled)


def test_missing_images(spoiled):
    for file in read_inaturalist(spoiled)[0].files[:6]:
        (spoiled / "inaturalist" / file).unlink()
    with raises_code("data.missing_images", "6 images", "train2018.json"):
        read_inaturalist(spoiled)
