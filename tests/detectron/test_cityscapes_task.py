"""Cityscapes: samples, scores and runs agree with Detectron2 and cityscapesscripts."""

import contextlib
import dataclasses
import importlib
import shutil
import sys
import types

import cityscapesscripts
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as reference
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import cityscapes as detectron2_cityscapes
from detectron2.evaluation import CityscapesInstanceEvaluator
from detectron2.structures import Boxes, Instances

from tests.detectron.small_runs import assert_resumed_exactly, read_record, run_small
from tests.errors import raises_code
from virtex.data.cityscapes import LABEL_IDS, POLYGONS, THINGS, find_frames
from virtex.data.toy.cityscapes import HEIGHT, WIDTH
from virtex.detectron.cityscapes import CityscapesEvaluator
from virtex.detectron.custom_data import RegisteredSet, loaded_set
from virtex.detectron.datasets import register_detection_sets
from virtex.detectron.evaluation import build_evaluator
from virtex.detectron.scoring import numpy_alias
from virtex.detectron.settings import load_config
from virtex.tasks import packaged_protocol

TRAIN, VAL = (f"cityscapes_fine_instance_seg_{split}" for split in ("train", "val"))
IDS = list(THINGS)


@pytest.fixture(scope="module", autouse=True)
def reference_imports():
    """Let Detectron2's evaluator run.

    0.6 imports cityscapesscripts as part of a package that is not public. cityscapesscripts 2.3
    calls ``np.in1d``, which numpy 2.4 removed, and writes numpy's integers to JSON, which fails.
    """
    parts = ["", ".helpers", ".helpers.labels", ".evaluation"]
    parts.append(".evaluation.evalInstanceLevelSemanticLabeling")
    outer = "deeplearning.projects.cityscapesApi"
    with pytest.MonkeyPatch.context() as patch, numpy_alias("in1d", np.isin):
        for name in ("deeplearning", "deeplearning.projects", outer):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        for part in parts:
            module = importlib.import_module(f"{cityscapesscripts.__name__}{part}")
            patch.setitem(sys.modules, f"{outer}.cityscapesscripts{part}", module)
        patch.setattr(reference, "writeDict2JSON", lambda content, file: None)
        yield


@pytest.fixture
def registered(toy):
    register_detection_sets(toy, [VAL])
    return {name: loaded_set(name) for name in (TRAIN, VAL)}


@pytest.mark.parametrize("name", [TRAIN, VAL])
def test_samples_are_those_of_detectron2(registered, name):
    metadata = MetadataCatalog.get(name)
    expected = detectron2_cityscapes.load_cityscapes_instances(
        metadata.image_dir, metadata.gt_dir, from_json=True, to_polygons=True
    )
    assert len(expected) == len(registered[name].samples) > 0
    by_name = {sample["image_id"]: sample for sample in expected}
    for sample in registered[name].samples:
        assert sample == by_name[sample["image_id"]]
    assert any(a["iscrowd"] for s in registered[TRAIN].samples for a in s["annotations"])


def detection(masks, classes, scores):
    """Detectron2's output for one image."""
    masks = torch.as_tensor(np.array(masks, bool).reshape(-1, HEIGHT, WIDTH))
    output = Instances((HEIGHT, WIDTH))
    output.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    output.scores = torch.as_tensor(np.array(scores, np.float32))
    output.pred_classes = torch.as_tensor(np.array(classes, int))
    output.pred_masks = masks
    return {"instances": output}


