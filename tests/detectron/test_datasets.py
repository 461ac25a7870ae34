"""Datasets in Detectron2's format, read from a data root."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_voc_instances
from PIL import ExifTags, Image

from tests.errors import raises_code
from virtex.data.detection_sets import DETECTION_SETS
from virtex.data.voc import VOC_CLASSES
from virtex.detectron.custom_data import loaded_set
from virtex.detectron.datasets import check_images, read_data, register_detection_sets
from virtex.detectron.readers import read_instances, read_voc_image, read_voc_split
from virtex.detectron.settings import load_config
from virtex.errors import UserError
from virtex.tasks import packaged_protocol


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
        read_instances(path, tmp_path, "coco", scored=True)


def test_objects_with_empty_segmentation_are_kept(toy, tmp_path):
    """Tools for boxes write ``"segmentation": []``."""
    content = json.loads((toy / DETECTION_SETS["coco_2017_val"].annotations).read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    ours = read_instances(path, tmp_path, "coco", scored=False).samples
    theirs = load_coco_json(str(path), str(tmp_path))
    assert sum(len(s["annotations"]) for s in ours) == len(content["annotations"])
    assert [len(s["annotations"]) for s in ours] == [len(s["annotations"]) for s in theirs]


OBJECT = """<object><name>cat</name><difficult>1</difficult><bndbox>
<xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"""
VOC_XML = f"""<annotation><size><width>64</width><height>48</height></size>
{OBJECT}</annotation>"""


def write_voc(folder, text, listed="000001\n"):
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Main/test.txt").write_text(listed)
    if text is not None:
        (folder / "Annotations/000001.xml").write_text(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "data.missing"),
        ("<annotation>", "data.annotation"),
        ("<annotation/>", "data.annotation"),
    ],
)
def test_broken_voc_annotation_is_named(tmp_path, text, code):
    write_voc(tmp_path, text)
    with raises_code(code, "000001.xml"):
        read_voc_image(tmp_path, "000001", VOC_CLASSES, {})


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("<width>64</width>", "", "size/width"),
        ("<height>48</height>", "<height>tall</height>", "size/height"),
        ("<name>cat</name>", "", "name"),
        ("<xmin>3</xmin>", "", "bndbox/xmin"),
        ("<ymax>40</ymax>", "<ymax/>", "bndbox/ymax"),
        ("<difficult>1</difficult>", "<difficult>very</difficult>", "difficult"),
        ("bndbox>", "box>", "bndbox/xmin"),
    ],
)
def test_voc_errors_name_the_field(tmp_path, old, new, field):
    assert old in VOC_XML
    write_voc(tmp_path, VOC_XML.replace(old, new))
    with raises_code("data.annotation", "000001.xml", field):
        read_voc_split(tmp_path, "test", VOC_CLASSES)


def test_missing_difficult_is_logged(tmp_path, caplog):
    write_voc(tmp_path, VOC_XML.replace("<difficult>1</difficult>", ""))
    with caplog.at_level(logging.WARNING, "virtex"):
        loaded = read_voc_split(tmp_path, "test", VOC_CLASSES)
    assert loaded.ground_truth["000001"][0]["difficult"] == 0
    assert "difficult" in caplog.text and "1 objects" in caplog.text


def test_blank_lines_in_a_voc_list(tmp_path):
    write_voc(tmp_path, VOC_XML, listed="000001\n\n")
    loaded = read_voc_split(tmp_path, "test", VOC_CLASSES)
    assert [sample["image_id"] for sample in loaded.samples] == ["000001"]


def test_difficult_is_part_of_the_hash(tmp_path):
    hashes = set()
    for text in (VOC_XML, VOC_XML.replace("<difficult>1", "<difficult>0")):
        write_voc(tmp_path, text)
        hashes.add(read_voc_split(tmp_path, "test", VOC_CLASSES).annotations_sha256)
    assert len(hashes) == 2


def copy_of(toy, tmp_path):
    return Path(shutil.copytree(toy / "coco", tmp_path / "data" / "coco")).parent


def spoil(path, how):
    """Change an image in a way that only loading it shows."""
    image = Image.open(path)
    if how == "turned":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        image.save(path, exif=exif)
    elif how == "smaller":
        image.crop((0, 0, image.width - 1, image.height)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize(
    ("split", "how", "code"),
    [
        ("train2017", "turned", "data.image_size"),
        ("train2017", "smaller", "data.image_size"),
        ("val2017", "turned", "data.image_size"),
        ("val2017", "smaller", "data.image_size"),
        ("val2017", "truncated", "data.image"),
    ],
)
def test_images_are_checked_before_training(toy, tmp_path, split, how, code):
    root = copy_of(toy, tmp_path)
    images = [Image.open(path) for path in sorted((root / "coco" / split).iterdir())]
    path = next(Path(image.filename) for image in images if image.width != image.height)
    spoil(path, how)
    cfg = load_config(packaged_protocol("coco", "toy"))
    cfg.DATALOADER.NUM_WORKERS = 0
    train, test = read_data(cfg, root, eval_only=False)
    with raises_code(code, path):
        check_images(cfg, train, test)
    if split == "train2017":
        check_images(cfg, train, test, skip_bad_images=True)


def test_hash_follows_annotations_and_files(toy, tmp_path):
    name = "coco_2017_val"

    def describe(root):
        register_detection_sets(root)
        return loaded_set(name).describe()

    root = copy_of(toy, tmp_path)
    first = describe(toy)
    assert describe(root) == first
    path = min((root / "coco/val2017").iterdir())
    path.write_bytes(path.read_bytes() + b"0")
    second = describe(root)
    assert second["files_sha256"] != first["files_sha256"]
    annotations = root / DETECTION_SETS[name].annotations
    content = json.loads(annotations.read_text())
    content["annotations"] = content["annotations"][1:]
    annotations.write_text(json.dumps(content))
    third = describe(root)
    assert third["images"] == first["images"]
    assert third["annotations_sha256"] != first["annotations_sha256"]
