"""Toy pictures in the layouts of COCO 2017 and, over the same images, LVIS v1."""

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
    picture_rng,
    sample_scene,
)

# As in COCO, the ids leave gaps.
COCO_IDS = dict(zip(SHAPES, (1, 2, 3, 5, 6, 8, 9, 11, 14, 17), strict=True))
CROWD_CHANCE = 0.08
# LVIS: every color of every shape, in the order of their names, ids from 1 without gaps.
LVIS_NAMES = sorted(f"{color}_{shape}" for color, shape in product(COLORS, SHAPES))
LVIS_IDS = {name: number for number, name in enumerate(LVIS_NAMES, start=1)}
LVIS_NEGATIVES = 8  # categories an image that were looked for and are not there
LVIS_CROWD_LABELED = 3  # members of a crowd that are labeled; the others are not
DATE = "2017-01-01 00:00:00"  # of every picture: files must not depend on the day


@dataclass(frozen=True)
class Picture:
    """A written COCO image and what is in it."""

    id: int
    file_name: str
    scene: Scene
    instances: tuple[Instance, ...]
    crowd: tuple[Instance, ...]
    captions: list[str]


def write_coco_and_lvis(plan: Plan) -> None:
    """COCO's images, instances and captions, and LVIS v1 annotations of the same images."""
    pictures = {
        "train": _write_images(plan, "train", plan.coco_train_images),
        "val": _write_images(plan, "val", plan.val_images),
    }
    _write_coco_annotations(plan, pictures)
    categories = _lvis_categories(pictures["train"])
    for split, found in pictures.items():
        content = _lvis_content(plan, split, found, categories)
        write_json(plan.out / "lvis" / f"lvis_v1_{split}.json", content)


def _write_coco_annotations(plan: Plan, pictures: dict[str, list[Picture]]) -> None:
    annotation_ids, caption_ids = count(1), count(1)
    categories = [
        {"supercategory": SHAPE_FAMILY[shape], "id": number, "name": shape}
        for shape, number in COCO_IDS.items()
    ]
    for split, found in pictures.items():
        head = {
            "info": info_block("COCO 2017", 2017),
            "licenses": LICENSES,
            "images": [_coco_image(picture, split) for picture in found],
        }
        boxed = [fields for picture in found for fields in _coco_annotations(picture)]
        said = [
            {"image_id": picture.id, "id": next(caption_ids), "caption": text}
            for picture in found
            for text in picture.captions
        ]
        instances = {
            **head,
            "annotations": [{**fields, "id": next(annotation_ids)} for fields in boxed],
            "categories": categories,
        }
        folder = plan.out / "coco" / "annotations"
        write_json(folder / f"instances_{split}2017.json", instances)
        write_json(folder / f"captions_{split}2017.json", {**head, "annotations": said})


def _write_images(plan: Plan, split: str, images: int) -> list[Picture]:
    return plan.each(partial(_write_image, plan, split), range(images))


def _write_image(plan: Plan, split: str, index: int) -> Picture:
    kinds = list(product(COLORS, SHAPES))
    rng = picture_rng(plan.seed, f"coco/{split}", index)
    color, shape = kinds[index * 37 % len(kinds)]  # 37 is coprime to their number
    wanted = {"shape": shape}
    if split == "train" and index < len(kinds):  # so that train has every kind at least once
        wanted["color"] = color
    drawing = draw(sample_scene(rng, wanted, CROWD_CHANCE), rng)
    number = 3 * index + (1 if split == "train" else 2)  # with gaps; never the same in both
    name = f"{number:012d}.jpg"
    write_file(plan.out / "coco" / f"{split}2017" / name, jpeg_bytes(drawing.image))
    said = captions(drawing, rng)
    return Picture(number, name, drawing.scene, drawing.instances, drawing.crowd, said)


def _coco_image(picture: Picture, split: str) -> dict:
    return {
        "license": 1,
        "file_name": picture.file_name,
        "coco_url": f"http://images.cocodataset.org/{split}2017/{picture.file_name}",
        "height": picture.scene.height,
        "width": picture.scene.width,
        "date_captured": DATE,
        "flickr_url": "",
        "id": picture.id,
    }


def _coco_annotations(picture: Picture) -> list[dict]:
    found = [
        {**_boxed(instance), "category_id": COCO_IDS[instance.thing.shape]}
        for instance in picture.instances
    ]
    if picture.crowd:
        shape = picture.crowd[0].thing.shape
        found.append({**_boxed_crowd(picture), "category_id": COCO_IDS[shape]})
    return [{**fields, "image_id": picture.id} for fields in found]


def _boxed(instance: Instance) -> dict:
    return {
        "segmentation": instance.polygons,
        "area": instance.area,
        "iscrowd": 0,
        "bbox": list(instance.bbox),
    }


def _boxed_crowd(picture: Picture) -> dict:
    """A crowd is one annotation, its mask in COCO's uncompressed run lengths, column by column."""
    size = [picture.scene.height, picture.scene.width]
    polygons = [polygon for instance in picture.crowd for polygon in instance.polygons]
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    flat = coco_mask.decode(rle).ravel(order="F")
    starts = [*([0] if flat[0] else []), *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = np.diff(starts, prepend=0).tolist()  # background first, so 0 if the first is not
    return {
        "segmentation": {"counts": counts, "size": size},
        "area": float(flat.sum()),
        "iscrowd": 1,
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _lvis_category(thing: ToyObject) -> int:
    return LVIS_IDS[f"{thing.color}_{thing.shape}"]


def _lvis_labeled(picture: Picture) -> list[Instance]:
    return [*picture.instances, *picture.crowd[:LVIS_CROWD_LABELED]]


def _lvis_categories(train: list[Picture]) -> list[dict]:
    """All categories with their counts in train, and the frequency that follows from them.

    LVIS calls a category rare up to 10 of its 100 170 images and common up to 100; here the
    bounds are 1/80 and 1/30 of the images.
    """
    instances: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for picture in train:
        found = [_lvis_category(instance.thing) for instance in _lvis_labeled(picture)]
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
                "def": f"a {shape} whose color is {color}",
                "id": number,
                "synset": f"{name}.n.01",
                "name": name,
                "instance_count": instances[number],
                "frequency": "r" if count <= rare else "c" if count <= common else "f",
            }
        )
    return categories


def _lvis_content(plan: Plan, split: str, pictures: list[Picture], categories: list[dict]) -> dict:
    images: list[dict] = []
    annotations: list[dict] = []
    for picture in pictures:
        labeled = _lvis_labeled(picture)
        present = {_lvis_category(instance.thing) for instance in labeled}
        absent = [number for number in LVIS_IDS.values() if number not in present]
        rng = picture_rng(plan.seed, f"lvis/{split}", picture.id)
        crowd = picture.crowd[LVIS_CROWD_LABELED:]
        image = _coco_image(picture, split)
        del image["file_name"]  # LVIS v1 has only the URL
        image["neg_category_ids"] = sorted(
            rng.choice(absent, LVIS_NEGATIVES, replace=False).tolist()
        )
        image["not_exhaustive_category_ids"] = [_lvis_category(crowd[0].thing)] if crowd else []
        images.append(image)
        for instance in labeled:
            fields = _boxed(instance)
            del fields["iscrowd"]
            fields["category_id"] = _lvis_category(instance.thing)
            annotations.append({**fields, "image_id": picture.id, "id": len(annotations) + 1})
    return {
        "info": info_block("LVIS v1", 2020),
        "licenses": LICENSES,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