def ground_truth(path):
    """The masks and classes of all objects and groups of an image."""
    ids = np.asarray(reference.Image.open(path))
    labels = {int(n): int(n) // 1000 if n >= 1000 else int(n) for n in np.unique(ids)}
    found = [(ids == number, IDS.index(label)) for number, label in labels.items() if label in IDS]
    return found, ids


def perfect(path, rng):
    found, _ = ground_truth(path)
    return detection([mask for mask, _ in found], [c for _, c in found], [0.9] * len(found))


def nothing(path, rng):
    return detection([], [], [])


def noisy(path, rng):
    """Shifted objects with random scores, a few other classes, and a wrong object of each."""
    found, ids = ground_truth(path)
    masks = [np.roll(mask, rng.integers(-3, 4), axis=1) for mask, _ in found]
    classes = [c if rng.random() < 0.8 else rng.integers(8) for _, c in found]
    masks, classes = [*masks, *[ids == LABEL_IDS["sky"]] * 8], [*classes, *range(8)]
    return detection(masks, classes, rng.random(len(masks)))


def odd(path, rng):
    """Ties, duplicates, empty masks, single pixels, and masks of ignored regions and of all."""
    found, ids = ground_truth(path)
    masks = [mask for mask, _ in found for _ in range(2)]
    classes = [c for _, c in found for _ in range(2)]
    point = np.zeros((HEIGHT, WIDTH), bool)
    point[rng.integers(HEIGHT), rng.integers(WIDTH)] = True
    half = [mask & (np.arange(WIDTH) % 2 == 0) for mask, _ in found[:1]]
    masks += [np.zeros_like(point), point, ids < 7, *half, *[~(point & False)] * 8]
    classes += [*rng.integers(8, size=len(masks) - len(classes) - 8).tolist(), *range(8)]
    return detection(masks, classes, rng.choice([0.3, 0.5, 1.0], len(masks)))


@pytest.mark.parametrize("predict", [perfect, nothing, noisy, odd])
def test_scores_are_those_of_detectron2(registered, tmp_path, monkeypatch, predict):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ours, theirs = CityscapesEvaluator(VAL), CityscapesInstanceEvaluator(VAL)
    ours.reset()
    theirs.reset()
    for sample in registered[VAL].samples:
        output = predict(ours.truth[sample["image_id"]], rng)
        ours.process([sample], [output])
        theirs.process([sample], [output])
    settings = repr(vars(reference.args))
    found = ours.evaluate()
    assert repr(vars(reference.args)) == settings
    assert list(tmp_path.iterdir()) == []
    expected = theirs.evaluate()["segm"]
    assert found == pytest.approx({f"segm/{k}": v for k, v in expected.items()}, abs=1e-9)
    if predict is perfect:
        assert found == {"segm/AP": 100, "segm/AP50": 100}
    elif predict is nothing:
        assert found == {"segm/AP": 0, "segm/AP50": 0}
    else:
        assert 0 < found["segm/AP"] <= found["segm/AP50"] < 100
    classes = [row["segm/AP"] for row in ours.per_class if row["segm/AP"] is not None]
    assert [row["class"] for row in ours.per_class] == list(THINGS.values())
    assert np.mean(classes) == pytest.approx(found["segm/AP"])


def test_ignored_detections_do_not_count(registered):
    evaluator = CityscapesEvaluator(VAL)
    evaluator.reset()
    for sample in registered[VAL].samples:
        _, ids = ground_truth(evaluator.truth[sample["image_id"]])
        ignored = [ids == LABEL_IDS["ego vehicle"]] * 8
        evaluator.process([sample], [detection(ignored, range(8), [0.5] * 8)])
    assert evaluator.evaluate() == {"segm/AP": 0, "segm/AP50": 0}


def test_missing_packages_are_named(registered, monkeypatch):
    find = importlib.util.find_spec
    for missing, use in (
        ("cityscapesscripts", lambda: CityscapesEvaluator(VAL)),
        ("shapely", lambda: DatasetCatalog[TRAIN]()),
    ):
        DatasetCatalog[TRAIN].load.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                "virtex.detectron.cityscapes.find_spec",
                lambda name, missing=missing: None if name == missing else find(name),
            )
            with raises_code(f"environment.{missing}", f"package {missing}"):
                use()


def test_masks_are_needed(registered):
    cfg = load_config(packaged_protocol("cityscapes", "toy"))
    build_evaluator(cfg, VAL, None)
    for key, value in (("MASK_ON", False), ("META_ARCHITECTURE", "RetinaNet")):
        other = cfg.clone()
        other.MODEL[key] = value
        with raises_code("config.invalid_value", "MODEL.MASK_ON"):
            build_evaluator(other, VAL, None)


def test_set_without_instance_ids(registered):
    MetadataCatalog.get("unlabeled").gt_dir = "/nowhere"
    samples = dataclasses.replace(registered[VAL], metadata={})
    DatasetCatalog.register("unlabeled", RegisteredSet("unlabeled", lambda: samples))
    with contextlib.ExitStack() as stack:
        stack.callback(DatasetCatalog.remove, "unlabeled")
        stack.callback(MetadataCatalog.remove, "unlabeled")
        with raises_code("data.missing", "/nowhere/frankfurt"):
            CityscapesEvaluator("unlabeled")


# Runs ----

CHECKPOINT = ("--checkpoint", "random:resnet18?seed=0")


def test_run_is_resumed_exactly(toy, tmp_path):
    out = tmp_path / "run"
    found = assert_resumed_exactly(
        toy, out, *CHECKPOINT, *("--task", "cityscapes", "--protocol", "toy")
    )
    assert (found["task"], found["protocol"]["name"]) == ("cityscapes", "toy/cityscapes")
    assert (found["primary_metric"], set(found["metrics"])) == ("segm/AP", {"segm/AP", "segm/AP50"})
    assert found["data"][VAL]["images"] == 8
    assert [row["class"] for row in found["details"]["per_class"][VAL]] == list(THINGS.values())
    assert (out / f"detections_{VAL}.json").is_file()
    assert len(list((out / "gallery").glob("*.jpg"))) == 8


def test_zoo_config(toy, tmp_path):
    more = ["MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True"]
    small = ["MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"]
    config = ("--config", "Cityscapes/mask_rcnn_R_50_FPN.yaml")
    assert run_small(toy, tmp_path, *CHECKPOINT, *config, *more, *small) == 0
    found = read_record(tmp_path)
    assert (found["task"], found["primary_metric"]) == ("cityscapes", "segm/AP")


def test_invalid_data_stop_before_training(capsys, tmp_path, toy):
    shutil.copytree(toy / "cityscapes", tmp_path / "data/cityscapes")
    dirs = (tmp_path / "data/cityscapes" / part / "val" for part in ("leftImg8bit", "gtFine"))
    frames, _ = find_frames(*dirs, [POLYGONS])
    out = tmp_path / "out"
    for frame, suffix, content, code in (
        (frames[0], "instanceIds.png", b"\x89PNG", "data.annotations"),
        (frames[1], POLYGONS, b"{", "data.annotations"),
        (frames[2], POLYGONS, None, "data.missing"),
    ):
        path = frame.annotation(suffix)
        before = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        options = ("--task", "cityscapes", "--protocol", "toy")
        assert run_small(tmp_path / "data", out, *CHECKPOINT, *options) == 2
        error = capsys.readouterr().err
        assert f"[{code}]" in error and path.name in error and not out.exists()
        path.write_bytes(before)
