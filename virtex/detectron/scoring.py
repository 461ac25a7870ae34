"""COCO and LVIS scores from detections, by the fast scorer or by the reference.

hotcoco (Rust) is used where it is installed, pycocotools and lvis where not. They agree
within 1e-9 (tests/detectron/test_scoring.py).
"""

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from virtex.detectron.ground_truth import ground_truth
from virtex.files import replace_file

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LVIS_METRICS = (*COCO_METRICS, "APr", "APc", "APf")
LVIS_DETECTIONS = 300  # an image
ROWS_AT_A_TIME = 10_000  # that are written

Rows = list[dict[str, Any]]
Metrics = dict[str, float]


def default_scorer() -> str:
    """``"hotcoco"`` where it can be imported, else ``"reference"``."""
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return "reference"
    return "hotcoco"


def score_detections(
    annotations: Path, detections: Rows, kinds: list[str], style: str, scorer: str | None = None
) -> Metrics:
    """Average precision of detections.

    Args:
        annotations: a COCO or LVIS v1 instances file.
        detections: rows of COCO's result format: image_id, category_id, score, bbox (x, y,
            width, height in pixels) and, for masks, segmentation (run-length encoded).
        kinds: of ``"bbox"``, ``"segm"``.
        style: ``"coco"`` or ``"lvis"`` (federated; 300 detections an image).
        scorer: ``"hotcoco"`` or ``"reference"``; by default the fast one if installed.

    Returns:
        ``{"bbox/AP": …}`` in percent; NaN where there is no ground truth of that kind. Without
        a single detection every defined metric is 0.
    """
    with ground_truth(annotations) as path:
        return scores_of(path, detections, kinds, style, scorer or default_scorer())


def scores_of(truth: Path, detections: Rows, kinds: list[str], style: str, scorer: str) -> Metrics:
    """As ``score_detections``, of annotations that a scorer takes as they are."""
    scores: Metrics = {}
    for kind in kinds:
        rows = detections if kind == "bbox" else without_boxes(detections)
        names = LVIS_METRICS if style == "lvis" else COCO_METRICS
        if not rows:
            values = dict.fromkeys(names, 0.0)
        else:
            values = SCORERS[scorer, style](truth, rows, kind)
        for name in names:
            value = values[name]
            scores[f"{kind}/{name}"] = float("nan") if value < 0 else float(value) * 100
    return scores


def without_boxes(rows: Rows) -> Rows:
    """Masks are sized by their own area, not by their box's, as in Detectron2."""
    return [{k: v for k, v in row.items() if k != "bbox"} for row in rows]


def coco_reference(annotations: Path, rows: Rows, kind: str) -> Metrics:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(rows)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, evaluation.stats, strict=False))


def coco_hotcoco(annotations: Path, rows: Rows, kind: str) -> Metrics:
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.load_res(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, evaluation.stats, strict=False))


def lvis_reference(annotations: Path, rows: Rows, kind: str) -> Metrics:
    with old_numpy_names():
        from lvis import LVIS, LVISEval, LVISResults

        truth = LVIS(str(annotations))
        found = LVISResults(truth, copy.deepcopy(rows), max_dets=LVIS_DETECTIONS)
        evaluation = LVISEval(truth, found, kind)
        evaluation.run()
    return {name: evaluation.get_results()[name] for name in LVIS_METRICS}


def lvis_hotcoco(annotations: Path, rows: Rows, kind: str) -> Metrics:
    from hotcoco import COCO, COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.load_res(rows), kind, lvis_style=True)
        evaluation.run()
    return {name: evaluation.get_results()[name] for name in LVIS_METRICS}


SCORERS = {
    ("reference", "coco"): coco_reference,
    ("hotcoco", "coco"): coco_hotcoco,
    ("reference", "lvis"): lvis_reference,
    ("hotcoco", "lvis"): lvis_hotcoco,
}


@contextlib.contextmanager
def old_numpy_names() -> Iterator[None]:
    """lvis 0.5.3 calls ``np.float``, which numpy 1.24 removed."""
    missing = "float" not in vars(np)
    if missing:
        vars(np)["float"] = float
    try:
        yield
    finally:
        if missing:
            del vars(np)["float"]


def write_detections(path: Path, rows: Rows) -> None:
    """COCO's result format."""

    def write(file: BinaryIO) -> None:
        file.write(b"[")
        # iterencode, which json.dump uses too, is Python; dumps is compiled, but holds its text
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            part = json.dumps(rows[first : first + ROWS_AT_A_TIME])
            file.write(b", " * (first > 0) + part[1:-1].encode())
        file.write(b"]")

    replace_file(path, write)
