"""Cityscapes: labels and toy data agree with cityscapesscripts, and invalid data are reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import labels
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from tests.errors import raises_code
from virtex.check_data import check_data
from virtex.data import cityscapes
from virtex.data.cityscapes import DOWNLOADED, INSTANCE_IDS, POLYGONS, find_frames, require_frames
from virtex.data.toy.cityscapes import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def frames(toy_root):
    """The frames of toy train and val."""
    return {split: find(toy_root / "cityscapes", split) for split in ("train", "val")}


def find(root: Path, split: str):
    return require_frames(root / "leftImg8bit" / split, root / "gtFine" / split, DOWNLOADED)


@pytest.fixture
def val(toy_root, tmp_path):
    """A copy of toy val to damage: the frames, and the root."""
    for part in ("leftImg8bit", "gtFine"):
        shutil.copytree(toy_root / "cityscapes" / part / "val", tmp_path / part / "val")
    return find(tmp_path, "val"), tmp_path


def test_labels():
    known = {label.id: label for label in labels}
    assert {label.name: label.id for label in labels} == cityscapes.LABEL_IDS
    assert set(cityscapes.IGNORED) == {n for n, label in known.items() if label.ignoreInEval}
    assert set(cityscapes.HAS_INSTANCES) == {n for n, label in known.items() if label.hasInstances}
    classes = sorted((label for label in labels if not label.ignoreInEval), key=lambda x: x.trainId)
    assert list(cityscapes.CLASSES.values()) == [label.name for label in classes]
    things = [label for label in labels if label.hasInstances and not label.ignoreInEval]
    assert list(cityscapes.THINGS.items()) == [(label.id, label.name) for label in things]
    for number in range(256):
        expected = known[number].trainId if number in known else 255
        assert cityscapes.TRAIN_IDS[number] == expected


@pytest.mark.parametrize("split", ["train", "val"])
def test_toy_ids_match_cityscapesscripts(frames, split):
    for frame in frames[split][:12]:
        annotation = Annotation()
        annotation.fromJsonFile(str(frame.annotation(POLYGONS)))
        for suffix, expected in (
            (INSTANCE_IDS, createInstanceImage(annotation, "ids")),
            (cityscapes.LABEL_IDS_FILE, createLabelImage(annotation, "ids")),
            (cityscapes.TRAIN_IDS_FILE, createLabelImage(annotation, "trainIds")),
        ):
            found = cityscapes.read_ids(frame.annotation(suffix), WIDTH, HEIGHT)
            assert np.array_equal(found, np.asarray(expected)), frame


def test_toy_data_covers_all_cases(frames):
    contents = [json.loads(f.annotation(POLYGONS).read_text()) for f in frames["train"]]
    objects = [found for content in contents for found in content["objects"]]
    names = {found["label"] for found in objects}
    assert names >= {*cityscapes.CLASSES.values(), "caravan", "license plate", "out of roi"}
    assert any(name.endswith("group") for name in names)
    assert any("deleted" in found for found in objects)
    train_ids = {
        number
        for frame in frames["train"]
        for number in np.unique(Image.open(frame.annotation(cityscapes.TRAIN_IDS_FILE)))
    }
    assert train_ids == {*range(19), 255}
    for frame in frames["val"]:
        assert frame.image.name.startswith(f"{frame.city}_")
        with Image.open(frame.annotation(INSTANCE_IDS)) as image:
            assert image.mode == "I;16"
    assert {frame.city for frame in frames["train"]}.isdisjoint(f.city for f in frames["val"])


def test_one_object_of_each_class_in_eight_images(frames):
    for first in range(0, 24, 8):
        shown = sorted(frames["train"], key=lambda f: (f.image.stem.split("_")[1], f.city))
        found = {
            int(number) // 1000
            for frame in shown[first : first + 8]
            for number in np.unique(Image.open(frame.annotation(INSTANCE_IDS)))
        }
        assert found >= set(cityscapes.THINGS)


# Invalid data ----


def test_missing_files_are_named(val):
    frames, root = val
    gone = [frames[0].image, frames[1].annotation(POLYGONS), frames[2].annotation(INSTANCE_IDS)]
    for path in gone:
        path.unlink()
    with raises_code("data.missing", *gone):
        find(root, "val")
    dirs = root / "leftImg8bit/val", root / "gtFine/val"
    assert find_frames(*dirs, DOWNLOADED)[1] == [str(path) for path in gone]


def test_check_data_names_missing_files(val, toy_root, tmp_path):
    frames, root = val
    for part in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / part, tmp_path / "data/cityscapes" / part)
        shutil.copytree(
            toy_root / "cityscapes" / part / "train", tmp_path / "data/cityscapes" / part / "train"
        )
    assert not check_data(tmp_path / "data", ["cityscapes"]).incomplete
    gone = [frames[0].image, frames[1].annotation(POLYGONS)]
    names = [f"cityscapes/{path.relative_to(root)}" for path in gone]
    for name in names:
        (tmp_path / "data" / name).unlink()
    report = check_data(tmp_path / "data", ["cityscapes"]).paths["cityscapes/gtFine/val"]
    assert report.missing_files == names and report.counts["images"] == len(frames)


def test_hidden_and_other_files_are_not_images(val):
    frames, root = val
    (frames[0].image.parent / f"._{frames[0].image.name}").write_text("")
    (frames[0].image.parent / "notes.txt").write_text("")
    assert find(root, "val") == frames


def test_no_images(tmp_path):
    for part in ("leftImg8bit", "gtFine"):
        (tmp_path / part / "val" / "bonn").mkdir(parents=True)
    with raises_code("data.empty", tmp_path / "leftImg8bit/val"):
        find(tmp_path, "val")


SQUARE = [[0, 0], [9, 0], [9, 9]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"imgHeight": "96"}, "imgHeight"),
        ({"imgWidth": 0}, "imgWidth"),
        ({"objects": {}}, "objects"),
        ({"objects": [3]}, "objects[0]"),
        ({"objects": [{"polygon": SQUARE}]}, "objects[0]: label"),
        ({"objects": [{"label": "vangroup", "polygon": SQUARE}]}, "objects[0]: label"),
        ({"objects": [{"label": "car", "polygon": SQUARE[:2]}]}, "objects[0]: polygon"),
        ({"objects": [{"label": "car", "polygon": [*SQUARE, [1]]}]}, "objects[0]: polygon"),
        (
            {"objects": [{"label": "car", "polygon": [*SQUARE, [float("nan"), 1]]}]},
            "objects[0]: polygon",
        ),
    ],
)
def test_invalid_polygons(change, field):
    valid = {"imgHeight": 96, "imgWidth": 192, "objects": [{"label": "cargroup"}]}
    valid["objects"][0]["polygon"] = SQUARE
    cityscapes.check_polygons(valid, "x.json")
    with raises_code("data.annotations", "x.json", field):
        cityscapes.check_polygons({**valid, **change}, "x.json")
    with raises_code("data.annotations", "x.json", "imgHeight"):
        cityscapes.check_polygons([valid], "x.json")


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH - 1), np.uint8),
    ],
    ids=["truncated", "rgb", "size"],
)
def test_unreadable_ids(tmp_path, content):
    path = tmp_path / "x_gtFine_instanceIds.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    with raises_code("data.annotations", path):
        cityscapes.read_ids(path, WIDTH, HEIGHT)


@pytest.mark.parametrize("number", [34, 999, 11001, 34000, 65535])
def test_unknown_instance_ids(number):
    ids = np.array([[0, 7, 26], [26000, 33999, 30001]], np.uint16)
    cityscapes.check_instance_ids(ids, Path("x.png"))
    ids[0, 0] = number
    with raises_code("data.annotations", "x.png", str(number)):
        cityscapes.check_instance_ids(ids, Path("x.png"))
