"""Generate a COCO dataset with images of realistic size and file size.

Images are 640 x 480 pixels, every third in portrait orientation, with 1/f noise as texture, so that
a JPEG file has about 150 KB as in COCO. Each has seven objects with ten-point polygons, from 80
categories, and five captions whose words follow Zipf's law.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import usable_cores

SIDES = (640, 480)
OBJECTS, CORNERS, KINDS, CAPTIONS = 7, 10, 80, 5
QUALITY = 84
VOCABULARY, WORDS, SPREAD = 10_000, 10.5, 2.4  # words; of a caption of COCO, and their deviation


def texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) uint8 noise with a 1/f spectrum and similar channels."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.sqrt(rows**2 + columns**2)
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * random.random(frequency.shape))
        plane = np.fft.irfft2(phases / frequency, s=(height, width))
        planes.append(plane / plane.std())
    grey, *others = planes
    channels = [grey + 0.4 * other for other in (*others, -others[0])]
    return (120 + 50 * np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)


def polygons(random: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Return polygons (corners, 2) of x, y; objects are 1/15 to 1/2 of the image wide."""
    found = []
    for _ in range(OBJECTS):
        radius = min(height, width) * np.exp(random.uniform(np.log(1 / 30), np.log(1 / 4)))
        center = random.uniform(radius, [width - radius, height - radius])
        angles = np.sort(random.uniform(0, 2 * np.pi, CORNERS))
        radii = radius * random.uniform(0.6, 1.0, CORNERS)
        found.append(center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return found


def write_image(folder: Path, seed: int, index: int) -> tuple[int, int, list[list[float]]]:
    """Write an image; return its height, width and the polygons of its objects."""
    random = np.random.default_rng([seed, index])
    width, height = SIDES if index % 3 else SIDES[::-1]
    image, outlines = texture(random, height, width), polygons(random, height, width)
    for outline in outlines:
        color = random.integers(0, 256, 3)
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
        blend = 0.5 * image + 0.5 * color
        image = np.where(mask[..., None] == 1, blend, image).astype(np.uint8)
    path = str(folder / f"{index + 1:012}.jpg")
    cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return height, width, [outline.round(2).ravel().tolist() for outline in outlines]


def write_images(folder: Path, count: int, seed: int = 0) -> list[tuple]:
    """Write ``count`` images, starting with 000000000001.jpg; return sizes and polygons."""
    folder.mkdir(parents=True)
    write = partial(write_image, folder, seed)
    if count < 50:
        return [write(index) for index in range(count)]
    # spawned: a parent that has used a GPU cannot be forked
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        return list(pool.map(write, range(count), chunksize=8))


def write_coco(root: Path, count: int, val: int = 4) -> None:
    """Write images, objects and captions of train2017 and val2017 to ``root/coco``."""
    random = np.random.default_rng(0)
    words = vocabulary(random)
    (root / "coco" / "annotations").mkdir(parents=True)
    for seed, (split, images) in enumerate({"train": count, "val": val}.items()):
        drawn = write_images(root / "coco" / f"{split}2017", images, seed)
        drawn_captions = iter(sentences(random, words, images * CAPTIONS))
        content = {
            "images": [
                {"id": n, "file_name": f"{n:012}.jpg", "height": height, "width": width}
                for n, (height, width, _) in enumerate(drawn, start=1)
            ]
        }
        objects = [
            {"image_id": n, "category_id": int(random.integers(1, KINDS + 1)), **outlined(outline)}
            for n, (_, _, outlines) in enumerate(drawn, start=1)
            for outline in outlines
        ]
        captions = [
            {"image_id": n, "caption": " ".join(next(drawn_captions))}
            for n in range(1, images + 1)
            for _ in range(CAPTIONS)
        ]
        kinds = [{"id": n, "name": f"kind {n}"} for n in range(1, KINDS + 1)]
        write_annotations(root, f"instances_{split}2017", objects, content | {"categories": kinds})
        write_annotations(root, f"captions_{split}2017", captions, content)


def outlined(outline: list[float]) -> dict:
    """Return an object in COCO's format."""
    corners = np.array(outline).reshape(-1, 2)
    least, size = corners.min(axis=0), np.ptp(corners, axis=0)
    x, y = corners.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    box = [*least.tolist(), *size.tolist()]
    return {"segmentation": [outline], "bbox": box, "area": float(area), "iscrowd": 0}


def write_annotations(root: Path, name: str, annotations: Sequence[dict], content: dict) -> None:
    numbered = [{"id": n, **fields} for n, fields in enumerate(annotations, start=1)]
    path = root / "coco" / "annotations" / f"{name}.json"
    path.write_text(json.dumps({**content, "annotations": numbered}))


# Sentences ---------------------------------------------------------------------------------------


def vocabulary(random: np.random.Generator) -> np.ndarray:
    """Return distinct words of 1 to 5 syllables, short and frequent ones first."""
    syllables = np.array([a + b for a in "bcdfglmnprst" for b in "aeiou"])
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        longest = 1 + min(len(words).bit_length() // 3, 4)
        words["".join(random.choice(syllables, random.integers(1, longest + 1)))] = None
    return np.array(list(words))


def sentences(random: np.random.Generator, words: np.ndarray, count: int) -> list[list[str]]:
    """Yield tokenized sentences; the n-th word has probability proportional to 1 / n."""
    frequency = 1 / np.arange(1, len(words) + 1)
    lengths = random.normal(WORDS, SPREAD, count).round().clip(3, 40).astype(int)
    drawn = random.choice(words, lengths.sum(), p=frequency / frequency.sum())
    return [part.tolist() for part in np.split(drawn, lengths.cumsum()[:-1])]
