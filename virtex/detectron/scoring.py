"""Average precision of boxes and masks (COCO, LVIS) and of keypoints (COCO).

Scored by hotcoco (Rust) if it is installed, else by pycocotools and lvis. The results agree within
1e-9, on odd ground truth and detections too (tests/detectron/test_scoring.py).
"""

import contextlib
import copy
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pycocotools.mask

from virtex.files import replace_file

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")  # small objects have no keypoints
LVIS_METRICS = (*COCO_METRICS, "APr", "APc", "APf")
METRICS = {"keypoints": KEYPOINT_METRICS}  # kinds with metrics of their own
LVIS_MAX_DETECTIONS = 300  # per image
ROWS_PER_WRITE = 10_000

Rows = list[dict[str, Any]]
Metrics = dict[str, float]
ScorerOutput = tuple[Metrics, np.ndarray]  # see coco_reference


class Scores(NamedTuple):
    """Average precision in percent; NaN where there is no ground truth.

    Attributes:
        metrics: ``{"bbox/AP": …}``, over all classes.
        per_class: ``{"bbox/AP": …, "bbox/AP50": …}`` of each class, by ascending category id.
    """

    metrics: Metrics
    per_class: list[Metrics]


def default_scorer() -> str:
    """Return ``"hotcoco"`` if it can be imported, else ``"reference"``."""
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return "reference"
    return "hotcoco"


def score_detections(
    annotations: bytes,
    detections: Rows,
    kinds: list[str],
    style: str,
    scorer: str | None = None,
    sigmas: Sequence[float] = (),
) -> Metrics:
    """Return the metrics over all classes of ``compute_scores``, which has the same arguments."""
    return compute_scores(annotations, detections, kinds, style, scorer, sigmas).metrics


def compute_scores(
    annotations: bytes,
    detections: Rows,
    kinds: list[str],
    style: str,
    scorer: str | None = None,
    sigmas: Sequence[float] = (),
) -> Scores:
    """Compute the average precision of detections.

    Args:
        annotations: ground truth from ``ground_truth.scorable_json``.
        detections: rows of COCO's result format: image_id, category_id, score, bbox (x, y,
            width, height in pixels) and, for masks, segmentation (run-length encoded), or
            keypoints (x, y, score, …). As in Detectron2, the area of a person is that of its box.
        kinds: subset of ``"bbox"``, ``"segm"``, ``"keypoints"`` (by object keypoint similarity,
            OKS; 20 detections per image; only with the style ``"coco"``).
        style: ``"coco"`` or ``"lvis"`` (federated; 300 detections per image).
        scorer: ``"hotcoco"`` or ``"reference"``; default: ``default_scorer()``.
        sigmas: standard deviations of OKS, one per keypoint; default: COCO's for its 17.

    Returns:
        the metrics; without any detection, every metric is 0.
    """
    score = SCORERS[scorer or default_scorer(), style]
    metrics: Metrics = {}
    per_class: dict[int, Metrics] = defaultdict(dict)  # position of the class -> its metrics
    with tempfile.TemporaryDirectory(prefix="virtex-annotations-") as folder:
        path = Path(folder, "annotations.json")
        path.write_bytes(annotations)
        for kind in kinds:
            names = METRICS.get(kind, LVIS_METRICS if style == "lvis" else COCO_METRICS)
            rows = without_boxes(detections) if kind == "segm" else detections
            if rows:
                values, precision = score(path, rows, kind, sigmas)
            else:
                values, precision = dict.fromkeys(names, 0.0), zero_precision(annotations)
            for name in names:
                value = float(values[name])
                metrics[f"{kind}/{name}"] = float("nan") if value < 0 else value * 100
            for index in range(precision.shape[2]):
                per_class[index] |= class_metrics(precision[:, :, index], kind)
    return Scores(metrics, list(per_class.values()))


def class_metrics(precision: np.ndarray, kind: str) -> Metrics:
    """Return the AP and AP50 of one class in percent, as in Detectron2's ``COCOEvaluator``.

    Args:
        precision: (IoU thresholds from 0.5, recalls); -1 without ground truth.
    """
    metrics = {}
    for name, values in (("AP", precision), ("AP50", precision[:1])):
        valid = values[values > -1]
        metrics[f"{kind}/{name}"] = 100 * float(valid.mean()) if valid.size else float("nan")
    return metrics


def zero_precision(annotations: bytes) -> np.ndarray:
    """Return the precision without detections, (1, 1, classes): 0, or -1 without ground truth."""
    content = json.loads(annotations)
    found = {row["category_id"] for row in content["annotations"] if not row["iscrowd"]}
    ids = sorted(category["id"] for category in content["categories"])
    return np.array([[[0.0 if number in found else -1.0 for number in ids]]])


