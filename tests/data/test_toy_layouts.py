"""Toy data have the layouts of the real datasets and agree with themselves."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.data.conftest import TRAIN, VAL
from tests.data.test_data_layouts import TOY_LAYOUTS
from virtex.data.annotations import (
    COCO_KEYPOINTS,
    check_coco_json,
    check_inaturalist_json,
    check_keypoints,
    check_lvis_json,
)
from virtex.data.layouts import missing_paths
from virtex.data.toy.classification import long_tail
from virtex.data.toy.voc import VOC_KINDS

SPLITS = pytest.mark.parametrize("split", ["train", "val"])
SUBSETS = pytest.mark.parametrize(
    ("year", "subset", "count"),
    [
        ("VOC2007", "trainval", TRAIN // 2),
        ("VOC2007", "test", VAL),
        ("VOC2012", "trainval", TRAIN // 2),
    ],
)
# The devkit's list, VOCinit.m.
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip

# https://cocodataset.org/#format-data
KEYPOINT_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)


def read(root: Path, name: str) -> dict:
    return json.loads((root / name).read_text())


@pytest.mark.parametrize("layout", TOY_LAYOUTS.values(), ids=TOY_LAYOUTS)
def test_toy_data_are_complete(toy_root, layout):
    assert missing_paths(toy_root, layout) == []


def test_no_two_images_are_equal(toy_root):
    images = [path for path in toy_root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    assert len({path.read_bytes() for path in images}) == len(images)


# COCO and LVIS ----


@SPLITS
def test_coco_lists_its_images(toy_root, split):
    content = read(toy_root, f"coco/annotations/instances_{split}2017.json")
    check_coco_json(content, "instances")
    folder = toy_root / f"coco/{split}2017"
    persons = read(toy_root, f"coco/annotations/person_keypoints_{split}2017.json")
    listed = {image["file_name"] for one in (content, persons) for image in one["images"]}
    assert {path.name for path in folder.iterdir()} == listed
    for image in content["images"]:
        with Image.open(folder / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


@SPLITS
def test_coco_masks_agree_with_areas_and_boxes(toy_root, split):
    coco = COCO(toy_root / f"coco/annotations/instances_{split}2017.json")
    for annotation in coco.dataset["annotations"]:
        assert coco.annToMask(annotation).sum() == annotation["area"] > 0
        x, y, width, height = coco_mask.toBbox(coco.annToRLE(annotation))
        left, top, wide, high = annotation["bbox"]
        box = np.array([left, top, left + wide, top + high])
        # a thin tip may be lost
        assert np.abs(box - [x, y, x + width, y + height]).max() <= 1.5
        image = coco.imgs[annotation["image_id"]]
        assert (box >= 0).all() and (box <= 2 * [image["width"], image["height"]]).all()
    for image_id in coco.imgs:
        masks = [coco.annToMask(one) for one in coco.loadAnns(coco.getAnnIds(image_id))]
        assert (sum(masks) > 1).sum() <= 12 * len(masks)


def test_coco_categories_have_gaps_and_all_occur(toy_root):
    content = read(toy_root, "coco/annotations/instances_train2017.json")
    ids = sorted(category["id"] for category in content["categories"])
    assert len(ids) == 10 and ids != list(range(ids[0], ids[0] + 10))
    assert {one["category_id"] for one in content["annotations"]} == set(ids)
    crowds = [one for one in content["annotations"] if one["iscrowd"]]
    assert crowds and all(set(one["segmentation"]) == {"counts", "size"} for one in crowds)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_coco_splits_share_no_id(toy_root, key):
    train, val = (
        {item["id"] for item in read(toy_root, f"coco/annotations/instances_{s}2017.json")[key]}
        for s in ("train", "val")
    )
    assert not train & val


@SPLITS
def test_persons_have_keypoints_as_in_coco(toy_root, split):
    coco = COCO(toy_root / f"coco/annotations/person_keypoints_{split}2017.json")
    check_coco_json(coco.dataset, "persons")
    check_keypoints(coco.dataset, "persons", COCO_KEYPOINTS)
    (category,) = coco.dataset["categories"]
    assert tuple(category["keypoints"]) == KEYPOINT_NAMES
    assert {n for pair in category["skeleton"] for n in pair} == set(range(1, COCO_KEYPOINTS + 1))
    seen = Counter()
    for annotation in coco.dataset["annotations"]:
        image, mask = coco.imgs[annotation["image_id"]], coco.annToMask(annotation)
        assert mask.sum() == annotation["area"] > 0
        points = np.reshape(annotation["keypoints"], (-1, 3))
        labeled = points[points[:, 2] > 0]
        assert len(labeled) == annotation["num_keypoints"]
        assert not points[points[:, 2] == 0].any()
        assert (labeled[:, :2] < [image["width"], image["height"]]).all() and (labeled >= 0).all()
        seen.update(points[:, 2].tolist())
        seen["crowds"] += annotation["iscrowd"]
        seen["persons without"] += not annotation["iscrowd"] and len(labeled) == 0
        x, y = labeled[labeled[:, 2] == 2][:, :2].T
        near = cv2.dilate(mask, np.ones((5, 5), np.uint8))  # joints are inside of the silhouette
        seen["visible"] += near[y, x].sum()
        assert not annotation["iscrowd"] or not len(labeled)
    assert seen["visible"] > 0.98 * seen[2]
    if split == "train":
        assert min(seen[0], seen[1], seen["crowds"], seen["persons without"]) > 0
    if split == "val":
        assert {image["id"] for image in coco.dataset["images"]} > set(coco.imgToAnns)


@SPLITS
def test_coco_has_five_captions_per_image(toy_root, split):
    content = read(toy_root, f"coco/annotations/captions_{split}2017.json")
    texts = defaultdict(set)
    for annotation in content["annotations"]:
        texts[annotation["image_id"]].add(annotation["caption"])
    assert set(texts) == {image["id"] for image in content["images"]}
    assert {len(several) for several in texts.values()} == {5}


@SPLITS
def test_lvis_agrees_with_coco(toy_root, split):
    lvis = COCO(toy_root / f"lvis/lvis_v1_{split}.json")
    check_lvis_json(lvis.dataset, "lvis")
    for annotation in lvis.dataset["annotations"]:
        assert lvis.annToMask(annotation).sum() == annotation["area"]
    present = {(one["image_id"], one["category_id"]) for one in lvis.dataset["annotations"]}
    for image in lvis.dataset["images"]:
        assert Path(toy_root, "coco", *image["coco_url"].split("/")[-2:]).is_file()
        assert image["neg_category_ids"]
        assert not any((image["id"], number) in present for number in image["neg_category_ids"])
        assert all((image["id"], n) in present for n in image["not_exhaustive_category_ids"])


def test_lvis_categories(toy_root):
    content = read(toy_root, "lvis/lvis_v1_train.json")
    categories = content["categories"]
    assert read(toy_root, "lvis/lvis_v1_val.json")["categories"] == categories
    assert [category["id"] for category in categories] == list(range(1, len(categories) + 1))
    assert any(image["not_exhaustive_category_ids"] for image in content["images"])
    images, instances, counts = defaultdict(set), Counter(), defaultdict(list)
    for one in content["annotations"]:
        images[one["category_id"]].add(one["image_id"])
        instances[one["category_id"]] += 1
    for category in categories:
        assert category["image_count"] == len(images[category["id"]]) > 0
        assert category["instance_count"] == instances[category["id"]]
        counts[category["frequency"]].append(category["image_count"])
    assert max(counts["r"]) < min(counts["c"]) <= max(counts["c"]) < min(counts["f"])


# VOC ----


def stems(root: Path, year: str, subset: str) -> list[str]:
    return (root / year / f"ImageSets/Main/{subset}.txt").read_text().split()


@SUBSETS
def test_voc_annotations(toy_root, year, subset, count):
    listed = stems(toy_root, year, subset)
    assert len(listed) == count
    fields = {"name", "pose", "truncated", "difficult", "bndbox"}
    for stem in listed:
        tree = ElementTree.parse(toy_root / year / f"Annotations/{stem}.xml").getroot()
        assert tree.findtext("filename") == f"{stem}.jpg"
        with Image.open(toy_root / year / f"JPEGImages/{stem}.jpg") as image:
            width, height = image.size
        sizes = [int(tree.findtext(f"size/{side}")) for side in ("width", "height")]
        assert sizes == [width, height]
        assert tree.findall("object")
        for one in tree.findall("object"):
            assert {child.tag for child in one} == fields
            box = {child.tag: int(child.text) for child in one.find("bndbox")}
            assert 1 <= box["xmin"] < box["xmax"] <= width
            assert 1 <= box["ymin"] < box["ymax"] <= height


@SUBSETS
def test_voc_labels_agree_with_annotations(toy_root, year, subset, count):
    folder, listed = toy_root / year / "ImageSets/Main", stems(toy_root, year, subset)
    found = {path.stem.removesuffix(f"_{subset}") for path in folder.glob(f"*_{subset}.txt")}
    assert found == set(VOC_CLASSES)
    difficult = {}
    for stem in listed:
        objects = ElementTree.parse(toy_root / year / f"Annotations/{stem}.xml").findall("object")
        difficult[stem] = [(o.findtext("name"), o.findtext("difficult") == "1") for o in objects]
    values = set()
    for label in VOC_CLASSES:
        lines = (folder / f"{label}_{subset}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == listed
        flags = [int(line.split()[1]) for line in lines]
        assert 1 in flags
        values |= set(flags)
        for stem, flag in zip(listed, flags, strict=True):
            hard = [is_hard for name, is_hard in difficult[stem] if name == label]
            assert flag == (-1 if not hard else 0 if all(hard) else 1)
    assert values >= {-1, 1} and (subset == "test" or 0 in values)


def test_voc_splits(toy_root):
    for year in ("VOC2007", "VOC2012"):
        train, val = (set(stems(toy_root, year, subset)) for subset in ("train", "val"))
        assert not train & val
        assert sorted(train | val) == stems(toy_root, year, "trainval")
    test, trainval = (stems(toy_root, "VOC2007", subset) for subset in ("test", "trainval"))
    assert not set(trainval) & set(test)
    assert (trainval[0], stems(toy_root, "VOC2012", "trainval")[0]) == ("000001", "2012_000001")
    assert list(VOC_KINDS) == VOC_CLASSES and len(set(VOC_KINDS.values())) == 20


# ImageNet and iNaturalist ----


def test_imagenet(toy_root):
    classes = []
    for split, count in (("train", TRAIN), ("val", VAL)):
        folders = sorted((toy_root / "imagenet" / split).iterdir())
        sizes = [len(list(folder.iterdir())) for folder in folders]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1
        classes.append([folder.name for folder in folders])
    assert classes[0] == classes[1] and len(classes[0]) == 20
    with Image.open(next((toy_root / "imagenet").rglob("*.JPEG"))) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL)])
def test_inaturalist(toy_root, split, count):
    content = read(toy_root, f"inaturalist/annotations/{split}2018.json")
    check_inaturalist_json(content, "inaturalist")
    assert len(content["images"]) == len(content["annotations"]) == count
    categories = {category["id"]: category for category in content["categories"]}
    assert list(categories) == list(range(30))
    labels = {one["image_id"]: categories[one["category_id"]] for one in content["annotations"]}
    for image in content["images"]:
        _, supercategory, number, _ = image["file_name"].split("/")
        label = labels[image["id"]]
        assert (supercategory, int(number)) == (label["supercategory"], label["id"])
        with Image.open(toy_root / "inaturalist" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


def test_inaturalist_splits(toy_root):
    train, val = (
        read(toy_root, f"inaturalist/annotations/{split}2018.json") for split in ("train", "val")
    )
    assert train["categories"] == val["categories"]
    images = [*train["images"], *val["images"]]
    assert len({image["id"] for image in images}) == len(images)
    on_disk = {
        str(path.relative_to(toy_root / "inaturalist"))
        for path in (toy_root / "inaturalist/train_val2018").rglob("*.jpg")
    }
    assert {image["file_name"] for image in images} == on_disk
    counts = Counter(one["category_id"] for one in train["annotations"])
    assert len(counts) == 30 and max(counts.values()) >= 8 * min(counts.values())


@pytest.mark.parametrize("total", [3, 30, 31, 100, 1000])
def test_long_tail_assigns_every_image(total):
    counts = long_tail(total, 30)
    assert counts.sum() == total
    assert sorted(counts, reverse=True) == counts.tolist()
