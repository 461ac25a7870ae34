#!/usr/bin/env python3
"""Measure the time to build the leaderboard for growing numbers of records.

Writes records like those of the tools (five tasks and two seeds per model, some with overrides),
then runs ``eval_tools/leaderboard.py``: first the CSV only, then all outputs.

examples:
  python benchmarks/leaderboard.py
  python benchmarks/leaderboard.py 1000 10000
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure

ROOT = Path(__file__).resolve().parent.parent

DETECTION = [f"{kind}/AP{which}" for kind in ("bbox", "segm") for which in ("", *"sml", 50, 75)]
CLASSIFICATION = ["top1", "top5", "mean_per_class"]
TASKS = {  # task -> protocol, primary metric, metrics
    "coco": ("2x", "bbox/AP", DETECTION),
    "lvis": ("2x", "bbox/AP", DETECTION),
    "voc07_svm": ("paper", "mAP", ["mAP", *(f"AP/class {n:02}" for n in range(20))]),
    "imagenet_linear": ("paper", "top1", CLASSIFICATION),
    "inaturalist": ("paper", "top1", CLASSIFICATION),
}
STAGES = {name: {"expected": 60, "loaded": 60, "missing": []} for name in ("stem", "res5")}


def write_record(folder: Path, number: int) -> None:
    """Write one record: two seeds of five tasks, two models of five with an override."""
    model, place = divmod(number // 2, len(TASKS))
    task = list(TASKS)[place]
    protocol, primary, metrics = TASKS[task]
    override = {"key": "SOLVER.RATE", "protocol": 0.02, "run": 0.01, "reason": "override"}
    record = {
        "schema_version": 2,
        "task": task,
        "protocol": {"name": protocol, "version": "1", "overrides": [override] * (model % 5 < 2)},
        "metrics": {name: (number * 37 + i * 11) % 9973 / 100 for i, name in enumerate(metrics)},
        "primary_metric": primary,
        "higher_is_better": True,
        "model": {
            "name": f"models/method_{model:06}.pth",
            "sha256": hashlib.sha256(str(model).encode()).hexdigest(),
            "format": "torchvision",
            "arch": {"name": "resnet50", "family": "resnet", "depth": 50},
            "input": {"channel_order": "RGB", "mean": [0.485, 0.456, 0.406]},
            "coverage": {"complete": True, "stages": STAGES},
        },
        "data": {f"{task}_val": {"images": 5000, "annotations_sha256": "0" * 64}},
        "verification": {},
        "seed": number % 2,
        "environment": {"python": "3.11.7", "torch": "2.14.1", "platform": "Linux"},
        "timing": {"train_seconds": 1.0},
        "notes": [],
        "created": "2026-01-01T00:00:00+00:00",
    }
    path = folder / f"model_{model:06}" / f"{task}_{number}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record, indent=1))


def measure_count(count: int, args: argparse.Namespace) -> list[measure.Row]:
    """Time both commands on ``count`` records."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            write_record(folder / "results", number)
        command = [sys.executable, str(ROOT / "eval_tools" / "leaderboard.py")]
        command += [str(folder / "results"), "--output", str(folder / "out.csv")]
        outputs = {"--markdown": "out.md", "--html": "out.html", "--plot": "out.png"}
        more = [word for flag, file in outputs.items() for word in (flag, str(folder / file))]

        def seconds(words: list[str]) -> Callable[[], float]:
            return measure.timed(lambda: subprocess.run(words, check=True, capture_output=True))

        return [
            measure.alone(f"leaderboard of {count} records, {what}", seconds(words), args)
            for what, words in (("CSV", command), ("CSV, page and chart", [*command, *more]))
        ]


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    parser.add_argument("counts", nargs="*", type=int, help="default: 2500 5000 10000 20000")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = measure.parse(build_parser(), argv)
    counts = [20] if args.quick else args.counts or [2500, 5000, 10000, 20000]
    measure.write_rows([row for count in counts for row in measure_count(count, args)], args)


if __name__ == "__main__":
    main()
