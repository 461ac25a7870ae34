"""The toy VOC folders are what the Pascal VOC devkit writes."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from tests.data.conftest import TRAIN, VAL

SUBSETS = [("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")]
# The devkit's own list, VOCinit.m.
REAL_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip


@pytest.fixture(params=SUBSETS, ids=" ".join)
def subset(request) -> tuple[str, str]:
    return request.param


def stems(toy_root: Path, year: str, subset: str) -> list[str]:
    return (toy_root / year / "ImageSets" / "Main" / f"{subset}.txt").read_text().split()


def objects(toy_root: Path, year: str, stem: str) -> list[ElementTree.Element]:
    return ElementTree.parse(toy_root / year / "Annotations" / f"{stem}.xml").findall("object")


def flags(toy_root: Path, year: str, subset: str, name: str) -> dict[str, int]:
    path = toy_root / year / "ImageSets" / "Main" / f"{name}_{subset}.txt"
    return {stem: int(flag) for stem, flag in map(str.split, path.read_text().splitlines())}


@pytest.mark.parametrize(
    ("year", "name", "count"),
    [
        ("VOC2007", "trainval", TRAIN // 2),
        ("VOC2007", "test", VAL),
        ("VOC2012", "trainval", TRAIN // 2),
    ],
)
def test_a_set_has_its_number_of_images(toy_root, year, name, count):
    assert len(stems(toy_root, year, name)) == count


@pytest.mark.parametrize("year", ["VOC2007", "VOC2012"])
def test_trainval_is_train_and_val(toy_root, year):
    train, val = stems(toy_root, year, "train"), stems(toy_root, year, "val")
    assert not set(train) & set(val)
    assert sorted(train + val) == stems(toy_root, year, "trainval")


def test_trainval_and_test_share_no_image(toy_root):
    trainval, test = (stems(toy_root, "VOC2007", name) for name in ("trainval", "test"))
    assert not set(trainval) & set(test)


def test_image_names_are_those_of_the_year(toy_root):
    assert stems(toy_root, "VOC2007", "trainval")[0] == "000001"
    assert stems(toy_root, "VOC2012", "trainval")[0] == "2012_000001"


def test_annotations_state_name_and_size_of_their_image(toy_root, subset):
    year, name = subset
    for stem in stems(toy_root, year, name):
        root = ElementTree.parse(toy_root / year / "Annotations" / f"{stem}.xml").getroot()
        with Image.open(toy_root / year / "JPEGImages" / root.findtext("filename")) as image:
            size = [int(root.findtext(f"size/{side}")) for side in ("width", "height")]
            assert (root.findtext("filename"), size) == (f"{stem}.jpg", list(image.size))


def test_every_object_has_all_fields(toy_root, subset):
    year, name = subset
    fields = {"name", "pose", "truncated", "difficult", "bndbox"}
    for stem in stems(toy_root, year, name):
        found = objects(toy_root, year, stem)
        assert found
        assert all({child.tag for child in one} == fields for one in found)


def test_boxes_count_from_one_and_stay_inside(toy_root, subset):
    year, name = subset
    for stem in stems(toy_root, year, name):
        with Image.open(toy_root / year / "JPEGImages" / f"{stem}.jpg") as image:
            width, height = image.size
        for one in objects(toy_root, year, stem):
            box = {child.tag: int(child.text) for child in one.find("bndbox")}
            assert 1 <= box["xmin"] < box["xmax"] <= width
            assert 1 <= box["ymin"] < box["ymax"] <= height


def test_class_files_agree_with_the_annotations(toy_root, subset):
    year, name = subset
    for label in REAL_CLASSES:
        for stem, flag in flags(toy_root, year, name, label).items():
            hard = [
                one.findtext("difficult") == "1"
                for one in objects(toy_root, year, stem)
                if one.findtext("name") == label
            ]
            assert flag == (-1 if not hard else 0 if all(hard) else 1)


def test_class_files_list_every_image_in_order(toy_root, subset):
    year, name = subset
    for label in REAL_CLASSES:
        assert list(flags(toy_root, year, name, label)) == stems(toy_root, year, name)


def test_there_is_a_file_for_exactly_the_real_classes(toy_root, subset):
    year, name = subset
    folder = toy_root / year / "ImageSets" / "Main"
    found = {path.stem.removesuffix(f"_{name}") for path in folder.glob(f"*_{name}.txt")}
    assert found == set(REAL_CLASSES)


def test_every_class_can_be_trained_and_tested(toy_root, subset):
    year, name = subset
    for label in REAL_CLASSES:
        assert 1 in flags(toy_root, year, name, label).values()


def test_some_images_show_a_class_as_difficult_only(toy_root):
    every = [flags(toy_root, "VOC2007", "trainval", label).values() for label in REAL_CLASSES]
    assert any(0 in found for found in every)


def test_twenty_classes_are_twenty_kinds_of_objects():
    from virtex.data.toy.voc import VOC_KINDS

    assert list(VOC_KINDS) == REAL_CLASSES
    assert len(set(VOC_KINDS.values())) == 20
