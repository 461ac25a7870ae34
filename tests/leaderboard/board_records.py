"""Result records of runs that never took place."""

import copy
import hashlib
import json
from pathlib import Path

from virtex.leaderboard.columns import current_version

COCO = "coco_mask_rcnn_R_50_FPN_2x"
LR = ("SOLVER.BASE_LR", 0.02, 0.01, "scaled")
ARCH = {"name": "resnet50", "family": "resnet", "depth": 50, "block": "bottleneck"}
INPUT = {"channel_order": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DATA = {
    "coco": {
        "coco_2017_train": {"images": 118287, "annotations_sha256": "1" * 64},
        "coco_2017_val": {"images": 5000, "annotations_sha256": "2" * 64},
    },
    "voc07_svm": {
        "voc_2007_trainval": {"images": 5011, "annotations_sha256": "3" * 64},
        "voc_2007_test": {"images": 4952, "annotations_sha256": "4" * 64},
    },
    "imagenet_linear": {
        "imagenet_train": {"images": 1281167, "annotations_sha256": "5" * 64},
        "imagenet_val": {"images": 50000, "annotations_sha256": "6" * 64},
    },
}
METRICS = {
    "coco": {"bbox/AP": 39.0, "bbox/AP50": 59.0, "segm/AP": 35.0, "segm/APs": None},
    "voc07_svm": {"mAP": 88.0, "AP/cat": 90.0, "AP/dog": 89.0},
    "imagenet_linear": {"top1": 50.0, "top5": 75.0},
}
PRIMARY = {"coco": "bbox/AP", "voc07_svm": "mAP", "imagenet_linear": "top1"}
PROTOCOL = {"coco": COCO, "voc07_svm": "paper", "imagenet_linear": "paper"}
MOVED = ("bbox/AP", "segm/AP", "mAP", "top1", "top5")  # by ``value``
ENVIRONMENT = {
    "virtex": "2.0", "python": "3.11.7", "torch": "2.6.0", "device": "cuda", "processes": 8,
    "gpus": ["H100"], "scorer": "hotcoco", "detectron2": {"version": "0.6", "distribution": "own"},
}  # fmt: skip


def sha256_of(name):
    return hashlib.sha256(name.encode()).hexdigest()


def record(
    name="moco_v2.pth",
    task="voc07_svm",
    value=None,
    *,
    seed=0,
    protocol=None,
    version=None,
    overrides=(),
    created="2026-01-02T03:04:05+00:00",
    sha256=None,
    format="moco",
    **changes,
):
    """Return a record of schema 2.

    Args:
        value: of the primary metric.
        version: of the protocol; default: the current one.
        overrides: (key, protocol, run, reason) each.
        changes: top-level keys to replace.
    """
    metrics = dict(METRICS.get(task, {"score": 50.0}))
    primary = PRIMARY.get(task, "score")
    if value is not None:
        moved = value - metrics[primary]
        metrics |= {key: metrics[key] + moved for key in metrics if key in MOVED}
        metrics[primary] = value
    keys = ("key", "protocol", "run", "reason")
    protocol_name = protocol or PROTOCOL.get(task, "own")
    made = {
        "schema_version": 2,
        "task": task,
        "protocol": {
            "name": protocol_name,
            "version": version or current_version(task, protocol_name),
            "overrides": [dict(zip(keys, override, strict=True)) for override in overrides],
        },
        "metrics": metrics,
        "primary_metric": primary,
        "higher_is_better": True,
        "model": {
            "name": name,
            "source": f"/models/{name}",
            "sha256": sha256 or sha256_of(name),
            "format": format,
            "arch": ARCH,
            "input": INPUT,
            "coverage": {"complete": True},
            "notes": [],
        },
        "data": DATA.get(task, {}),
        "verification": {},
        "details": {},
        "seed": seed,
        "environment": ENVIRONMENT,
        "timing": {"train_seconds": 1.0},
        "notes": [],
        "created": created,
    }
    return copy.deepcopy(made | changes)


def write(folder: Path, *records) -> Path:
    """Write one ``result.json`` per record in folders 000, 001, …; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(records, len(list(folder.iterdir()))):
        path = folder / f"{number:03}" / "result.json"
        path.parent.mkdir()
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        path.write_text(text, encoding="utf-8")
    return folder
