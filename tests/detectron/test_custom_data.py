"""Custom datasets: registered from a COCO file, or as a function that returns dicts."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.structures import BoxMode

from tests.detectron.test_transfer import QUICK, common, error_of, moco_file, record, run
from tests.errors import raises_code
from virtex.detectron.custom_data import coco_content, loaded_set, register_custom_set
from virtex.detectron.datasets import register_detection_sets
from virtex.detectron.evaluation import InstanceEvaluator
from virtex.errors import UserError

__all__ = ["moco_file"]  # a fixture
NAMES = ("custom_train", "custom_val")


@pytest.fixture(autouse=True)
def catalog():
    """Remove what a test registers."""
    yield
    for name in NAMES:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture
def coco(toy, tmp_path):
    return Path(shutil.copytree(toy / "coco", tmp_path / "coco"))


def register_json(coco):
    for name, split in zip(NAMES, ("train2017", "val2017"), strict=True):
        path = coco / f"annotations/instances_{split}.json"
        register_coco_instances(name, {}, str(path), str(coco / split))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def samples(toy):
    """Dicts of the toy data, by split."""
    register_detection_sets(toy)
    return {
        name: copy.deepcopy(DatasetCatalog.get(coco_name))
        for name, coco_name in zip(NAMES, ("coco_2017_train", "coco_2017_val"), strict=True)
    }


def register_dicts(samples):
    for name in NAMES:
        DatasetCatalog.register(name, lambda name=name: samples[name])
        metadata = MetadataCatalog.get("coco_2017_train")
        MetadataCatalog.get(name).thing_classes = metadata.thing_classes


def read(name="custom_val", scored=True):
    """Read a registered set anew."""
    register_custom_set(name, scored)
    return loaded_set(name)


def arguments(checkpoint, out, tmp_path):
    config = tmp_path / "custom.yaml"
    base = Path("detectron_configs/toy/coco.yaml").resolve()
    sets = 'DATASETS:\n  TRAIN: ["custom_train"]\n  TEST: ["custom_val"]\n'
    config.write_text(f"_BASE_: {base}\n{sets}")
    found = common(checkpoint, tmp_path, out)
    found[2:6] = ["--config", config]
    return [*found, *QUICK]


def test_json_set_agrees_with_builtin(toy, coco):
    register_json(coco)
    register_detection_sets(toy)
    builtin = DatasetCatalog.get("coco_2017_val")
    mine = read()
    assert [s["annotations"] for s in mine.samples] == [s["annotations"] for s in builtin]
    assert mine.describe() == loaded_set("coco_2017_val").describe()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["annotations"][0].update(image_id=10**6),
        lambda content: content["annotations"][0].update(bbox=[0, 0, -1, 5]),
        lambda content: content["annotations"][0].update(area="12"),
        lambda content: content["annotations"][0].pop("bbox"),
        lambda content: content["images"][0].update(id="1"),
        lambda content: content["images"][0].pop("height"),
        lambda content: content.pop("categories"),
    ],
)
def test_json_set_is_checked(coco, change):
    edit(coco / "annotations/instances_val2017.json", change)
    register_json(coco)
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        read()


def test_scored_samples_must_match_the_json(coco):
    register_json(coco)
    samples = DatasetCatalog.get("custom_val")
    DatasetCatalog["custom_val"] = lambda: samples[1:]
    with raises_code("data.samples", "custom_val"):
        read()


def test_scored_against_what_was_checked(coco):
    """A file that changes during training does not change the score."""
    register_json(coco)
    truth = read().ground_truth
    path = coco / "annotations/instances_val2017.json"
    path.write_text("{}")
    evaluator = InstanceEvaluator("custom_val", masks=False)
    evaluator.rows = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in json.loads(truth)["annotations"]
        if not a["iscrowd"]
    ]
    assert evaluator.evaluate()["bbox/AP"] == pytest.approx(100)


def test_failing_function_is_named():
    DatasetCatalog.register("custom_val", lambda: 1 // 0)
    with raises_code("data.set", "custom_val", "ZeroDivisionError"):
        read()


def test_classes_in_the_metadata_must_be_those_of_the_file(coco):
    path, folder = coco / "annotations/instances_val2017.json", coco / "val2017"
    register_coco_instances("custom_val", {"thing_classes": ["dog"]}, str(path), str(folder))
    with raises_code("data.classes_differ", "custom_val"):
        read()


def test_registered_lvis_and_voc(toy):
    register_lvis_instances("custom_train", {}, str(toy / "lvis/lvis_v1_val.json"), f"{toy}/coco/")
    register_pascal_voc("custom_val", str(toy / "VOC2007"), "test", 2007)
    register_detection_sets(toy)
    for name, builtin in (("custom_train", "lvis_v1_val"), ("custom_val", "voc_2007_test")):
        assert read(name).samples == DatasetCatalog.get(builtin)
        assert loaded_set(name).describe() == loaded_set(builtin).describe()


def change_first(**values):
    return lambda samples: samples[0].update(values)


def change_object(**values):
    return lambda samples: next(s for s in samples if s["annotations"])["annotations"][0].update(
        values
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_first(file_name=None), "file_name"),
        (change_first(height="100"), "height"),
        (change_first(image_id=1.5), "image_id"),
        (change_first(image_id="000001"), "image_id"),
        (change_object(bbox=[10**400, 0, 1, 1]), "bbox"),
        (change_object(iscrowd="no"), "iscrowd"),
        (change_first(annotations=None), "annotations"),
        (lambda samples: samples[1].update(image_id=samples[0]["image_id"]), "custom_val"),
        (lambda samples: samples.clear(), "custom_val"),
        (change_object(bbox=[1, 2, 3]), "bbox"),
        (change_object(bbox=[0, 0, float("nan"), 5]), "bbox"),
        (change_object(bbox_mode=BoxMode.XYWHA_ABS), "bbox_mode"),
        (change_object(category_id=99), "category_id"),
        (change_object(segmentation="mask"), "segmentation"),
        (change_object(segmentation=[[1.0, 2.0]]), "segmentation"),
        (change_object(segmentation={"size": [1, 1], "counts": b"0"}), "segmentation"),
    ],
)
def test_dict_set_is_checked(samples, change, named):
    change(samples["custom_val"])
    register_dicts(samples)
    with pytest.raises(UserError, match=named) as caught:
        read()
    assert "custom_val" in str(caught.value)


def test_dict_set_needs_classes(samples):
    DatasetCatalog.register("custom_val", lambda: samples["custom_val"])
    with raises_code("data.no_classes", "custom_val"):
        read()


def test_conversion_agrees_with_detectron2(samples):
    height, width = (samples["custom_val"][0][key] for key in ("height", "width"))
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[2:9, 3:7] = 1
    samples["custom_val"][0]["annotations"].append(
        {
            "bbox": np.array([3.0, 2.0, 7.0, 9.0]),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "segmentation": pycocotools.mask.encode(mask),
        }
    )
    register_dicts(samples)
    mine = coco_content("custom_val", read().samples)
    theirs = convert_to_coco_dict("custom_val")
    assert mine["annotations"] == theirs["annotations"]
    assert mine["categories"] == theirs["categories"]


def test_hash_of_dict_set(samples):
    register_dicts(samples)

    def sha256():
        return read(scored=False).annotations_sha256

    before = sha256()
    for sample in samples["custom_val"]:
        sample["file_name"] = f"/elsewhere/{Path(sample['file_name']).name}"
    assert sha256() == before
    change_object(category_id=9)(samples["custom_val"])
    assert sha256() != before


def test_perfect_detections_on_dict_set(samples):
    for sample in samples["custom_val"]:
        sample["annotations"] = [a for a in sample["annotations"] if not a["iscrowd"]]
    register_dicts(samples)
    read()
    evaluator = InstanceEvaluator("custom_val", masks=False)
    evaluator.rows = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in coco_content("custom_val", samples["custom_val"])["annotations"]
    ]
    assert evaluator.evaluate()["bbox/AP"] == pytest.approx(100)


def test_dict_set_is_trained_scored_and_protected(capsys, tmp_path, moco_file, samples):
    register_dicts(samples)
    out = tmp_path / "out"
    given = arguments(moco_file, out, tmp_path)
    assert run(*given) == 0
    found = record(out)
    assert (found["task"], found["protocol"]["name"]) == ("custom", "custom")
    assert found["metrics"]["segm/AP"] is not None
    for name in NAMES:
        assert found["data"][name]["images"] == len(samples[name])
        assert len(found["data"][name]["annotations_sha256"]) == 64
    change_object(category_id=9)(samples["custom_train"])
    error = error_of(capsys, out, *given, "--resume")
    assert "[resume.mismatch]" in error and "custom_train" in error


@pytest.mark.whole
def test_json_set_is_protected(capsys, tmp_path, moco_file, coco):
    register_json(coco)
    out = tmp_path / "out"
    given = arguments(moco_file, out, tmp_path)
    assert run(*given) == 0
    path = coco / "annotations/instances_train2017.json"
    edit(path, lambda content: content["annotations"][0].update(iscrowd=1))
    for name in NAMES:
        DatasetCatalog.remove(name)
    register_json(coco)
    error = error_of(capsys, out, *given, "--resume")
    assert "[resume.mismatch]" in error and "custom_train" in error


def test_other_evaluators_are_refused(capsys, tmp_path, moco_file, samples):
    register_dicts(samples)
    MetadataCatalog.get("custom_val").evaluator_type = "coco_panoptic_seg"
    out = tmp_path / "out"
    error = error_of(capsys, out, *arguments(moco_file, out, tmp_path))
    assert "[detection.evaluator_type]" in error


def test_unknown_set(capsys, tmp_path, moco_file):
    out = tmp_path / "out"
    error = error_of(capsys, out, *arguments(moco_file, out, tmp_path))
    assert "[data.set]" in error and "custom_" in error
