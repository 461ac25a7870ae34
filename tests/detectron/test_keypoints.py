"""Keypoint R-CNN: data, evaluation, and runs of the task ``coco_keypoints``."""

import copy
import json
import shutil
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.build import filter_images_with_few_keypoints
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from tests.detectron.small_runs import assert_resumed_exactly, read_record, run_small
from tests.detectron.test_custom_data import NAMES, catalog, edit, read
from tests.detectron.test_recipes import DINO
from tests.detectron.test_transfer import moco_file
from tests.detectron.tiny_networks import NETWORKS, make_backbone
from tests.errors import raises_code
from virtex.data.detection_sets import DetectionSet
from virtex.detectron.custom_data import coco_content
from virtex.detectron.datasets import read_data, register_detection_sets, training_samples
from virtex.detectron.effects import RecordingConfig, validate_effects
from virtex.detectron.evaluation import InstanceEvaluator
from virtex.detectron.loading import build_mapper
from virtex.detectron.settings import load_config
from virtex.tasks import packaged_protocol
from virtex.tasks.detection import protocol_from_config

__all__ = ["catalog", "moco_file"]  # fixtures
VAL = "keypoints_coco_2017_val"
TRAIN = "keypoints_coco_2017_train"


def annotations(root, split="val"):
    return root / f"coco/annotations/person_keypoints_{split}2017.json"


def settings(*overrides):
    cfg = load_config(packaged_protocol("coco_keypoints", "toy"))
    cfg.merge_from_list(list(overrides))
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def builtin(toy):
    """Registers the toy data; returns the samples of val."""
    register_detection_sets(toy, (VAL,))
    return DatasetCatalog.get(VAL)


@pytest.fixture
def coco(toy, tmp_path):
    return Path(shutil.copytree(toy / "coco", tmp_path / "coco")).parent


# --- data ------------------------------------------------------------------------------------


def test_set_agrees_with_detectron2(toy, builtin):
    theirs = load_coco_json(str(annotations(toy)), str(toy / "coco/val2017"), "custom_val")
    keys = ("bbox", "category_id", "iscrowd", "keypoints")
    assert [[{k: a[k] for k in keys} for a in s["annotations"]] for s in builtin] == [
        [{k: a[k] for k in keys} for a in s["annotations"]] for s in theirs
    ]
    assert MetadataCatalog.get(VAL).thing_classes == ["person"]
    names = MetadataCatalog.get(VAL).keypoint_names
    assert names == tuple(json.loads(annotations(toy).read_text())["categories"][0]["keypoints"])


@pytest.mark.parametrize("minimum", [0, 1, 18, 40])
def test_images_with_few_keypoints_are_filtered(toy, minimum):
    register_detection_sets(toy)
    key = "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
    options = (key, minimum, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    everything = DatasetCatalog.get(TRAIN)
    expected = filter_images_with_few_keypoints(everything, minimum)
    found = training_samples(settings(*options))
    assert [s["image_id"] for s in found] == [s["image_id"] for s in expected]
    assert (len(found) < len(everything)) == (minimum > 0)
    with raises_code("data.empty", 10_000):
        training_samples(settings(key, 10_000))


def test_flip_exchanges_left_and_right(toy):
    register_detection_sets(toy)
    sample = next(s for s in DatasetCatalog.get(TRAIN) if s["annotations"])
    mapper = DatasetMapper(settings("INPUT.MIN_SIZE_TRAIN", (0,)), True)
    flipped = set()
    for seed in range(8):
        np.random.seed(seed)
        found = mapper(copy.deepcopy(sample))["instances"].gt_keypoints.tensor[0].numpy()
        expected = np.reshape(sample["annotations"][0]["keypoints"], (-1, 3))
        labeled = expected[:, 2] > 0
        is_flipped = not np.allclose(found[labeled], expected[labeled])
        flipped.add(is_flipped)
        if is_flipped:
            expected[labeled, 0] = sample["width"] - expected[labeled, 0]
            expected[~labeled] = 0
            order = [0, *(i + 1 if i % 2 else i - 1 for i in range(1, 17))]
            np.testing.assert_allclose(found, expected[order])
    assert flipped == {False, True}


# --- evaluation ------------------------------------------------------------------------------


def predictions(sample, rng):
    """Random detections of an image, more than are scored, some near its persons."""
    size = sample["height"], sample["width"]
    found = Instances(size)
    number = int(rng.integers(0, 40))
    corners = rng.uniform(0, 60, (number, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (number, 2))], axis=1)
    keypoints = rng.uniform(0, 128, (number, 17, 3))
    for index, person in enumerate(sample["annotations"][:number]):
        x, y, w, h = person["bbox"]
        boxes[index] = np.array([x, y, x + w, y + h]) + rng.normal(0, 1, 4)
        near = np.reshape(person["keypoints"], (17, 3))
        keypoints[index] = near + rng.normal(0, 2, near.shape) * [1, 1, 0]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.pred_keypoints = torch.tensor(keypoints, dtype=torch.float32)
    found.scores = torch.tensor(rng.random(number), dtype=torch.float32)
    found.pred_classes = torch.zeros(number, dtype=torch.int64)
    return found


