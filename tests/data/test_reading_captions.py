"""Captions and labels are read completely, or what is wrong with the files is said."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from virtex.data.captions import read_captions, read_labels
from virtex.errors import UserError

CAPTIONS_JSON = "annotations/captions_train2017.json"
INSTANCES_JSON = "annotations/instances_train2017.json"


def spoil(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_image_is_read_with_all_its_captions(coco):
    content = json.loads((coco / CAPTIONS_JSON).read_text())
    images = read_captions(coco, "train")
    assert [image.image_id for image in images] == [image["id"] for image in content["images"]]
    for image in images:
        expected = [a["caption"] for a in content["annotations"] if a["image_id"] == image.image_id]
        assert list(image.captions) == expected
        assert image.file.is_file()


def test_images_without_captions_are_left_out(copied):
    first = read_captions(copied, "train")[0].image_id
    spoil(
        copied / CAPTIONS_JSON,
        lambda content: content.update(
            annotations=[a for a in content["annotations"] if a["image_id"] != first]
        ),
    )
    assert first not in {image.image_id for image in read_captions(copied, "train")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("annotations"), "no list of annotations"),
        (lambda c: c.pop("images"), "no list of images"),
        (lambda c: c["images"][2].update(id=2**70), r"images\[2\] must have a whole number as id"),
        (lambda c: c["annotations"][3].pop("caption"), r"annotations\[3\] has no caption"),
        (lambda c: c["annotations"][3].update(caption=[1]), r"annotations\[3\] has the caption \["),
        (lambda c: c["annotations"][3].update(image_id=-7), r"annotations\[3\].*image -7"),
        (lambda c: c["annotations"][3].pop("image_id"), r"annotations\[3\].*image None"),
        (lambda c: c["images"][2].pop("file_name"), r"images\[2\] must have"),
        (lambda c: c["images"].append(c["images"][0]), "used twice"),
        (lambda c: c.update(annotations=[]), "describes no image"),
    ],
)
def test_what_is_wrong_with_a_captions_file_is_said(copied, change, said):
    spoil(copied / CAPTIONS_JSON, change)
    with pytest.raises(UserError, match=said) as error:
        read_captions(copied, "train")
    assert str(copied / CAPTIONS_JSON) in str(error.value)


def test_instances_in_place_of_captions_are_refused(copied):
    shutil.copy(copied / INSTANCES_JSON, copied / CAPTIONS_JSON)
    with pytest.raises(UserError, match="has no caption"):
        read_captions(copied, "train")


def test_a_missing_captions_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"captions_val2017\.json is missing"):
        read_captions(tmp_path, "val")


@pytest.mark.parametrize("read", [read_captions, read_labels])
def test_missing_images_are_counted_and_the_first_named_before_any_is_opened(copied, read):
    names = [path.name for path in sorted((copied / "train2017").iterdir())]
    for name in names[:7]:
        (copied / "train2017" / name).unlink()
    (copied / "train2017" / names[8]).write_text("not opened")
    with pytest.raises(UserError, match=r"7 images of .*, …; restore them") as error:
        read(copied, "train")
    assert [name in str(error.value) for name in names[:7]] == [True] * 5 + [False] * 2


@pytest.mark.parametrize("read", [read_captions, read_labels])
def test_missing_images_can_be_left_out_with_a_warning(copied, caplog, read):
    gone = next((copied / "train2017").iterdir())
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        found = read(copied, "train", skip_missing_images=True)
    images = found[0] if isinstance(found, tuple) else found
    assert gone not in {image.file for image in images}
    assert len(images) > 50
    assert str(gone) in caplog.text


def test_labels_count_the_categories_from_1_on(coco):
    content = json.loads((coco / INSTANCES_JSON).read_text())
    images, names = read_labels(coco, "train")
    assert names == ["background", *(category["name"] for category in content["categories"])]
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    for image in images:
        categories = {
            name_of[a["category_id"]]
            for a in content["annotations"]
            if a["image_id"] == image.image_id
        }
        assert {names[label] for label in image.labels} == categories
        assert list(image.labels) == sorted(set(image.labels))


def test_labels_do_not_depend_on_the_order_in_the_file(copied):
    before = read_labels(copied, "train")
    spoil(copied / INSTANCES_JSON, lambda content: content["categories"].reverse())
    assert read_labels(copied, "train") == before


def test_images_without_objects_have_no_labels_and_are_left_out(copied):
    first = read_labels(copied, "train")[0][0].image_id
    spoil(
        copied / INSTANCES_JSON,
        lambda content: content.update(
            annotations=[a for a in content["annotations"] if a["image_id"] != first]
        ),
    )
    assert first not in {image.image_id for image in read_labels(copied, "train")[0]}
