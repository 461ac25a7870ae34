"""Broken annotation files are named: file, place, what was expected, what was found."""

import copy
import json
import time
from pathlib import Path

import pytest

from virtex.data.annotations import check_coco_json, check_lvis_json, read_json
from virtex.errors import UserError

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
REMOVED = object()


def changed(content: dict, key: str, index: int, field: str, value: object) -> dict:
    content = copy.deepcopy(content)
    if value is REMOVED:
        del content[key][index][field]
    else:
        content[key][index][field] = value
    return content


def test_json_that_is_right_is_returned(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", "COCO instances") == {"a": [1]}


def test_broken_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(UserError, match=r"a\.json .*line 2, column 7.*COCO instances.*again"):
        read_json(tmp_path / "a.json", "COCO instances")


@pytest.mark.parametrize(
    "text", ["", "version https://git-lfs.github.com/spec/v1\n", '{"images": [']
)
def test_a_file_that_never_arrived_whole_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json", "COCO instances")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segmentation", [1, 2, 3, 4, 5, 6]),
        ("segmentation", {"size": [10, 20]}),
        ("segmentation", "text"),
        ("area", None),
        ("area", REMOVED),
        ("iscrowd", REMOVED),
        ("iscrowd", 2),
    ],
)
def test_an_object_that_no_scorer_could_take_is_named(field, value):
    content = changed(COCO, "annotations", 0, field, value)
    with pytest.raises(UserError, match=rf"annotations\[0\] \(id 1\).*{field}"):
        check_coco_json(content, "a.json")


def test_a_packed_file_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\x1f\x8b\x08\x00\xff")
    with pytest.raises(UserError, match=r"a\.json is not text.*unpack"):
        read_json(tmp_path / "a.json", "COCO instances")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.json is missing; it should be COCO instances"):
        read_json(tmp_path / "a.json", "COCO instances")


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path, "COCO instances")


def test_json_nested_without_end_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(tmp_path / "a.json", "COCO instances")


def test_right_coco_instances_pass():
    check_coco_json(COCO, "a.json")


def test_right_lvis_annotations_pass():
    check_lvis_json(LVIS, "a.json")


def test_captions_and_other_keys_do_no_harm():
    check_coco_json({**COCO, "info": {}, "licenses": []}, "a.json")


@pytest.mark.parametrize("top", [[], None, "text", 3])
def test_something_else_than_an_object_is_refused(top):
    with pytest.raises(UserError, match=r"^a\.json holds .* object with the lists"):
        check_coco_json(top, "a.json")


@pytest.mark.parametrize("key", COCO)
def test_a_missing_list_is_named(key):
    content = {name: items for name, items in COCO.items() if name != key}
    with pytest.raises(UserError, match=f"{key} is not there"):
        check_coco_json(content, "a.json")


@pytest.mark.parametrize("key", COCO)
def test_a_list_that_is_none_is_named(key):
    with pytest.raises(UserError, match=f"{key} holds {{}}"):
        check_coco_json({**COCO, key: {}}, "a.json")


@pytest.mark.parametrize("key", COCO)
def test_an_item_that_is_no_object_is_named(key):
    with pytest.raises(UserError, match=rf"{key}\[0\] must be an object, not 5"):
        check_coco_json({**COCO, key: [5]}, "a.json")


@pytest.mark.parametrize(
    ("key", "field"),
    [(key, field) for key in COCO for field in COCO[key][0] if field != "segmentation"],
)
def test_a_missing_field_is_named_with_its_item(key, field):
    place = rf"{key}\[0\]" if field == "id" else rf"{key}\[0\] \(id {COCO[key][0]['id']}\)"
    with pytest.raises(UserError, match=rf"^a\.json: {place} has no {field}$"):
        check_coco_json(changed(COCO, key, 0, field, REMOVED), "a.json")


