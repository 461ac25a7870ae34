"""All scorers give the numbers of pycocotools and lvis."""

import contextlib
import copy
import io
import json
import logging
import math
import random
from types import SimpleNamespace

import numpy as np
import pycocotools.mask
import pytest
from detectron2.evaluation import COCOEvaluator

from tests.detectron.odd_detections import add_keypoints, draw_case
from virtex.detectron.ground_truth import scorable_json
from virtex.detectron.scoring import (
    COCO_METRICS,
    KEYPOINT_METRICS,
    LVIS_METRICS,
    compute_scores,
    numpy_float_alias,
    score_detections,
    without_boxes,
)

FILES = {"coco": "coco/annotations/instances_val2017.json", "lvis": "lvis/lvis_v1_val.json"}


def ground_truth(path, style):
    return scorable_json(json.loads(path.read_text()), style)


def reference_scores(content, rows, kind, style, folder):
    """Return metrics and precision of pycocotools or lvis for a file; None if they fail on it."""
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    rows = copy.deepcopy(without_boxes(rows) if kind == "segm" else rows)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return (coco_scores if style == "coco" else lvis_scores)(str(path), rows, kind)
    except Exception:
        return None


def coco_scores(path, rows, kind, sigmas=None):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(path)
    evaluation = COCOeval(truth, truth.loadRes(rows), kind)
    if sigmas:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = KEYPOINT_METRICS if kind == "keypoints" else COCO_METRICS
    return dict(zip(names, evaluation.stats, strict=False)), evaluation.eval["precision"]


def lvis_scores(path, rows, kind):
    with numpy_float_alias():
        from lvis import LVIS, LVISEval, LVISResults

        truth = LVIS(path)
        evaluation = LVISEval(truth, LVISResults(truth, rows), kind)
        evaluation.run()
    metrics = {name: evaluation.get_results()[name] for name in LVIS_METRICS}
    return metrics, evaluation.eval["precision"][..., None]


def detectron2_class_ap(precision):
    """Return the AP of each class from ``COCOEvaluator``'s own code, without its table."""
    names = list(map(str, range(precision.shape[2])))
    evaluation = SimpleNamespace(stats=np.zeros(12), eval={"precision": precision})
    evaluator = SimpleNamespace(_logger=logging.getLogger("test"))
    found = COCOEvaluator._derive_coco_results(evaluator, evaluation, "bbox", names)
    return [found[f"AP-{name}"] for name in names]


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_odd_cases_agree_with_the_reference(tmp_path, style):
    compared = several_classes = 0
    for seed in range(12):
        content, rows = draw_case(seed)
        truth = scorable_json(content, style)
        for kind in ("bbox", "segm"):
            expected = reference_scores(content, rows, kind, style, tmp_path)
            if expected is None:
                continue
            metrics, precision = expected
            for scorer in ("hotcoco", "reference"):
                found, per_class = compute_scores(truth, rows, [kind], style, scorer)
                assert_same(found, metrics, kind, (seed, scorer, kind))
                if precision.shape[2] > 1:  # Detectron2 has no table of a single class
                    classes = detectron2_class_ap(precision)
                    same = pytest.approx(classes, abs=1e-9, nan_ok=True)
                    assert [row[f"{kind}/AP"] for row in per_class] == same, (seed, scorer, kind)
                    several_classes += len(set(classes)) > 1
            compared += 1
    assert compared > 15 and several_classes > 15


def assert_same(found, expected, kind, named):
    for name, value in expected.items():
        value = float("nan") if value < 0 else 100 * value
        same = pytest.approx(value, abs=1e-9, nan_ok=True)
        assert found[f"{kind}/{name}"] == same, (named, name)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of negative areas
def test_odd_keypoints_agree_with_the_reference(tmp_path):
    compared, scored, kinds = 0, 0, ("bbox", "segm", "keypoints")
    for seed in range(16):
        content, rows = draw_case(seed)
        add_keypoints(content, rows, seed)
        truth = scorable_json(content, "coco", has_keypoints=True)
        fast, slow = (
            score_detections(truth, rows, kinds, "coco", scorer)
            for scorer in ("hotcoco", "reference")
        )
        for kind in kinds:
            reference = reference_scores(content, rows, kind, "coco", tmp_path)
            if reference is None:
                continue
            expected = reference[0]
            assert_same(fast, expected, kind, ("hotcoco", seed, kind))
            assert_same(slow, expected, kind, ("reference", seed, kind))
            compared += kind == "keypoints"
            scored += kind == "keypoints" and 0 < expected["AP"] < 1
    assert compared > 8 and scored > 4


def test_sigmas_of_other_keypoints(tmp_path):
    content, rows = draw_case(1)
    add_keypoints(content, rows, 1, number=3)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    truth, found = scorable_json(content, "coco", has_keypoints=True), set()
    for sigmas in ([0.05, 0.1, 0.2], [0.5, 0.5, 0.5]):
        with contextlib.redirect_stdout(io.StringIO()):
            path = str(tmp_path / "annotations.json")
            expected, _ = coco_scores(path, copy.deepcopy(rows), "keypoints", sigmas)
        for scorer in ("hotcoco", "reference"):
            scores = score_detections(truth, rows, ["keypoints"], "coco", scorer, sigmas)
            assert_same(scores, expected, "keypoints", (scorer, sigmas))
            found.add(round(scores["keypoints/AP"], 9))
    assert len(found) == 2


