"""Toy images in the layouts of ImageNet and iNaturalist 2018: one object per image."""

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np

from virtex.data.toy.drawing import draw
from virtex.data.toy.plan import LICENSES, Plan, info_block, jpeg_bytes, write_file, write_json
from virtex.data.toy.world import (
    COLORS,
    SHAPE_FAMILY,
    SHAPES,
    TEXTURES,
    image_rng,
    sample_single,
)

# ImageNet: five shapes in four textures, of any color.
IMAGENET_CLASSES = list(product(("circle", "square", "triangle", "star", "heart"), TEXTURES))


def _species() -> list[dict[str, str]]:
    """Return three classes per shape, which differ only in color or only in texture."""
    colors, found = list(COLORS), []
    for number, shape in enumerate(SHAPES):
        usual, other = colors[3 * number % 8], colors[(3 * number + 1) % 8]
        for color, texture in ((usual, "plain"), (usual, "dotted"), (other, "plain")):
            found.append({"shape": shape, "color": color, "texture": texture})
    return found


INATURALIST_SPECIES = _species()


def write_imagenet(plan: Plan) -> None:
    """Write one folder per class under train and val, with one object per image."""
    for split, count in (("train", plan.train_images), ("val", plan.val_images)):
        plan.map(partial(_write_imagenet_image, plan, split), range(count))


def _write_imagenet_image(plan: Plan, split: str, index: int) -> None:
    label = index % len(IMAGENET_CLASSES)
    shape, texture = IMAGENET_CLASSES[label]
    wnid = f"n{90000001 + label:08d}"
    name = f"{wnid}_{index}" if split == "train" else f"ILSVRC2012_val_{index + 1:08d}"
    image = _single(plan, f"imagenet/{split}", index, {"shape": shape, "texture": texture})
    write_file(plan.out / "imagenet" / split / wnid / f"{name}.JPEG", jpeg_bytes(image))


def write_inaturalist(plan: Plan) -> None:
    """Write iNaturalist 2018: train with a long tail, val with classes of equal size."""
    classes = len(INATURALIST_SPECIES)
    categories = [
        {
            "id": number,
            "name": f"{kind['texture']} {kind['color']} {kind['shape']}",
            "supercategory": SHAPE_FAMILY[kind["shape"]].capitalize(),
        }
        for number, kind in enumerate(INATURALIST_SPECIES)
    ]
    labels = {
        "train": np.repeat(np.arange(classes), long_tail(plan.train_images, classes)).tolist(),
        "val": sorted(index % classes for index in range(plan.val_images)),
    }
    first_id = 0
    for split, ranks in labels.items():
        # frequency is independent of the id; 7 is coprime to the number of classes
        chosen = [categories[rank * 7 % classes] for rank in ranks]
        images = _write_inaturalist_images(plan, split, chosen, first_id)
        content = {
            "info": info_block("iNaturalist 2018", 2018),
            "images": images,
            "licenses": LICENSES,
            "annotations": [
                {"id": image["id"], "image_id": image["id"], "category_id": category["id"]}
                for image, category in zip(images, chosen, strict=True)
            ],
            "categories": categories,
        }
        write_json(plan.out / "inaturalist" / "annotations" / f"{split}2018.json", content)
        first_id += len(images)


def long_tail(total: int, classes: int) -> np.ndarray:
    """Return images per class, most frequent first: one each, and the rest as 1/rank."""
    ranks = np.arange(1, classes + 1)
    if total <= classes:
        return (ranks <= total).astype(int)
    counts = 1 + np.floor((total - classes) / ranks / (1 / ranks).sum()).astype(int)
    counts[: total - counts.sum()] += 1
    return counts


def _write_inaturalist_images(
    plan: Plan, split: str, chosen: Sequence[dict], first_id: int
) -> list[dict]:
    write = partial(_write_inaturalist_image, plan, split, first_id)
    return plan.map(write, list(enumerate(chosen)))


def _write_inaturalist_image(
    plan: Plan, split: str, first_id: int, numbered: tuple[int, dict]
) -> dict:
    index, category = numbered
    pixels = _single(plan, f"inaturalist/{split}", index, INATURALIST_SPECIES[category["id"]])
    content = jpeg_bytes(pixels)
    stem = hashlib.md5(content, usedforsecurity=False).hexdigest()
    name = f"train_val2018/{category['supercategory']}/{category['id']}/{stem}.jpg"
    write_file(plan.out / "inaturalist" / name, content)
    return {
        "license": 1,
        "file_name": name,
        "rights_holder": "virtex.data.toy",
        "height": pixels.shape[0],
        "id": first_id + index,
        "width": pixels.shape[1],
    }


def _single(plan: Plan, split: str, index: int, required: dict[str, str]) -> np.ndarray:
    rng = image_rng(plan.seed, split, index)
    return draw(sample_single(rng, required), rng).image
