"""Detection data sets against the number of their images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scaling.measuring import Part, Subject

OBJECTS = 7  # an image
POINTS = 20  # of a polygon
CLASSES = {"coco": 80, "lvis": 1203}
FILES = {
    "coco": "coco/annotations/instances_{}2017.json",
    "lvis": "lvis/lvis_v1_{}.json",
}


def prepare(folder: Path, images: int) -> None:
    """A training set of so many images and a small test set, COCO's and LVIS'."""
    for name in ("train2017", "val2017"):
        (folder / "coco" / name).mkdir(parents=True)
        (folder / "coco" / name / "000000000001.jpg").touch()
    for task, file in FILES.items():
        for split, count in (("train", images), ("val", 50)):
            path = folder / file.format(split)
            path.parent.mkdir(exist_ok=True)
            write_annotations(path, f"{split}2017", CLASSES[task], count)


def write_annotations(path: Path, split: str, classes: int, images: int) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    categories = [
        {"id": number, "name": f"thing {number}", "frequency": "rcf"[number % 3]}
        for number in range(1, classes + 1)
    ]
    with open(path, "w") as file:
        file.write(f'{{"info": {{}}, "categories": {json.dumps(categories)}, "images": [')
        for image in range(1, images + 1):
            name = f"{image:012}.jpg"
            size = '"height": 480, "width": 640' if image % 3 else '"height": 640, "width": 480'
            file.write(
                f'{"," * (image > 1)}{{"id": {image}, {size}, "file_name": "{name}", '
                f'"coco_url": "http://images/{split}/{name}", "neg_category_ids": [1, 2, 3], '
                '"not_exhaustive_category_ids": []}'
            )
        file.write('], "annotations": [')
        for image in range(1, images + 1):
            boxes = (1 + 400 * rng.random((OBJECTS, 4))).round(2).tolist()
            kinds = (1 + classes * rng.random(OBJECTS) ** 3).astype(int).clip(max=classes).tolist()
            masks = (400 * rng.random((OBJECTS, 1, 2 * POINTS))).round(2).tolist()
            rows = [
                f'{{"id": {OBJECTS * image + at}, "image_id": {image}, "category_id": {kind}, '
                f'"bbox": {box}, "area": 100.5, "iscrowd": 0, "segmentation": {mask}}}'
                for at, (kind, box, mask) in enumerate(zip(kinds, boxes, masks, strict=True))
            ]
            file.write("," * (image > 1) + ",".join(rows))
        file.write("]}")


def settings(task: str) -> Any:
    """Detectron2's defaults with the data and the sampler of a task."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    train, test = {
        "coco": ("coco_2017_train", "coco_2017_val"),
        "lvis": ("lvis_v1_train", "lvis_v1_val"),
    }[task]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (test,)
    if task == "lvis":
        cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
        cfg.DATALOADER.REPEAT_THRESHOLD = 0.001
    return cfg


def before_training(task: str) -> Callable[[Path, int], Callable[[], object]]:
    """All that ``detectron2_transfer.py`` does with the data before its first iteration."""

    def ready(folder: Path, size: int) -> Callable[[], object]:
        from virtex.data.layouts import require_layout
        from virtex.detectron.datasets import (
            describe,
            register_detection_sets,
            test_samples,
            training_samples,
        )
        from virtex.detectron.loading import SeededSamples, build_sampler

        cfg = settings(task)

        def work() -> object:
            require_layout(folder, task)
            register_detection_sets(folder)
            samples, tested = training_samples(cfg), test_samples(cfg)
            describe(cfg.DATASETS.TRAIN[0], folder, samples)
            describe(cfg.DATASETS.TEST[0], folder, tested[cfg.DATASETS.TEST[0]])
            wide = [sample["width"] > sample["height"] for sample in samples]
            first = next(iter(build_sampler(cfg, samples, 0)))
            return SeededSamples(samples, cfg, False), wide, first

        return work

    return ready


SUBJECTS = {
    "datasets": Subject(
        f"What a transfer does with so many training images, {OBJECTS} objects each with a polygon "
        f"of {POINTS} points, before its first iteration: layout, registration, reading, checks, "
        "hash, filtering, grouping, sampler, the array that the workers share.",
        "images",
        (7500, 15_000, 30_000, 60_000, 120_000),
        (50, 100),
        prepare,
        {"COCO": Part(before_training("coco")), "LVIS": Part(before_training("lvis"))},
    )
}
