"""The toy COCO and LVIS folders are read by the real libraries, and agree with themselves."""

import json
import re
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from virtex.data.annotations import check_coco_json, check_lvis_json


@pytest.fixture(scope="module", params=["train", "val"])
def split(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def coco(split, toy_root: Path) -> COCO:
    return COCO(toy_root / "coco" / "annotations" / f"instances_{split}2017.json")


def content(toy_root: Path, name: str) -> dict:
    return json.loads((toy_root / name).read_text())


def lvis(toy_root: Path, split: str) -> dict:
    return content(toy_root, f"lvis/lvis_v1_{split}.json")


def test_every_listed_image_has_its_size_on_disk(coco, split, toy_root):
    for image in coco.dataset["images"]:
        with Image.open(toy_root / "coco" / f"{split}2017" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])


def test_every_image_on_disk_is_listed(coco, split, toy_root):
    on_disk = {path.name for path in (toy_root / "coco" / f"{split}2017").iterdir()}
    assert on_disk == {image["file_name"] for image in coco.dataset["images"]}


def test_instances_pass_the_check_of_real_files(coco):
    check_coco_json(coco.dataset, "instances")


def test_every_mask_has_the_area_of_its_annotation(coco):
    for annotation in coco.dataset["annotations"]:
        assert coco.annToMask(annotation).sum() == annotation["area"] > 0


def test_every_mask_fills_its_box(coco):
    for annotation in coco.dataset["annotations"]:
        x, y, width, height = coco_mask.toBbox(coco.annToRLE(annotation))
        left, top, wide, high = annotation["bbox"]
        corners = np.array([x, y, x + width, y + height])
        assert np.abs(corners - [left, top, left + wide, top + high]).max() <= 1.5  # a thin tip


def test_masks_of_one_image_hardly_overlap(coco):
    for image_id in coco.imgs:
        masks = [coco.annToMask(one) for one in coco.loadAnns(coco.getAnnIds(image_id))]
        assert (sum(masks) > 1).sum() <= 12 * len(masks)


def test_boxes_lie_inside_the_image(coco):
    for annotation in coco.dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        image = coco.imgs[annotation["image_id"]]
        assert x >= 0
        assert y >= 0
        assert x + width <= image["width"]
        assert y + height <= image["height"]


def test_category_ids_leave_gaps_as_in_coco(coco):
    ids = sorted(coco.cats)
    assert len(ids) == 10
    assert ids != list(range(ids[0], ids[0] + 10))


def test_every_category_occurs(coco):
    assert {one["category_id"] for one in coco.dataset["annotations"]} == set(coco.cats)


def test_a_crowd_is_in_run_lengths(toy_root):
    found = content(toy_root, "coco/annotations/instances_train2017.json")["annotations"]
    crowds = [one for one in found if one["iscrowd"]]
    assert crowds
    assert all(set(one["segmentation"]) == {"counts", "size"} for one in crowds)


def test_train_and_val_share_no_id(toy_root):
    splits = [
        content(toy_root, f"coco/annotations/instances_{split}2017.json")
        for split in ("train", "val")
    ]
    for key in ("images", "annotations"):
        ids = [{item["id"] for item in split[key]} for split in splits]
        assert not ids[0] & ids[1]


def test_every_image_has_five_different_captions(split, toy_root):
    said = content(toy_root, f"coco/annotations/captions_{split}2017.json")
    texts = defaultdict(set)
    for annotation in said["annotations"]:
        texts[annotation["image_id"]].add(annotation["caption"])
    assert set(texts) == {image["id"] for image in said["images"]}
    assert {len(several) for several in texts.values()} == {5}


def test_written_captions_say_left_and_right_truly(split, toy_root):
    """Read from the files alone: colors, shapes and boxes are those of LVIS."""
    known = lvis(toy_root, split)
    names = {category["id"]: category["name"] for category in known["categories"]}
    boxes = defaultdict(list)
    for one in known["annotations"]:
        x, _, width, _ = one["bbox"]
        boxes[one["image_id"]].append((names[one["category_id"]], x + width / 2))
    said = content(toy_root, f"coco/annotations/captions_{split}2017.json")["annotations"]
    name = r"an? (?:\w+ )*?(\w+) (\w+)"
    checked = 0
    for one in said:
        match = re.fullmatch(
            rf"{name} (?:to the )?(left|right) of {name}\.", one["caption"].lower()
        )
        if match:
            color, shape, side, other_color, other_shape = match.groups()
            wanted = (f"{color}_{shape}", f"{other_color}_{other_shape}")
            distances = [
                a[1] - b[1]
                for a, b in permutations(boxes[one["image_id"]], 2)
                if (a[0], b[0]) == wanted
            ]
            assert any(gap < 0 if side == "left" else gap > 0 for gap in distances), one
            checked += 1
    assert checked > 3


def test_lvis_passes_the_check_of_real_files(split, toy_root):
    check_lvis_json(lvis(toy_root, split), "lvis")


def test_lvis_images_exist_where_their_address_says(split, toy_root):
    for image in lvis(toy_root, split)["images"]:
        folder, name = image["coco_url"].split("/")[-2:]
        assert (toy_root / "coco" / folder / name).is_file()


def test_lvis_loads_with_the_masks_of_coco(split, toy_root):
    loaded = COCO(toy_root / "lvis" / f"lvis_v1_{split}.json")
    for annotation in loaded.dataset["annotations"]:
        assert loaded.annToMask(annotation).sum() == annotation["area"]


def test_lvis_has_rare_common_and_frequent_categories(toy_root):
    counts = Counter(one["frequency"] for one in lvis(toy_root, "train")["categories"])
    assert min(counts[letter] for letter in "rcf") >= 10


def test_lvis_frequency_follows_the_number_of_images(toy_root):
    by_letter = defaultdict(list)
    for category in lvis(toy_root, "train")["categories"]:
        by_letter[category["frequency"]].append(category["image_count"])
    assert max(by_letter["r"]) < min(by_letter["c"]) <= max(by_letter["c"]) < min(by_letter["f"])


def test_lvis_counts_are_those_of_train(toy_root):
    known = lvis(toy_root, "train")
    images = defaultdict(set)
    for one in known["annotations"]:
        images[one["category_id"]].add(one["image_id"])
    instances = Counter(one["category_id"] for one in known["annotations"])
    for category in known["categories"]:
        assert category["image_count"] == len(images[category["id"]])
        assert category["instance_count"] == instances[category["id"]]


def test_lvis_categories_are_numbered_from_one_and_the_same_in_both(toy_root):
    categories = lvis(toy_root, "train")["categories"]
    assert [category["id"] for category in categories] == list(range(1, len(categories) + 1))
    assert lvis(toy_root, "val")["categories"] == categories


def test_lvis_train_has_every_category(toy_root):
    assert min(one["image_count"] for one in lvis(toy_root, "train")["categories"]) >= 1


def test_lvis_negative_categories_are_absent(split, toy_root):
    known = lvis(toy_root, split)
    present = {(one["image_id"], one["category_id"]) for one in known["annotations"]}
    for image in known["images"]:
        assert image["neg_category_ids"]
        assert not any((image["id"], number) in present for number in image["neg_category_ids"])


def test_lvis_not_exhaustive_categories_are_present(toy_root):
    known = lvis(toy_root, "train")
    present = {(one["image_id"], one["category_id"]) for one in known["annotations"]}
    partly = [
        (image["id"], number)
        for image in known["images"]
        for number in image["not_exhaustive_category_ids"]
    ]
    assert partly
    assert set(partly) <= present
