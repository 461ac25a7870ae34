"""The leaderboard against the number of records."""

import hashlib
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.scaling.measuring import Part, Subject

DETECTION = [f"{kind}/AP{which}" for kind in ("bbox", "segm") for which in ("", *"sml", 50, 75)]
METRICS = {
    "coco": DETECTION,
    "lvis": DETECTION,
    "voc07_svm": ["mAP", *(f"AP/class {number:02}" for number in range(20))],
    "imagenet_linear": ["top1", "top5", "mean_per_class"],
    "inaturalist": ["top1", "top5", "mean_per_class"],
}
STAGES = {name: {"expected": 60, "loaded": 60, "missing": []} for name in ("stem", "res5")}
FILES = {"--output": "board.csv", "--markdown": "board.md", "--html": "b.html", "--plot": "b.png"}


def write_models(folder: Path, count: int) -> None:
    """Two seeds of five tasks of so many models as that takes, two of five under deviations."""
    for number in range(count):
        run, seed = divmod(number, 2)
        model, place = divmod(run, len(METRICS))
        rates = (0.01,) if model % 5 < 2 else ()
        write_record(folder, number, model, list(METRICS)[place], seed, rates)


def write_settings(folder: Path, count: int) -> None:
    """Each model under settings of its own: as many columns as there are rows."""
    for number in range(count):
        write_record(folder, number, number // 5, "coco", 0, (number // 5, number % 5))


def write_record(
    folder: Path, number: int, model: int, task: str, seed: int, rates: tuple[float, ...]
) -> None:
    from virtex.leaderboard.columns import TASKS
    from virtex.records import SCHEMA_VERSION

    protocol, primary = TASKS[task]
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "task": task,
        "protocol": {
            "name": protocol,
            "version": "1",
            "deviations": [
                {"key": f"SOLVER.RATE_{at}", "protocol": 0.02, "run": rate, "reason": "override"}
                for at, rate in enumerate(rates)
            ],
        },
        "metrics": {
            name: (number * 37 + at * 11) % 9973 / 100 for at, name in enumerate(METRICS[task])
        },
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
        "seed": seed,
        "environment": {"python": "3.11.7", "torch": "2.14.1", "platform": "Linux"},
        "timing": {"train_seconds": 1.0},
        "notes": [],
        "created": "2026-01-01T00:00:00+00:00",
    }
    path = folder / "results" / f"model_{model:06}" / f"{task}_{number}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record, indent=1))


def tool(flags: tuple[str, ...], folder: Path, size: int) -> Callable[[], object]:
    """What ``eval_tools/leaderboard.py`` does with these of ``FILES``, or with other flags."""
    from virtex.eval_tools.leaderboard import build_parser, main

    line = [str(folder / "results")]
    for flag in flags:
        line += [flag, str(folder / FILES[flag])] if flag in FILES else [flag]
    args = build_parser().parse_args(line)

    def work() -> None:
        with open(folder / "stdout", "w") as file, redirect_stdout(file):
            main(args)

    return work


PARTS = {
    "table": Part(partial(tool, ())),
    "CSV": Part(partial(tool, ("--output",))),
    "long CSV": Part(partial(tool, ("--output", "--long"))),
    "page": Part(partial(tool, ("--html",))),
    "all four": Part(partial(tool, tuple(FILES))),
}
SUBJECTS = {
    "leaderboard": Subject(
        "The leaderboard's command on so many records: five tasks and two seeds a model.",
        "records",
        (6250, 12_500, 25_000, 50_000, 100_000),
        (20, 40),
        write_models,
        PARTS,
    ),
    "leaderboard-settings": Subject(
        "The same where every run deviates from the protocol in its own way, so that each model "
        "has columns that no other has. The CSV and the table have a place for each row in each "
        "column, which cannot be linear: they are left out.",
        "records",
        (500, 1000, 2000, 4000),
        (20, 40),
        write_settings,
        {
            "long CSV": Part(partial(tool, ("--output", "--long"))),
            "page": Part(partial(tool, ("--html",))),
        },
    ),
}
