"""COCO and LVIS scores against the number of images."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.scaling.measuring import Part, Subject

PARTS_OF_MASKS = 500  # different masks, so that drawing them takes no time


def prepare(style: str, classes: int, found: int, folder: Path, images: int) -> None:
    """Annotations (7 objects an image) and so many detections an image, half of them near one."""
    import numpy as np

    rng = np.random.default_rng(0)
    objects = [draw(rng, classes, 7) for _ in range(images)]
    write_annotations(folder / "truth.json", style, classes, objects, rng)
    counts = masks(rng)
    with open(folder / "found.json", "w") as file:
        file.write("[")
        for image, (boxes, kinds) in enumerate(objects, 1):
            own, names = draw(rng, classes, found)
            near = rng.integers(len(kinds), size=found)
            moved = rng.random(found) < 0.1
            own[moved] = (boxes[near] + rng.normal(0, 4, (found, 4))).clip(1)[moved]
            names[moved] = kinds[near][moved]
            scores = rng.random(found)
            rows = [
                f'{{"image_id": {image}, "category_id": {name}, "bbox": {box}, "score": {score}, '
                f'"segmentation": {{"size": [480, 640], "counts": {counts[name % len(counts)]}}}}}'
                for name, box, score in zip(
                    names.tolist(), own.round(3).tolist(), scores.tolist(), strict=True
                )
            ]
            file.write(("," if image > 1 else "") + ",".join(rows))
        file.write("]")


def draw(rng: Any, classes: int, count: int) -> tuple[Any, Any]:
    """Boxes (count, 4) x, y, width, height in a picture of 640 x 480, and category ids."""
    import numpy as np

    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([640, 480]) - sides).clip(1)
    kinds = 1 + (classes * rng.random(count) ** 3).astype(int)  # some are frequent, most are rare
    return np.hstack([corners, sides]), kinds


def masks(rng: Any) -> list[str]:
    """Run-length encodings of rectangles, as JSON text."""
    import numpy as np
    from pycocotools import mask

    boxes, _ = draw(rng, 1, PARTS_OF_MASKS)
    polygons = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for x, y, w, h in boxes.tolist()]
    encoded = [mask.frPyObjects(polygon, 480, 640)[0]["counts"].decode() for polygon in polygons]
    assert np.all([len(counts) for counts in encoded])
    return [json.dumps(counts) for counts in encoded]


def write_annotations(
    path: Path, style: str, classes: int, objects: list[tuple[Any, Any]], rng: Any
) -> None:
    annotations, images = [], []
    for image, (boxes, kinds) in enumerate(objects, 1):
        images.append(
            {
                "id": image, "height": 480, "width": 640, "file_name": f"{image:012}.jpg",
                "coco_url": f"http://x/val2017/{image:012}.jpg", "not_exhaustive_category_ids": [],
                "neg_category_ids": sorted(set((1 + rng.integers(classes, size=10)).tolist())),
            }
        )  # fmt: skip
        for (x, y, w, h), kind in zip(boxes.tolist(), kinds.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": kind,
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )  # fmt: skip
    categories = [
        {"id": number, "name": f"thing {number}", "frequency": "rcf"[number % 3]}
        for number in range(1, classes + 1)
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def score(
    style: str, kind: str, scorer: str | None, folder: Path, size: int
) -> Callable[[], object]:
    """From rows in memory, as an evaluation has them."""
    from virtex.detectron.scoring import score_detections

    rows = json.loads((folder / "found.json").read_text())
    return lambda: score_detections(folder / "truth.json", rows, [kind], style, scorer)


def write(folder: Path, size: int) -> Callable[[], object]:
    from virtex.detectron.scoring import write_detections

    rows = json.loads((folder / "found.json").read_text())
    return lambda: write_detections(folder / "written.json", rows)


SUBJECTS = {
    "lvis-scores": Subject(
        "LVIS scores of so many images, 300 detections each, of 1203 classes; the detections' "
        "rows are in memory before, as after an evaluation. The reference is lvis-api, as far as "
        "it comes in the time.",
        "images",
        (1250, 2500, 5000, 10_000, 20_000),
        (4, 8),
        partial(prepare, "lvis", 1203, 300),
        {
            "boxes": Part(partial(score, "lvis", "bbox", "hotcoco")),
            "masks": Part(partial(score, "lvis", "segm", "hotcoco"), largest=5000),
            "written": Part(write),
            "boxes, reference": Part(
                partial(score, "lvis", "bbox", "reference"), largest=5000, judged=False
            ),
        },
    ),
    "coco-scores": Subject(
        "COCO scores of so many images, 100 detections each, of 80 classes. The reference is "
        "pycocotools.",
        "images",
        (1250, 2500, 5000, 10_000),
        (4, 8),
        partial(prepare, "coco", 80, 100),
        {
            "boxes": Part(partial(score, "coco", "bbox", "hotcoco")),
            "masks": Part(partial(score, "coco", "segm", "hotcoco")),
            "boxes, reference": Part(
                partial(score, "coco", "bbox", "reference"), largest=5000, judged=False
            ),
        },
    ),
}