def test_evaluator_agrees_with_detectron2(builtin, tmp_path):
    evaluator = InstanceEvaluator(VAL, masks=False, keypoints=True)
    reference = COCOEvaluator(VAL, ("bbox", "keypoints"), False, str(tmp_path), use_fast_impl=False)
    for one in (evaluator, reference):
        one.reset()
        rng = np.random.default_rng(0)
        for sample in builtin:
            one.process([sample], [{"instances": predictions(sample, rng)}])
    expected = reference.evaluate()
    found = evaluator.evaluate()
    for kind, scores in expected.items():
        for name in ("AP", "AP50", "AP75", "APm", "APl"):
            same = pytest.approx(scores[name], abs=1e-9, nan_ok=True)
            assert found[f"{kind}/{name}"] == same, (kind, name)
    assert 5 < found["keypoints/AP"] < 95


# --- sets of the user ------------------------------------------------------------------------


def declare(name):
    """Set the metadata that Detectron2 requires of a set with keypoints."""
    metadata = MetadataCatalog.get(VAL)
    fields = ("keypoint_names", "keypoint_flip_map", "thing_classes")
    MetadataCatalog.get(name).set(**{field: metadata.get(field) for field in fields})


def test_dicts_with_keypoints(builtin, tmp_path):
    samples = copy.deepcopy(builtin)
    DatasetCatalog.register("custom_val", lambda: samples)
    declare("custom_val")
    content = coco_content("custom_val", samples)
    theirs = convert_to_coco_dict("custom_val")["annotations"]
    for mine, other in zip(content["annotations"], theirs, strict=True):
        assert {k: mine[k] for k in ("keypoints", "num_keypoints", "bbox")} == {
            k: other[k] for k in ("keypoints", "num_keypoints", "bbox")
        }
    read()
    scores = []
    for name in (VAL, "custom_val"):
        evaluator = InstanceEvaluator(name, masks=False, keypoints=True)
        rng = np.random.default_rng(0)
        for sample in builtin:
            evaluator.process([sample], [{"instances": predictions(sample, rng)}])
        scores.append(evaluator.evaluate())
    assert scores[0]["keypoints/AP50"] == pytest.approx(scores[1]["keypoints/AP50"])
    samples[0]["annotations"][0]["keypoints"].pop()
    with raises_code("data.samples", "keypoints", 51):
        read()


def test_own_json_has_keypoints(toy):
    sets = [
        DetectionSet(
            name, "coco_keypoints", str(annotations(toy, split)), str(toy / f"coco/{split}2017")
        )
        for name, split in (("custom_train", "train"), ("custom_val", "val"))
    ]
    cfg = settings("DATASETS.TRAIN", NAMES[:1], "DATASETS.TEST", NAMES[1:])
    train, test = read_data(cfg, toy, False, sets)
    assert train and all(len(a["keypoints"]) == 51 for s in train for a in s["annotations"])
    evaluator = InstanceEvaluator("custom_val", masks=False, keypoints=True)
    rng = np.random.default_rng(0)
    for sample in test["custom_val"]:
        evaluator.process([sample], [{"instances": predictions(sample, rng)}])
    assert 5 < evaluator.evaluate()["keypoints/AP"] < 95


def test_evaluation_needs_no_training_set(toy):
    own = DetectionSet(
        "custom_val", "coco_keypoints", str(annotations(toy)), str(toy / "coco/val2017")
    )
    cfg = settings("DATASETS.TRAIN", NAMES[:1], "DATASETS.TEST", NAMES[1:])
    cfg.freeze()
    build_mapper(cfg, False)  # of predictions
    read_data(cfg, toy, True, [own])
    validate_effects(RecordingConfig(cfg, set()), ())


# --- runs ------------------------------------------------------------------------------------


HEAD = ["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"]


def arguments(checkpoint, protocol="toy"):
    task = ("--task", "coco_keypoints", "--protocol", protocol)
    return ["--checkpoint", checkpoint, *task, *HEAD]


def test_run_is_resumed_exactly(tmp_path, toy, moco_file):
    out = tmp_path / "run"
    found = assert_resumed_exactly(toy, out, *arguments(moco_file))
    assert (found["task"], found["primary_metric"]) == ("coco_keypoints", "keypoints/AP")
    assert {"keypoints/AP", "keypoints/APm", "bbox/AP"} <= set(found["metrics"])
    assert "segm/AP" not in found["metrics"]
    assert found["data"][VAL]["images"] == 4
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert lines[0]["loss_keypoint"] > 0
    rows = json.loads((out / f"detections_{VAL}.json").read_text())
    assert all(len(row["keypoints"]) == 51 for row in rows)
    assert list((out / "gallery").glob("*.jpg"))


