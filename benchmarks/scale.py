#!/usr/bin/env python3
"""Measure how time and memory grow with the size of the input.

Each measurement runs in its own process. The table has the seconds, the peak resident memory that
the work added, and the slope of log(seconds) over log(size) for the upper half of the sizes: 1 for
linear growth, about 1.1 for n log n. Exit status 1: a slope is above 1.15. Use a quiet machine.

examples:
  python benchmarks/scale.py --output scale.md   # everything
  python benchmarks/scale.py leaderboard --sizes 1000 2000 4000
  python benchmarks/scale.py --quick             # tiny sizes, to check that everything runs
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.images import sentences, vocabulary

MAX_SLOPE = 1.15  # n log n has a slope of 1.1 at these sizes
MIN_SECONDS = 0.25  # of the largest size; below, constant costs dominate
DIMENSIONS = 2048

Work = Callable[[], object]


# Inputs and work --------------------------------------------------------------------------------


def load_checkpoint(folder: Path, megabytes: int) -> Work:
    """Load a checkpoint file of the given size, including 45 MB of ResNet-18 weights."""
    import torch
    import torchvision

    from virtex.checkpoints.loading import load_backbone

    weights = torchvision.models.resnet18().state_dict()
    for index in range(max(megabytes - 45, 0) // 16):
        weights[f"decoder.{index}.weight"] = torch.zeros(4_000_000)
    torch.save(weights, folder / "checkpoint.pth")
    del weights
    return lambda: load_backbone(folder / "checkpoint.pth")


def fit_svms(folder: Path, images: int) -> Work:
    """Fit 20 SVMs at 4 costs with 3 folds on 512 features."""
    import torch

    from virtex.probes.svm import cross_validate
    from virtex.probes.svm_solver import fit_svms

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, 512, generator=generator).clamp(min=0)
    features = torch.nn.functional.normalize(features, dim=1)
    targets = torch.where(torch.rand(images, 20, generator=generator) < 0.1, 1, -1)
    return lambda: cross_validate(fit_svms, features, targets, (0.01, 0.1, 1, 10), 3, 2.0)


def standardize_features(folder: Path, images: int) -> Work:
    """Compute mean and standard deviation of 2048 memory-mapped features."""
    from virtex.probes.cached_probe import compute_moments

    path = folder / "features.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (images, DIMENSIONS))
    part = np.random.default_rng(0).standard_normal((8192, DIMENSIONS), dtype=np.float32)
    for first in range(0, images, len(part)):
        rows[first : first + len(part)] = part[: images - first]
    rows.flush()
    features = np.load(path, mmap_mode="r")
    return lambda: compute_moments([features], np.arange(images))


def score_detections(style: str, classes: int, per_image: int, folder: Path, images: int) -> Work:
    """Score boxes: 7 objects per image and many detections, mostly false positives."""
    from virtex.detectron.ground_truth import scorable_json
    from virtex.detectron.scoring import score_detections

    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes (count, 4) as x, y, width, height in 640 x 480 pixels, and category ids."""
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        corners = rng.random((count, 2)) * (np.array([640, 480]) - sides).clip(1)
        return np.hstack([corners, sides]), 1 + (classes * rng.random(count) ** 3).astype(int)

    listed, annotations, detections = [], [], []
    for image in range(1, images + 1):
        size = {"height": 480, "width": 640, "file_name": f"{image:012}.jpg"}
        negative = {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": []}
        url = f"http://images/val2017/{image:012}.jpg"
        listed.append({"id": image, **size, **negative, "coco_url": url})
        boxes, categories = draw(7)
        for box, category in zip(boxes.tolist(), categories.tolist(), strict=True):
            x, y, w, h = box
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
            row |= {"bbox": box, "area": w * h, "iscrowd": 0}
            annotations.append(row | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
        found, found_categories = draw(per_image)
        near = rng.random(per_image) < 0.1
        found[near] = boxes[rng.integers(7, size=near.sum())]
        detections += [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(
                found_categories.tolist(),
                found.tolist(),
                rng.random(per_image).tolist(),
                strict=True,
            )
        ]
    names = [
        {"id": n, "name": f"class {n}", "frequency": "rcf"[n % 3]} for n in range(1, classes + 1)
    ]
    content = {"info": {}, "images": listed, "annotations": annotations, "categories": names}
    truth = scorable_json(content, style)
    return lambda: score_detections(truth, detections, ["bbox"], style, "hotcoco")


def score_captions(folder: Path, images: int) -> Work:
    """Score one caption per image against 5 references, without Java."""
    from virtex.captioning.scoring import score

    rng = np.random.default_rng(0)
    drawn = [" ".join(words) + "." for words in sentences(rng, vocabulary(rng), 5 * images)]
    references = {image: drawn[5 * image : 5 * image + 5] for image in range(images)}
    captions = {image: own[0].rsplit(" ", 3)[0] for image, own in references.items()}
    return lambda: score(captions, references, "python")


def write_records(folder: Path, count: int) -> None:
    """Write ``size`` records: five tasks and two seeds per model."""
    from benchmarks.leaderboard import write_record

    for number in range(count):
        write_record(folder, number)


def make_leaderboard(folder: Path, records: int) -> Work:
    """Write the CSV file and the page of ``size`` records."""
    from virtex.eval_tools.leaderboard import build_parser, main

    write_records(folder / "results", records)
    files = ("--output", str(folder / "board.csv"), "--html", str(folder / "board.html"))
    args = build_parser().parse_args([str(folder / "results"), *files])

    def work() -> None:
        with open(folder / "stdout", "w") as file, redirect_stdout(file):
            main(args)

    return work


@dataclass(frozen=True)
class Subject:
    """A measured operation: ``prepare(folder, size)`` returns the function to time."""

    prepare: Callable[[Path, int], Work]
    unit: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


IMAGES = (1250, 2500, 5000, 10_000)
SUBJECTS = {
    "checkpoint": Subject(load_checkpoint, "MB", (256, 512, 1024, 2048), (50, 70)),
    "svm": Subject(fit_svms, "images", (2500, 5000, 10_000, 20_000), (60, 90)),
    "features": Subject(standardize_features, "images", (162_500, 325_000, 650_000), (300, 600)),
    "coco-scores": Subject(partial(score_detections, "coco", 80, 100), "images", IMAGES, (4, 8)),
    "lvis-scores": Subject(partial(score_detections, "lvis", 1203, 300), "images", IMAGES, (4, 8)),
    "caption-scores": Subject(score_captions, "images", (12_500, 25_000, 50_000), (20, 40)),
    "leaderboard": Subject(make_leaderboard, "records", (6250, 12_500, 25_000, 50_000), (20, 40)),
}


# Measuring --------------------------------------------------------------------------------------


def measure(name: str, size: int, folder: str | None) -> tuple[float, float]:
    """Return seconds and the increase of peak resident memory in MB."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="scale-") as temporary:
        work = SUBJECTS[name].prepare(Path(temporary), size)
        before, start = peak_memory(), time.perf_counter()
        work()
        return time.perf_counter() - start, peak_memory() - before


def peak_memory() -> float:
    """Return the peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Return the slope over the upper half of the sizes; None if the times are too short."""
    upper = slice(len(sizes) // 2 - (len(sizes) > 2), None)
    if len(sizes) < 3 or max(seconds) < MIN_SECONDS:
        return None
    return float(np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0])


def table(name: str, sizes: Sequence[int], rows: Sequence[tuple[float, float]]) -> tuple[str, bool]:
    """Return the Markdown of one subject, and whether its growth is acceptable."""
    subject, slope = SUBJECTS[name], growth(sizes, [seconds for seconds, _ in rows])
    lines = [f"## {name}", "", f"| {subject.unit} | seconds | memory |", "| ---: | ---: | ---: |"]
    for size, (seconds, memory) in zip(sizes, rows, strict=True):
        lines.append(f"| {size} | {seconds:.3f} | {memory:.0f} MB |")
    lines += ["", "slope: " + ("too fast to tell" if slope is None else f"{slope:.2f}"), ""]
    return "\n".join(lines), slope is None or slope <= MAX_SLOPE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"default: all of {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="instead of the default")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the tables here")
    parser.add_argument("--folder", metavar="DIR", help="for temporary input (default: /tmp)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if unknown := set(args.subjects) - SUBJECTS.keys():
        parser.error(f"unknown subject {unknown.pop()}; choose from {', '.join(SUBJECTS)}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    texts, acceptable = [f"{os.cpu_count()} cores, {memory:.0f} GB of memory\n"], True
    for name in args.subjects or SUBJECTS:
        sizes = args.sizes or (SUBJECTS[name].quick if args.quick else SUBJECTS[name].sizes)
        rows = []
        for size in sizes:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                rows.append(pool.submit(measure, name, size, args.folder).result())
        text, is_acceptable = table(name, sizes, rows)
        texts.append(text)
        acceptable &= is_acceptable
        print(text, flush=True)
    if args.output:
        args.output.write_text("\n".join(texts))
    return 0 if acceptable else 1


if __name__ == "__main__":
    sys.exit(main())