@pytest.mark.parametrize(
    ("key", "field", "value", "said"),
    [
        ("images", "id", "7", "a whole number"),
        ("images", "id", True, "a whole number"),
        ("images", "id", [7], "a whole number"),
        ("images", "file_name", "", "a file name"),
        ("images", "file_name", 7, "a file name"),
        ("images", "height", 0, "pixels above 0"),
        ("images", "width", 20.5, "pixels above 0"),
        ("annotations", "image_id", None, "a whole number"),
        ("annotations", "category_id", 3.0, "a whole number"),
        ("annotations", "bbox", [1, 2, 3], "4 finite numbers"),
        ("annotations", "bbox", None, "4 finite numbers"),
        ("annotations", "bbox", [1, 2, 3, "4"], "4 finite numbers"),
        ("annotations", "bbox", [1, 2, -3, 4], "4 finite numbers"),
        ("annotations", "bbox", [1, 2, 3, float("nan")], "4 finite numbers"),
        ("annotations", "bbox", [1, float("inf"), 3, 4], "4 finite numbers"),
        ("categories", "id", None, "a whole number"),
        ("categories", "name", None, "a name"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(key, field, value, said):
    with pytest.raises(UserError, match=rf"{key}\[0\].*: {field} must be .*{said}.*, not "):
        check_coco_json(changed(COCO, key, 0, field, value), "a.json")


@pytest.mark.parametrize(("key", "number"), [("images", 7), ("annotations", 1)])
def test_an_id_used_twice_is_named(key, number):
    with pytest.raises(
        UserError, match=rf"{key}\[1\] \(id {number}\) has an id that is used twice"
    ):
        check_coco_json(changed(COCO, key, 1, "id", number), "a.json")


@pytest.mark.parametrize(("field", "key"), [("image_id", "images"), ("category_id", "categories")])
def test_an_annotation_of_what_does_not_exist_is_named(field, key):
    with pytest.raises(UserError, match=rf"annotations\[1\] \(id 2\): {field} 99 is not in {key}"):
        check_coco_json(changed(COCO, "annotations", 1, field, 99), "a.json")


def test_the_first_offence_is_the_one_named():
    content = changed(COCO, "annotations", 0, "bbox", None)
    content = changed(content, "annotations", 1, "bbox", None)
    with pytest.raises(UserError, match=r"annotations\[0\]"):
        check_coco_json(content, "a.json")


def test_a_long_value_is_cut_short():
    with pytest.raises(UserError) as raised:
        check_coco_json(changed(COCO, "annotations", 0, "bbox", list(range(10_000))), "a.json")
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("key", "field"),
    [(key, field) for key in LVIS for field in LVIS[key][0]],
)
def test_a_missing_field_of_lvis_is_named(key, field):
    with pytest.raises(UserError, match=rf"{key}\[0\].* has no {field}"):
        check_lvis_json(changed(LVIS, key, 0, field, REMOVED), "a.json")


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("images", "coco_url", "7.jpg"),
        ("images", "coco_url", "http://host/train2017/"),
        ("images", "neg_category_ids", 3),
        ("images", "not_exhaustive_category_ids", ["3"]),
        ("categories", "frequency", "x"),
        ("categories", "frequency", ["r"]),
        ("annotations", "bbox", [1, 2]),
    ],
)
def test_a_field_of_lvis_of_the_wrong_kind_is_named(key, field, value):
    with pytest.raises(UserError, match=rf"{key}\[0\].*: {field} must be "):
        check_lvis_json(changed(LVIS, key, 0, field, value), "a.json")


@pytest.mark.parametrize("field", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_an_lvis_image_that_names_an_unknown_category_is_named(field):
    with pytest.raises(UserError, match=rf"images\[0\] \(id 7\): {field} names category 99"):
        check_lvis_json(changed(LVIS, "images", 0, field, [99]), "a.json")


def test_coco_instances_are_not_taken_for_lvis():
    with pytest.raises(UserError, match="has no frequency"):
        check_lvis_json(COCO, "a.json")


def test_a_file_as_large_as_coco_is_checked_in_seconds():
    number = 200_000  # of COCO train2017's 860 001
    box = {"image_id": 7, "category_id": 3, "bbox": [1.5, 2.5, 3.5, 4.5], "area": 9, "iscrowd": 0}
    content = {**COCO, "annotations": [{"id": index, **box} for index in range(number)]}
    begun = time.perf_counter()
    check_coco_json(content, "a.json")
    assert time.perf_counter() - begun < 4  # 0.4 s on an idle machine


def test_a_check_of_read_json_s_content_names_the_file_given(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"images": []}))
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=str(path)):
        check_coco_json(read_json(path, "COCO instances"), path)
