"""Ground truth and detections as no careful annotator or detector would write them, at random."""

import random
from collections import defaultdict

import numpy as np
import pycocotools.mask

HEIGHT, WIDTH = 64, 80
ODDITIES = (
    *("area 0", "negative area", "huge area", "crowd", "ignored", "empty object", "empty mask"),
    *("flat box", "negative box", "ties", "two points", "odd polygon", "RLE", "listed twice"),
    *("unknown class", "many", "perfect"),
)
AREAS = {"area 0": 0, "negative area": -5, "huge area": 1e11}


def encoded(mask):
    return {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode()}


def draw_case(seed):
    """Return the content of an annotation file for COCO and LVIS, and rows of detections.

    Each oddity is absent from two thirds of the cases and strikes three of ten items in the rest.
    """
    rng = random.Random(seed)
    odd = defaultdict(float, {name: rng.choice([0, 0, 0.3]) for name in ODDITIES})

    def hit(name):
        return rng.random() < odd[name]

    def rle(empty=False):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        y, x = rng.randrange(HEIGHT - 8), rng.randrange(WIDTH - 8)
        mask[y : y + rng.randint(1, 50), x : x + rng.randint(1, 60)] = not empty
        return encoded(pycocotools.mask.encode(mask))

    def score():
        return rng.choice([0.3, 0.5, 0.7]) if hit("ties") else rng.random()

    classes = rng.sample(range(9), rng.randint(1, 4))
    categories = [{"id": n, "name": f"c{n}", "frequency": rng.choice("rcf")} for n in classes]
    images, annotations, rows = [], [], []
    for number in rng.sample(range(50), rng.randint(1, 4)):
        negative = rng.sample(classes, rng.randint(0, len(classes)))
        images.append(
            {
                **{"id": number, "height": HEIGHT, "width": WIDTH, "file_name": f"{number}.jpg"},
                "coco_url": f"http://x/val2017/{number}.jpg",
                "neg_category_ids": negative * (2 if hit("listed twice") else 1),
                "not_exhaustive_category_ids": rng.sample(classes, rng.randint(0, len(classes))),
            }
        )
        for _ in range(rng.choice([0, 1, 2, 4, 6])):
            x, y = rng.uniform(-5, WIDTH), rng.uniform(-5, HEIGHT)
            w, h = rng.uniform(0, 50), rng.uniform(0, 40)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            mask = [polygon]
            if hit("two points"):
                mask = [[x, y, w, h]]  # read as a box by pycocotools
            if hit("odd polygon"):
                mask = rng.choice([[[*polygon, 3.0]], [polygon, [1.0, 2.0, 30.0, 4.0]]])
            if hit("RLE") or odd["empty object"]:
                mask = rle(hit("empty object"))
            areas = [area for name, area in AREAS.items() if hit(name)]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": number},
                    **{"category_id": rng.choice(classes), "bbox": [x, y, w, h]},
                    **{"area": areas[0] if areas else w * h, "segmentation": mask},
                    **({"ignore": 1} if hit("ignored") else {}),
                    "iscrowd": rng.choice([1, True]) if hit("crowd") else 0,
                }
            )
            for _ in range(rng.choice([0, 1, 1, 2])):
                near = polygon if hit("perfect") else [v + rng.gauss(0, 2) for v in polygon]
                found = pycocotools.mask.frPyObjects([near], HEIGHT, WIDTH)
                sides = max(near[2] - near[0], 0.1), max(near[5] - near[1], 0.1)
                own = rng.random() < 0.8
                rows.append(
                    {
                        "image_id": number,
                        "category_id": annotations[-1]["category_id"] if own else classes[0],
                        "bbox": [*near[:2], *sides],
                        "score": score(),
                        "segmentation": encoded(pycocotools.mask.merge(found)),
                    }
                )
        for _ in range(350 if hit("many") else rng.choice([0, 1, 3])):
            corner = [rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)]
            rows.append(
                {
                    **{"image_id": number, "category_id": rng.choice(classes)},
                    "bbox": [*corner, rng.uniform(0.1, 40), rng.uniform(0.1, 40)],
                    **{"score": score(), "segmentation": rle()},
                }
            )
    for row in rows:
        if hit("empty mask"):
            row["segmentation"] = rle(empty=True)
        if hit("flat box"):
            row["bbox"][rng.choice([2, 3])] = 0.0
        if hit("negative box"):
            row["bbox"][rng.choice([2, 3])] *= -1
        if hit("unknown class"):
            row["category_id"] = 77
    rng.shuffle(rows)
    return {"images": images, "annotations": annotations, "categories": categories}, rows


def add_keypoints(content, rows, seed, number=17):
    """Add keypoints to a case: of objects in their boxes, of detections near those of an object."""
    rng = random.Random(seed)
    odd = {name: rng.choice([0, 0, 0.3]) for name in ("unlabeled", "wrong count", "perfect")}
    objects = defaultdict(list)  # image id -> keypoints of its objects
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        labels = rng.choices([0, 1, 2], k=number)
        if rng.random() < odd["unlabeled"]:
            labels = [0] * number
        points = [(round(x + rng.random() * w), round(y + rng.random() * h)) for _ in labels]
        pairs = zip(points, labels, strict=True)
        keypoints = [n for point, v in pairs for n in ((*point, v) if v else (0, 0, 0))]
        objects[annotation["image_id"]].append(keypoints)
        labeled = sum(v > 0 for v in labels)
        if rng.random() < odd["wrong count"]:
            labeled = rng.choice([0, 3, number])
        annotation |= {"keypoints": keypoints, "num_keypoints": labeled}
    for row in rows:
        anywhere = [rng.uniform(0, WIDTH) for _ in range(3 * number)]
        near = rng.choice([*objects[row["image_id"]], anywhere])
        spread = 0 if rng.random() < odd["perfect"] else rng.choice([1, 4])
        row["keypoints"] = [
            rng.random() if i % 3 == 2 else n + rng.gauss(0, spread) for i, n in enumerate(near)
        ]
