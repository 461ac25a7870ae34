"""Caption scores and the check of data against the number of images."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.scaling.measuring import Part, Subject

REFERENCES = 5
WORDS = 5000
CHECKED = ("coco", "captioning", "pretraining")


def prepare(folder: Path, images: int) -> None:
    """Captions of some ten words by Zipf's law, and one that shares words with the first."""
    import numpy as np

    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, WORDS + 1)
    drawn = rng.choice(WORDS, (images, REFERENCES, 11), p=frequency / frequency.sum())
    texts = [[" ".join(f"w{word}" for word in line) + "." for line in own] for own in drawn]
    captions = [own[0].rsplit(" ", 4)[0] + " w1 w2" for own in texts]
    (folder / "texts.json").write_text(json.dumps([captions, texts]))


def score(folder: Path, size: int) -> Callable[[], object]:
    from virtex.captioning.scoring import score

    captions, references = json.loads((folder / "texts.json").read_text())
    found, expected = dict(enumerate(captions)), dict(enumerate(references))
    return lambda: score(found, expected, "python")


def prepare_root(folder: Path, images: int) -> None:
    """A data root of so many empty image files, with their instances and captions."""
    categories = [{"id": 1, "name": "thing"}]
    (folder / "coco" / "annotations").mkdir(parents=True)
    for split, count in (("train2017", images), ("val2017", 20)):
        (folder / "coco" / split).mkdir()
        listed, instances, captions = [], [], []
        for number in range(1, count + 1):
            name = f"{number:012}.jpg"
            (folder / "coco" / split / name).touch()
            listed.append({"id": number, "file_name": name, "height": 480, "width": 640})
            captions += [
                {"id": REFERENCES * number + at, "image_id": number, "caption": f"thing {at}"}
                for at in range(REFERENCES)
            ]
            box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": []}
            instances.append({"id": number, "image_id": number, "category_id": 1, **box})
        for kind, rows in (("instances", instances), ("captions", captions)):
            content = {"images": listed, "annotations": rows, "categories": categories}
            (folder / "coco" / "annotations" / f"{kind}_{split}.json").write_text(
                json.dumps(content)
            )


def check(tasks: tuple[str, ...], folder: Path, size: int) -> Callable[[], object]:
    from virtex.check_data import check_data

    return lambda: check_data(folder, tasks).as_text()


SUBJECTS = {
    "caption-scores": Subject(
        f"Scores of one caption an image against {REFERENCES}, without Java.",
        "images",
        (6250, 12_500, 25_000, 50_000, 100_000),
        (20, 40),
        prepare,
        {"tokens and scores": Part(score)},
    ),
    "check-data": Subject(
        "check_data.py on a data root of COCO with so many images.",
        "images",
        (6250, 12_500, 25_000, 50_000, 100_000),
        (20, 40),
        prepare_root,
        {"coco, captions": Part(partial(check, CHECKED))},
    ),
}
