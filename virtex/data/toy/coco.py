"""Toy images in the layouts of COCO 2017 and, for the same images, LVIS v1."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import count, product

import numpy as np
from pycocotools import mask as coco_mask

from virtex.data.toy.captions import captions
from virtex.data.toy.drawing import Instance, draw
from virtex.data.toy.plan import LICENSES, Plan, info_block, jpeg_bytes, write_file, write_json
from virtex.data.toy.world import (
    COLORS,
    SHAPE_FAMILY,
    SHAPES,
    Scene,
    ToyObject,
    image_rng,
    sample_scene,
)

# As in COCO, the ids leave gaps.
COCO_IDS = dict(zip(SHAPES, (1, 2, 3, 5, 6, 8, 9, 11, 14, 17), strict=True))
CROWD_CHANCE = 0.08
# LVIS: every color of every shape, sorted by name, ids from 1 without gaps.
LVIS_NAMES = sorted(f"{color}_{shape}" for color, shape in product(COLORS, SHAPES))
LVIS_IDS = {name: number for number, name in enumerate(LVIS_NAMES, start=1)}
LVIS_NEGATIVES = 8  # per image: categories that annotators found to be absent
LVIS_CROWD_LABELED = 3  # labeled members of a crowd; the others are not labeled
DATE = "2017-01-01 00:00:00"  # of every image: files must be reproducible


@dataclass(frozen=True)
class CocoImage:
    """A written image and its annotations."""

    id: int
    file_name: str
    scene: Scene
    instances: tuple[Instance, ...]
    crowd: tuple[Instance, ...]
    captions: list[str]


def write_coco_and_lvis(plan: Plan) -> None:
    """Write COCO's images, instances and captions, and LVIS v1 annotations of the same images."""
    splits = {
        "train": _write_images(plan, "train", plan.coco_train_images),
        "val": _write_images(plan, "val", plan.val_images),
    }
    _write_coco_annotations(plan, splits)
    categories = _lvis_categories(splits["train"])
    for split, found in splits.items():
        content = _lvis_content(plan, split, found, categories)
        write_json(plan.out / "lvis" / f"lvis_v1_{split}.json", content)


def _write_coco_annotations(plan: Plan, splits: dict[str, list[CocoImage]]) -> None:
    annotation_ids, caption_ids = count(1), count(1)
    categories = [
        {"supercategory": SHAPE_FAMILY[shape], "id": number, "name": shape}
        for shape, number in COCO_IDS.items()
    ]
    for split, found in splits.items():
        head = {
            "info": info_block("COCO 2017", 2017),
            "licenses": LICENSES,
            "images": [coco_image(image, split) for image in found],
        }
        instances = [fields for image in found for fields in _coco_annotations(image)]
        sentences = [
            {"image_id": image.id, "id": next(caption_ids), "caption": text}
            for image in found
            for text in image.captions
        ]
        content = {
            **head,
            "annotations": [{**fields, "id": next(annotation_ids)} for fields in instances],
            "categories": categories,
        }
        folder = plan.out / "coco" / "annotations"
        write_json(folder / f"instances_{split}2017.json", content)
        write_json(folder / f"captions_{split}2017.json", {**head, "annotations": sentences})


def _write_images(plan: Plan, split: str, images: int) -> list[CocoImage]:
    return plan.map(partial(_write_image, plan, split), range(images))


def _write_image(plan: Plan, split: str, index: int) -> CocoImage:
    kinds = list(product(COLORS, SHAPES))
    rng = image_rng(plan.seed, f"coco/{split}", index)
    color, shape = kinds[index * 37 % len(kinds)]  # 37 is coprime to their number
    required = {"shape": shape}
    if split == "train" and index < len(kinds):  # so that train contains every kind
        required["color"] = color
    drawing = draw(sample_scene(rng, required, CROWD_CHANCE), rng)
    number = 3 * index + (1 if split == "train" else 2)  # with gaps, disjoint between splits
    name = f"{number:012d}.jpg"
    write_file(plan.out / "coco" / f"{split}2017" / name, jpeg_bytes(drawing.image))
    texts = captions(drawing, rng)
    return CocoImage(number, name, drawing.scene, drawing.instances, drawing.crowd, texts)


