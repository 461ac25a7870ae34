"""Which pictures are captioned, and what they are called."""

import json

import pytest
from PIL import Image

from tests.pretraining_runs import VAL_IMAGES
from virtex.captioning.pictures import coco_pictures, own_pictures
from virtex.errors import UserError


def draw(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(path)


def test_coco_pictures_have_the_numbers_and_captions_of_the_file(data):
    pictures = coco_pictures(data)
    content = json.loads((data / "coco/annotations/captions_val2017.json").read_text())
    assert len(pictures) == VAL_IMAGES
    assert list(pictures.ids) == [image["id"] for image in content["images"]]
    said = {image_id: [] for image_id in pictures.ids}
    for annotation in content["annotations"]:
        said[annotation["image_id"]].append(annotation["caption"])
    assert [list(captions) for captions in pictures.references] == list(said.values())
    assert pictures.path(0).parent == data / "coco/val2017"


def test_a_record_tells_how_many_pictures_and_captions_and_their_hashes(data):
    described = coco_pictures(data).describe()
    assert described["images"] == VAL_IMAGES
    assert described["captions"] == sum(map(len, coco_pictures(data).references))
    assert {len(described[f"{part}_sha256"]) for part in ("files", "annotations")} == {64}


def test_only_val_is_needed(data, tmp_path):
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/val2017").symlink_to(data / "coco/val2017")
    name = "coco/annotations/captions_val2017.json"
    (tmp_path / name).symlink_to(data / name)
    assert len(coco_pictures(tmp_path)) == VAL_IMAGES
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"captions_val2017\.json"):
        coco_pictures(tmp_path)


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    draw(tmp_path / "a/b.PNG", tmp_path / "a/deep/c.jpg", tmp_path / "d.jpg")
    (tmp_path / "a/notes.txt").write_text("no picture")
    (tmp_path / "d.jpg").rename(tmp_path / "d.picture")
    pictures = own_pictures([str(tmp_path / "a"), str(tmp_path / "d.picture")])
    assert list(pictures.files) == ["a/b.PNG", "a/deep/c.jpg", "d.picture"]
    assert list(pictures.ids) == list(pictures.files)
    assert all(pictures.path(index).is_file() for index in range(3))
    assert not pictures.references


def test_a_picture_that_is_named_twice_is_there_once(tmp_path):
    draw(tmp_path / "a/b.png")
    pictures = own_pictures([str(tmp_path / "a"), str(tmp_path / "a/b.png"), str(tmp_path)])
    assert len(pictures) == 1


def test_names_that_are_numbers_are_the_ids_as_cocos_are(tmp_path):
    draw(tmp_path / "000000000139.jpg", tmp_path / "000000000285.jpg")
    assert list(own_pictures([str(tmp_path)]).ids) == [139, 285]
    draw(tmp_path / "other/139.jpg")
    pictures = own_pictures([str(tmp_path)])
    assert list(pictures.ids) == list(pictures.files)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nowhere", "does not exist"), ("empty", "is empty"), ("texts", "holds a.txt")],
)
def test_a_path_without_pictures_is_told(tmp_path, name, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no picture")
    with pytest.raises(UserError) as error:
        own_pictures([str(tmp_path / name)])
    assert reason in str(error.value) and ".jpg" in str(error.value)
    assert "\n" not in str(error.value)