def imperfect_detections(path, per_object, seed=0):
    """Jittered boxes and box-shaped masks, some of a wrong class."""
    rng = random.Random(seed)
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    classes = [category["id"] for category in content["categories"]]
    rows = []
    for annotation in content["annotations"]:
        for _ in range(per_object):
            x, y, w, h = (v + rng.gauss(0, 2) for v in annotation["bbox"])
            x, y, w, h = max(x, 0), max(y, 0), max(w, 2), max(h, 2)
            mask = np.zeros(sizes[annotation["image_id"]], np.uint8, order="F")
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
            encoded = pycocotools.mask.encode(mask)
            right = rng.random() < 0.8
            rows.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if right else rng.choice(classes),
                    "bbox": [x, y, w, h],
                    "score": rng.random(),
                    "segmentation": {**encoded, "counts": encoded["counts"].decode()},
                }
            )
    return rows


@pytest.mark.parametrize(("style", "per_object"), [("coco", 3), ("coco", 60), ("lvis", 150)])
def test_scorers_agree(toy, style, per_object):
    path = toy / FILES[style]
    rows = imperfect_detections(path, per_object)
    (fast, fast_classes), (reference, reference_classes) = (
        compute_scores(ground_truth(path, style), rows, ["bbox", "segm"], style, scorer)
        for scorer in ("hotcoco", "reference")
    )
    assert fast.keys() == reference.keys()
    for name in fast:
        both_undefined = math.isnan(fast[name]) and math.isnan(reference[name])
        assert both_undefined or fast[name] == pytest.approx(reference[name], abs=1e-9), name
    assert 1 < fast["bbox/AP"] < 99
    for ours, theirs in zip(fast_classes, reference_classes, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)
    for name in ("AP", "AP50"):  # the metric is the mean over the classes
        mean = np.nanmean([row[f"segm/{name}"] for row in fast_classes])
        assert mean == pytest.approx(fast[f"segm/{name}"], abs=1e-9)


def test_lvis_reference_runs_with_numpy_2(toy):
    rows = imperfect_detections(toy / FILES["lvis"], 1)
    truth = ground_truth(toy / FILES["lvis"], "lvis")
    scores = score_detections(truth, rows, ["bbox"], "lvis", "reference")
    assert set(scores) == {f"bbox/{name}" for name in LVIS_METRICS}
    assert scores["bbox/AP"] > 1


def test_numpy_alias_is_removed():
    before = vars(np).get("float")
    with numpy_float_alias():
        assert np.float is float
    assert vars(np).get("float") is before


@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_no_detection_scores_zero(toy, style):
    content = json.loads((toy / FILES[style]).read_text())
    kept = {annotation["category_id"] for annotation in content["annotations"][:3]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    metrics, per_class = compute_scores(scorable_json(content, style), [], ["bbox"], style)
    assert metrics["bbox/AP"] == 0
    ids = sorted(category["id"] for category in content["categories"])
    for number, row in zip(ids, per_class, strict=True):
        assert all(value == 0 if number in kept else math.isnan(value) for value in row.values())


def test_perfect_keypoints_score_100(toy):
    path = toy / "coco/annotations/person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    rows = [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "keypoints")} | {"score": 0.9}
        for a in content["annotations"]
        if a["num_keypoints"]
    ]
    truth = scorable_json(content, "coco", has_keypoints=True)
    assert score_detections(truth, rows, ["keypoints"], "coco")["keypoints/AP"] == 100
    assert score_detections(truth, [], ["keypoints"], "coco") == {
        f"keypoints/{name}": 0 for name in KEYPOINT_METRICS
    }


def test_perfect_detections_score_100(toy):
    path = toy / FILES["coco"]
    content = json.loads(path.read_text())
    rows = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in content["annotations"]
        if not a["iscrowd"]
    ]
    truth = ground_truth(path, "coco")
    assert score_detections(truth, rows, ["bbox"], "coco")["bbox/AP"] == pytest.approx(100)


@pytest.mark.parametrize("scorer", ["hotcoco", "reference"])
def test_masks_are_sized_by_their_own_area(scorer):
    def row(top, size, score, box):
        mask = np.zeros((200, 200), np.uint8, order="F")
        mask[top : top + size, :size] = 1
        encoded = pycocotools.mask.encode(mask)
        segmentation = {**encoded, "counts": encoded["counts"].decode()}
        found = {"image_id": 1, "category_id": 1, "bbox": box, "segmentation": segmentation}
        return found | ({"score": score} if score else {"id": 1, "iscrowd": 0, "area": size**2})

    annotations = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [row(0, 10, None, [0, 0, 10, 10])],
    }
    # A false positive with a small mask in a large box: at area "small" it counts.
    detections = [row(0, 10, 0.5, [0, 0, 10, 10]), row(50, 10, 0.9, [0, 0, 150, 150])]
    truth = scorable_json(annotations, "coco")
    metrics = score_detections(truth, detections, ["segm"], "coco", scorer)
    assert metrics["segm/APs"] == pytest.approx(50, abs=1)