def without_boxes(rows: Rows) -> Rows:
    """Drop boxes, so that masks are sized by their own area, as in Detectron2."""
    return [{k: v for k, v in row.items() if k != "bbox"} for row in rows]


def lvis_rows(rows: Rows, kind: str) -> Rows:
    """Return the detections that lvis scores: the best of each image that are not empty.

    As ``LVISResults.limit_dets_per_image``, then ``LVIS.get_ann_ids``. hotcoco has the limit, but
    keeps empty boxes and masks.
    """
    images: dict[int, Rows] = defaultdict(list)
    for row in rows:
        images[row["image_id"]].append(row)
    for image_id, found in images.items():
        if len(found) > LVIS_MAX_DETECTIONS:
            found = sorted(found, key=lambda row: row["score"], reverse=True)
            images[image_id] = found[:LVIS_MAX_DETECTIONS]
    rows = [row for found in images.values() for row in found]
    if kind == "bbox":
        areas = [row["bbox"][2] * row["bbox"][3] for row in rows]
    else:
        masks = [row["segmentation"] for row in rows]
        # pycocotools' area() fails on longer lists, and is eight times as slow on single masks
        parts = (masks[first : first + 255] for first in range(0, len(masks), 255))
        areas = [area for part in parts for area in pycocotools.mask.area(part)]
    return [row for row, area in zip(rows, areas, strict=True) if area > 0]


def coco_reference(
    annotations: Path, rows: Rows, kind: str, sigmas: Sequence[float]
) -> ScorerOutput:
    """Return the metrics over all classes, and the precision of each class.

    Returns:
        metrics as fractions, and the precision for objects of all sizes, (IoU thresholds, recalls,
        classes); -1 where there is no ground truth.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        # pycocotools adds fields to the rows that it loads
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(rows)), kind)
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        return coco_scores(evaluation, kind)


def coco_hotcoco(annotations: Path, rows: Rows, kind: str, sigmas: Sequence[float]) -> ScorerOutput:
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.load_res(rows), kind)
        if sigmas:
            evaluation.params.kpt_oks_sigmas = list(sigmas)
        return coco_scores(evaluation, kind)


def coco_scores(evaluation: Any, kind: str) -> ScorerOutput:
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = dict(zip(METRICS.get(kind, COCO_METRICS), evaluation.stats, strict=False))
    # (IoU, recall, class, area, number of detections)
    return metrics, evaluation.eval["precision"][:, :, :, 0, -1]


def lvis_reference(
    annotations: Path, rows: Rows, kind: str, sigmas: Sequence[float]
) -> ScorerOutput:
    with numpy_float_alias():
        from lvis import LVIS, LVISEval, LVISResults

        truth = LVIS(str(annotations))
        results = LVISResults(truth, copy.deepcopy(rows), max_dets=LVIS_MAX_DETECTIONS)
        evaluation = LVISEval(truth, results, kind)
        evaluation.run()
    metrics = {name: evaluation.get_results()[name] for name in LVIS_METRICS}
    return metrics, evaluation.eval["precision"][:, :, :, 0]


def lvis_hotcoco(annotations: Path, rows: Rows, kind: str, sigmas: Sequence[float]) -> ScorerOutput:
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        found = truth.load_res(lvis_rows(rows, kind))
        evaluation = COCOeval(truth, found, kind, lvis_style=True)
        evaluation.run()
    metrics = {name: evaluation.get_results()[name] for name in LVIS_METRICS}
    assert evaluation.eval is not None  # run() has set it
    return metrics, evaluation.eval["precision"][:, :, :, 0, -1]


SCORERS = {
    ("reference", "coco"): coco_reference,
    ("hotcoco", "coco"): coco_hotcoco,
    ("reference", "lvis"): lvis_reference,
    ("hotcoco", "lvis"): lvis_hotcoco,
}


@contextlib.contextmanager
def numpy_float_alias() -> Iterator[None]:
    """Provide ``np.float``, which lvis 0.5.3 calls and numpy 1.24 removed."""
    with numpy_alias("float", float):
        yield


@contextlib.contextmanager
def numpy_alias(name: str, value: Any) -> Iterator[None]:
    """Provide a name that a scorer uses and numpy has removed."""
    missing = name not in vars(np)
    if missing:
        vars(np)[name] = value
    try:
        yield
    finally:
        if missing:
            del vars(np)[name]


def write_detections(path: Path, rows: Rows) -> None:
    """Write rows of COCO's result format as one JSON list."""

    def write(file: BinaryIO) -> None:
        file.write(b"[")
        # json.dumps is compiled, json.dump is not; in parts, as dumps holds its whole output
        for first in range(0, len(rows), ROWS_PER_WRITE):
            part = json.dumps(rows[first : first + ROWS_PER_WRITE])
            file.write(b", " * (first > 0) + part[1:-1].encode())
        file.write(b"]")

    replace_file(path, write)