def coco_image(image: CocoImage, split: str) -> dict:
    return {
        "license": 1,
        "file_name": image.file_name,
        "coco_url": f"http://images.cocodataset.org/{split}2017/{image.file_name}",
        "height": image.scene.height,
        "width": image.scene.width,
        "date_captured": DATE,
        "flickr_url": "",
        "id": image.id,
    }


def _coco_annotations(image: CocoImage) -> list[dict]:
    found = [
        {**object_annotation(instance), "category_id": COCO_IDS[instance.obj.shape]}
        for instance in image.instances
    ]
    if image.crowd:
        shape = image.crowd[0].obj.shape
        found.append({**crowd_annotation(image), "category_id": COCO_IDS[shape]})
    return [{**fields, "image_id": image.id} for fields in found]


def object_annotation(instance: Instance) -> dict:
    return {
        "segmentation": instance.polygons,
        "area": instance.area,
        "iscrowd": 0,
        "bbox": list(instance.bbox),
    }


def crowd_annotation(image: CocoImage) -> dict:
    """Return one annotation of a crowd; its mask is an uncompressed RLE in column-major order."""
    size = [image.scene.height, image.scene.width]
    polygons = [polygon for instance in image.crowd for polygon in instance.polygons]
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    flat = coco_mask.decode(rle).ravel(order="F")
    starts = [*([0] if flat[0] else []), *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = np.diff(starts, prepend=0).tolist()  # background first, 0 if there is none
    return {
        "segmentation": {"counts": counts, "size": size},
        "area": float(flat.sum()),
        "iscrowd": 1,
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _lvis_category(obj: ToyObject) -> int:
    return LVIS_IDS[f"{obj.color}_{obj.shape}"]


def _lvis_labeled(image: CocoImage) -> list[Instance]:
    return [*image.instances, *image.crowd[:LVIS_CROWD_LABELED]]


def _lvis_categories(train: list[CocoImage]) -> list[dict]:
    """Return all categories with their counts and frequencies in train.

    A category of LVIS is rare in up to 10 of its 100,170 images and common in up to 100; here the
    bounds are 1/80 and 1/30 of the images.
    """
    instances: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for image in train:
        found = [_lvis_category(instance.obj) for instance in _lvis_labeled(image)]
        instances.update(found)
        images.update(set(found))
    rare, common = max(1, len(train) // 80), max(2, len(train) // 30)
    categories = []
    for name, number in LVIS_IDS.items():
        color, shape = name.split("_")
        count = images[number]
        categories.append(
            {
                "image_count": count,
                "synonyms": [name],
                "def": f"a {shape} whose colour is {color}",  # part of VERSION 3's bytes
                "id": number,
                "synset": f"{name}.n.01",
                "name": name,
                "instance_count": instances[number],
                "frequency": "r" if count <= rare else "c" if count <= common else "f",
            }
        )
    return categories


def _lvis_content(plan: Plan, split: str, found: list[CocoImage], categories: list[dict]) -> dict:
    images: list[dict] = []
    annotations: list[dict] = []
    for image in found:
        labeled = _lvis_labeled(image)
        present = {_lvis_category(instance.obj) for instance in labeled}
        absent = [number for number in LVIS_IDS.values() if number not in present]
        rng = image_rng(plan.seed, f"lvis/{split}", image.id)
        crowd = image.crowd[LVIS_CROWD_LABELED:]
        entry = coco_image(image, split)
        del entry["file_name"]  # LVIS v1 has only the URL
        negatives = rng.choice(absent, LVIS_NEGATIVES, replace=False)
        entry["neg_category_ids"] = sorted(negatives.tolist())
        entry["not_exhaustive_category_ids"] = [_lvis_category(crowd[0].obj)] if crowd else []
        images.append(entry)
        for instance in labeled:
            fields = object_annotation(instance)
            del fields["iscrowd"]
            fields["category_id"] = _lvis_category(instance.obj)
            annotations.append({**fields, "image_id": image.id, "id": len(annotations) + 1})
    return {
        "info": info_block("LVIS v1", 2020),
        "licenses": LICENSES,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
