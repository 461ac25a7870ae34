"""The images to caption and their ids."""

import json

import pytest
from PIL import Image

from tests.errors import raises_code
from tests.pretraining_runs import VAL_IMAGES
from virtex.captioning.images import find_images, read_coco_images
from virtex.errors import UserError


def draw(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(path)


def test_coco_ids_and_references(data):
    images = read_coco_images(data)
    content = json.loads((data / "coco/annotations/captions_val2017.json").read_text())
    assert len(images) == VAL_IMAGES
    assert list(images.ids) == [image["id"] for image in content["images"]]
    expected = {image_id: [] for image_id in images.ids}
    for annotation in content["annotations"]:
        expected[annotation["image_id"]].append(annotation["caption"])
    assert [list(captions) for captions in images.references] == list(expected.values())
    assert images.path(0).parent == data / "coco/val2017"


def test_describe(data):
    described = read_coco_images(data).describe()
    assert described["images"] == VAL_IMAGES
    assert described["captions"] == sum(map(len, read_coco_images(data).references))
    assert {len(described[f"{part}_sha256"]) for part in ("files", "annotations")} == {64}


def test_only_val2017_is_needed(data, tmp_path):
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/val2017").symlink_to(data / "coco/val2017")
    name = "coco/annotations/captions_val2017.json"
    (tmp_path / name).symlink_to(data / name)
    assert len(read_coco_images(tmp_path)) == VAL_IMAGES
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"captions_val2017\.json"):
        read_coco_images(tmp_path)


def test_folders_are_searched_recursively(tmp_path):
    draw(tmp_path / "a/b.PNG", tmp_path / "a/deep/c.jpg", tmp_path / "d.jpg")
    (tmp_path / "a/notes.txt").write_text("not an image")
    (tmp_path / "d.jpg").rename(tmp_path / "d.image")
    images = find_images([str(tmp_path / "a"), str(tmp_path / "d.image")])
    assert list(images.files) == ["a/b.PNG", "a/deep/c.jpg", "d.image"]
    assert list(images.ids) == list(images.files)
    assert all(images.path(index).is_file() for index in range(3))
    assert not images.references


def test_duplicates_are_removed(tmp_path):
    draw(tmp_path / "a/b.png")
    images = find_images([str(tmp_path / "a"), str(tmp_path / "a/b.png"), str(tmp_path)])
    assert len(images) == 1


def test_numeric_names_are_ids(tmp_path):
    draw(tmp_path / "000000000139.jpg", tmp_path / "000000000285.jpg")
    assert list(find_images([str(tmp_path)]).ids) == [139, 285]
    draw(tmp_path / "other/139.jpg")
    images = find_images([str(tmp_path)])
    assert list(images.ids) == list(images.files)


@pytest.mark.parametrize("name", ["nowhere", "empty", "texts"])
def test_path_without_images_is_rejected(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("not an image")
    with raises_code("data.no_images", tmp_path / name, ".jpg"):
        find_images([str(tmp_path / name)])


def test_setting_among_images_is_rejected(tmp_path):
    draw(tmp_path / "a.png")
    with raises_code("arguments.misplaced_setting", "MODEL.DECODER.BEAM_SIZE", "--images"):
        find_images([str(tmp_path), "MODEL.DECODER.BEAM_SIZE", "2"])