@pytest.mark.whole
@pytest.mark.parametrize(("arch", "format"), [(DINO, "dino_vit"), (NETWORKS[1], "auto")])
def test_other_families(tmp_path, toy, arch, format):
    checkpoint = tmp_path / "network.pth"
    torch.save(make_backbone(arch).state_dict, checkpoint)
    assert run_small(toy, tmp_path / "run", *arguments(checkpoint), "--format", format) == 0
    found = read_record(tmp_path / "run")
    assert found["model"]["family"] == arch.family
    assert "keypoints/AP" in found["metrics"]


ZOO = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"


def test_zoo_config_names_the_same_sets(toy):
    train, test = read_data(load_config(protocol_from_config(ZOO)), toy, eval_only=False)
    assert train and list(test) == [VAL]


@pytest.mark.whole
def test_zoo_config(tmp_path, toy, moco_file):
    out, more = tmp_path / "out", ["MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True"]
    assert run_small(toy, out, "--checkpoint", moco_file, "--config", ZOO, *HEAD, *more) == 0
    found = read_record(out)
    assert (found["task"], found["primary_metric"]) == ("coco_keypoints", "keypoints/AP")


# --- invalid input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "code", "named"),
    [
        (["DATASETS.TRAIN", "('coco_2017_train',)"], "data.keypoints", "coco_2017_train"),
        (["DATASETS.TEST", "('voc_2007_test',)"], "data.keypoints", "voc_2007_test"),
        (["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], "config.invalid_value", "MODEL.KEYPOINT_ON"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "config.invalid_value", "MODEL.KEYPOINT_ON"),
        (["TEST.KEYPOINT_OKS_SIGMAS", "(0.1,)"], "config.invalid_value", "OKS_SIGMAS"),
    ],
)
def test_invalid_setting(toy, overrides, code, named):
    key, value = overrides
    cfg = settings(key, literal_eval(value) if value[0] == "(" else value)
    with raises_code(code, named):
        read_data(cfg, toy, eval_only=False)


def test_number_of_keypoints_follows_the_data(capsys, tmp_path, toy, moco_file):
    override = ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "5"]
    assert run_small(toy, tmp_path / "out", *arguments(moco_file), *override) == 2
    error = capsys.readouterr().err
    assert "[config.invalid_override]" in error and override[0] in error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_keypoints", None),
        ("num_keypoints", 18),
        ("keypoints", None),
        ("keypoints", [1, 2, 2]),
        ("keypoints", [1, 2, 3] * 17),
        ("keypoints", [float("nan"), 2, 2] * 17),
        ("keypoints", ["1", 2, 2] * 17),
    ],
)
def test_annotations_are_checked(coco, field, value):
    def change(content):
        content["annotations"][1][field] = value
        if value is None:
            del content["annotations"][1][field]

    edit(annotations(coco), change)
    with raises_code("data.annotations", "person_keypoints_val2017.json", "annotations[1]", field):
        read_data(settings(), coco, eval_only=False)


def register_json(coco, **metadata):
    for name, split in zip(NAMES, ("train", "val"), strict=True):
        folder = coco / f"coco/{split}2017"
        register_coco_instances(name, metadata, str(annotations(coco, split)), str(folder))


PAIR = [("a", "b")]


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "custom_train"),
        ({"keypoint_names": ["a", "a"], "keypoint_flip_map": PAIR}, "keypoint_names"),
        ({"keypoint_names": ["a", "b"]}, "keypoint_flip_map"),
        ({"keypoint_names": ["a", "c"], "keypoint_flip_map": PAIR}, "keypoint_flip_map"),
    ],
)
def test_metadata_is_checked(coco, metadata, named):
    register_json(coco, **metadata)
    cfg = settings("DATASETS.TRAIN", NAMES[:1], "DATASETS.TEST", NAMES[1:])
    with raises_code("data.keypoints", named):
        read_data(cfg, coco, eval_only=False)


def test_other_keypoints_need_sigmas(coco):
    def reduce(content):
        for annotation in content["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][:6]
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])

    for split in ("train", "val"):
        edit(annotations(coco, split), reduce)
    register_json(coco, keypoint_names=["a", "b"], keypoint_flip_map=PAIR)
    cfg = settings("DATASETS.TRAIN", NAMES[:1], "DATASETS.TEST", NAMES[1:])
    with raises_code("config.invalid_value", "TEST.KEYPOINT_OKS_SIGMAS"):
        read_data(cfg, coco, eval_only=False)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.1]
    train, test = read_data(cfg, coco, eval_only=False)
    assert train and {len(a["keypoints"]) for s in train for a in s["annotations"]} == {6}
    assert list(test) == [NAMES[1]]
