"""Datasets in Detectron2's format, read from a data root."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_voc_instances

from tests.errors import raises_code
from virtex.detectron.datasets import (
    DETECTION_SETS,
    VOC_CLASSES,
    describe,
    load_json,
    register_detection_sets,
    voc_sample,
)
from virtex.errors import UserError


def test_coco_agrees_with_detectron2(toy):
    register_detection_sets(toy)
    ours = DatasetCatalog.get("coco_2017_train")
    theirs = load_coco_json(
        str(toy / "coco/annotations/instances_train2017.json"),
        str(toy / "coco/train2017"),
        "reference_coco",
    )
    assert [s["image_id"] for s in ours] == [s["image_id"] for s in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert {k: mine[k] for k in ("file_name", "height", "width")} == {
            k: other[k] for k in ("file_name", "height", "width")
        }
        assert [(a["bbox"], a["category_id"], a["iscrowd"]) for a in mine["annotations"]] == [
            (a["bbox"], a["category_id"], a["iscrowd"]) for a in other["annotations"]
        ]
    assert (
        MetadataCatalog.get("coco_2017_train").thing_classes
        == MetadataCatalog.get("reference_coco").thing_classes
    )


@pytest.mark.parametrize(("year", "split"), [("2007", "trainval"), ("2007", "test")])
def test_voc_agrees_with_detectron2(toy, year, split):
    register_detection_sets(toy)
    ours = DatasetCatalog.get(f"voc_{year}_{split}")
    theirs = load_voc_instances(str(toy / f"VOC{year}"), split, VOC_CLASSES)
    assert ours == theirs


def test_lvis_uses_coco_images(toy):
    register_detection_sets(toy)
    samples = DatasetCatalog.get("lvis_v1_val")
    assert all(s["file_name"].startswith(str(toy / "coco/val2017")) for s in samples)
    classes = MetadataCatalog.get("lvis_v1_val").thing_classes
    used = {a["category_id"] for s in samples for a in s["annotations"]}
    assert used <= set(range(len(classes)))


def test_data_root_is_replaced(toy, tmp_path):
    register_detection_sets(tmp_path)
    register_detection_sets(toy)
    assert DatasetCatalog.get("coco_2017_val")


def test_broken_json_is_named(tmp_path):
    path = tmp_path / "coco/annotations/instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"images": [')
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        load_json(DETECTION_SETS["coco_2017_val"], tmp_path)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "data.missing"),
        ("<annotation>", "data.annotation"),
        ("<annotation/>", "data.annotation"),
    ],
)
def test_broken_voc_annotation_is_named(tmp_path, text, code):
    (tmp_path / "Annotations").mkdir()
    if text is not None:
        (tmp_path / "Annotations/000001.xml").write_text(text)
    with raises_code(code, "000001.xml"):
        voc_sample(tmp_path, "000001")


def test_hash_follows_the_annotations(toy, tmp_path):
    name = "coco_2017_val"
    source = toy / DETECTION_SETS[name].annotations
    target = tmp_path / DETECTION_SETS[name].annotations
    target.parent.mkdir(parents=True)
    content = json.loads(source.read_text())
    content["annotations"] = content["annotations"][1:]
    target.write_text(json.dumps(content))
    described = []
    for root in (toy, tmp_path):
        register_detection_sets(root)
        described.append(describe(name, root, DatasetCatalog.get(name)))
    first, second = described
    assert first["images"] == second["images"]
    assert first["annotations_sha256"] != second["annotations_sha256"]
