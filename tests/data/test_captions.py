"""COCO's captions and object labels."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from tests.errors import raises_code
from virtex.data.captions import read_captions, read_labels

CAPTIONS = "annotations/captions_train2017.json"
INSTANCES = "annotations/instances_train2017.json"


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def drop_annotations_of(image_id: int):
    def change(content):
        kept = [a for a in content["annotations"] if a["image_id"] != image_id]
        content["annotations"] = kept

    return change


def test_captions(coco):
    content = json.loads((coco / CAPTIONS).read_text())
    images = read_captions(coco, "train")
    assert [image.image_id for image in images] == [image["id"] for image in content["images"]]
    for image in images:
        expected = [a["caption"] for a in content["annotations"] if a["image_id"] == image.image_id]
        assert list(image.captions) == expected
        assert image.file.is_file()


def test_labels(coco):
    content = json.loads((coco / INSTANCES).read_text())
    images, names = read_labels(coco, "train")
    assert names == ["background", *(category["name"] for category in content["categories"])]
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    for image in images:
        found = [a for a in content["annotations"] if a["image_id"] == image.image_id]
        assert {names[n] for n in image.labels} == {name_of[a["category_id"]] for a in found}
        assert list(image.labels) == sorted(set(image.labels))


def test_labels_follow_category_ids_not_file_order(copied):
    before = read_labels(copied, "train")
    change_json(copied / INSTANCES, lambda content: content["categories"].reverse())
    assert read_labels(copied, "train") == before


def test_images_without_annotations_are_left_out(copied):
    first = read_captions(copied, "train")[0].image_id
    for name in (CAPTIONS, INSTANCES):
        change_json(copied / name, drop_annotations_of(first))
    assert first not in {image.image_id for image in read_captions(copied, "train")}
    assert first not in {image.image_id for image in read_labels(copied, "train")[0]}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.pop("annotations"), "annotations"),
        (lambda c: c.pop("images"), "images"),
        (lambda c: c["images"][2].update(id=2**70), "images[2]"),
        (lambda c: c["annotations"][3].pop("caption"), "annotations[3]: caption"),
        (lambda c: c["annotations"][3].update(caption=[1]), "annotations[3]: caption"),
        (lambda c: c["annotations"][3].update(image_id=-7), "annotations[3]: image_id -7"),
        (lambda c: c["annotations"][3].pop("image_id"), "annotations[3]: image_id None"),
        (lambda c: c["images"][2].pop("file_name"), "images[2]"),
        (lambda c: c["images"].append(c["images"][0]), "used twice"),
    ],
)
def test_invalid_captions(copied, change, place):
    change_json(copied / CAPTIONS, change)
    with raises_code("data.annotations", copied / CAPTIONS, place):
        read_captions(copied, "train")


def test_other_files(copied, tmp_path):
    shutil.copy(copied / INSTANCES, copied / CAPTIONS)
    with raises_code("data.annotations", copied / CAPTIONS, "caption"):
        read_captions(copied, "train")
    change_json(copied / CAPTIONS, lambda content: content.update(annotations=[]))
    with raises_code("data.empty", copied / CAPTIONS):
        read_captions(copied, "train")
    with raises_code("data.missing", "captions_val2017.json"):
        read_captions(tmp_path / "nowhere", "val")


@pytest.mark.parametrize("read", [read_captions, read_labels])
def test_missing_images(copied, caplog, read):
    listed = json.loads((copied / CAPTIONS).read_text())["images"]
    names = sorted(image["file_name"] for image in listed)
    for name in names[:7]:
        (copied / "train2017" / name).unlink()
    (copied / "train2017" / names[8]).write_text("never opened")
    with raises_code("data.missing_images", "7 images", *names[:5]) as error:
        read(copied, "train")
    assert names[5] not in str(error.value)
    with caplog.at_level(logging.WARNING):
        found = read(copied, "train", skip_missing_images=True)
    images = found[0] if isinstance(found, tuple) else found
    assert not {image.file.name for image in images} & set(names[:7])
    assert len(images) > 25 and names[0] in caplog.text
