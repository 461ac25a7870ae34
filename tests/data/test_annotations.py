"""Invalid annotation files are rejected; the error names file, item and field."""

import copy
from pathlib import Path

import pytest

from tests.errors import raises_code
from virtex.data.annotations import check_coco_json, check_lvis_json, read_json

COCO = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "height": 10, "width": 20},
        {"id": 8, "file_name": "8.jpg", "height": 10, "width": 20},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 3,
            "bbox": [1, 2.5, 3, 4],
            "area": 6.5,
            "iscrowd": 0,
            "segmentation": [[1, 2, 3, 4, 5, 6]],
        },
        {"id": 2, "image_id": 8, "category_id": 3, "bbox": [1, 2, 0, 4], "area": 0, "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "star"}],
}
LVIS = {
    "images": [
        {
            "id": 7,
            "height": 10,
            "width": 20,
            "coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg",
            "neg_category_ids": [3],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9}],
    "categories": [{"id": 3, "name": "star", "frequency": "r"}],
}
CHECKS = {"COCO": (COCO, check_coco_json), "LVIS": (LVIS, check_lvis_json)}
REMOVED = object()
FIELDS = [
    (name, key, field)
    for name, (content, _) in CHECKS.items()
    for key in content
    for field in content[key][0]
    if field != "segmentation"
]


def changed(content: dict, key: str, index: int, field: str, value: object) -> dict:
    content = copy.deepcopy(content)
    if value is REMOVED:
        del content[key][index][field]
    else:
        content[key][index][field] = value
    return content


# Files ----


def test_valid_json(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", "COCO instances") == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"", "line 1"),
        (b"version https://git-lfs.github.com/spec/v1\n", "line 1"),
        (b'{"images": [', "line 1"),
        (b"\x1f\x8b\x08\x00\xff", "byte 1"),
        (b"[" * 200_000, "nested"),
        (b"9" * 5000, "digits"),
    ],
)
def test_invalid_json(tmp_path, content, place):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with raises_code("data.annotations", path, place, "COCO instances"):
        read_json(path, "COCO instances")


def test_missing_or_unreadable_file(tmp_path):
    with raises_code("data.missing", tmp_path / "a.json", "make_toy_data"):
        read_json(tmp_path / "a.json", "COCO instances")
    with raises_code("data.unreadable", tmp_path):
        read_json(tmp_path, "COCO instances")


# Contents ----


def test_valid_contents():
    check_coco_json({**COCO, "info": {}, "licenses": []}, "a.json")
    check_lvis_json(LVIS, "a.json")


@pytest.mark.parametrize("top", [[], None, "text", 3])
def test_top_level_is_an_object(top):
    with raises_code("data.annotations", "a.json", "expected an object"):
        check_coco_json(top, "a.json")


@pytest.mark.parametrize("key", COCO)
def test_lists_of_objects(key):
    for value in ({}, None):
        with raises_code("data.annotations", "a.json", f"{key}: expected a list"):
            check_coco_json({**COCO, key: value}, "a.json")
    with raises_code("data.annotations", f"{key}[0]", "expected an object, found 5"):
        check_coco_json({**COCO, key: [5]}, "a.json")


@pytest.mark.parametrize(("name", "key", "field"), FIELDS)
def test_missing_field(name, key, field):
    content, check = CHECKS[name]
    item = "" if field == "id" else f" (id {content[key][0]['id']})"
    with raises_code("data.annotations", "a.json", f"{key}[0]{item}: {field}: "):
        check(changed(content, key, 0, field, REMOVED), "a.json")


@pytest.mark.parametrize(
    ("name", "key", "field", "values"),
    [
        ("COCO", "images", "id", ["7", True, [7], -1, 2**63]),
        ("COCO", "images", "file_name", ["", 7, "../7.jpg", "/7.jpg", "a\0"]),
        ("COCO", "images", "height", [0, 10**6]),
        ("COCO", "images", "width", [20.5]),
        ("COCO", "annotations", "image_id", [None]),
        ("COCO", "annotations", "category_id", [3.0]),
        ("COCO", "annotations", "area", [None, 1e300]),
        ("COCO", "annotations", "iscrowd", [2, []]),
        ("COCO", "annotations", "bbox", [
            [1, 2, 3], None, [1, 2, 3, "4"], [1, 2, -3, 4], [1, 2, 3, float("nan")],
            [1, float("inf"), 3, 4], [0, 0, 1e9, 1],
        ]),
        ("COCO", "annotations", "segmentation", [
            [1, 2, 3, 4, 5, 6], {"size": [10, 20]}, "text", [[1, 2, 3, 4, 5, 1e9]],
            {"size": [10, 20], "counts": [0, 201]}, {"size": [20, 10], "counts": [200]},
        ]),
        ("COCO", "categories", "name", [None, "", "a\n", "\ud800"]),
        ("LVIS", "images", "coco_url", ["7.jpg", "http://host/train2017/", "http://h/../7.jpg"]),
        ("LVIS", "images", "neg_category_ids", [3, [99]]),
        ("LVIS", "images", "not_exhaustive_category_ids", [["3"], [99]]),
        ("LVIS", "categories", "frequency", ["x", ["r"]]),
        ("LVIS", "annotations", "bbox", [[1, 2]]),
    ],
)  # fmt: skip
def test_invalid_field(name, key, field, values):
    content, check = CHECKS[name]
    for value in values:
        with raises_code("data.annotations", f"a.json: {key}[0]", f"{field}: ") as caught:
            check(changed(content, key, 0, field, value), "a.json")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("key", "number"), [("images", 7), ("annotations", 1)])
def test_duplicate_id(key, number):
    with raises_code("data.annotations", f"{key}[1] (id {number})", "used twice"):
        check_coco_json(changed(COCO, key, 1, "id", number), "a.json")


@pytest.mark.parametrize(("field", "key"), [("image_id", "images"), ("category_id", "categories")])
def test_dangling_reference(field, key):
    with raises_code("data.annotations", f"annotations[1] (id 2): {field}: 99 is not in {key}"):
        check_coco_json(changed(COCO, "annotations", 1, field, 99), "a.json")


def test_first_invalid_item_is_named_and_long_values_are_cut():
    content = changed(COCO, "annotations", 0, "bbox", list(range(10_000)))
    content = changed(content, "annotations", 1, "bbox", None)
    with raises_code("data.annotations", "annotations[0]") as caught:
        check_coco_json(content, "a.json")
    assert len(str(caught.value)) < 300
