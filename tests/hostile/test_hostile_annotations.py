"""Annotation files of unknown origin are read by every tool's reader, or refused by name."""

import json
import os
from functools import partial

import pycocotools.mask
import pytest
from detectron2.data import DatasetMapper, MetadataCatalog
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.data_mutations import THOUSANDS_OF_DIGITS, as_json, broken, file_of
from tests.hostile.data_runs import guarded, outcome, require_plain, run
from tests.hostile.toy_root import copied, smallest
from virtex.data.captions import read_captions, read_labels
from virtex.data.detection_sets import DETECTION_SETS, DetectionSet
from virtex.data.inaturalist import read_inaturalist
from virtex.detectron.custom_data import loaded_set
from virtex.detectron.datasets import read_data, require_paths
from virtex.detectron.ground_truth import scorable_json
from virtex.detectron.loading import SafeMapper, raise_if_error
from virtex.detectron.scoring import score_detections
from virtex.detectron.settings import build_settings
from virtex.eval_tools import check_data
from virtex.tasks import TASKS, packaged_protocol

INSTANCES = "coco/annotations/instances_val2017.json"
KEYPOINTS = "coco/annotations/person_keypoints_val2017.json"
CAPTIONS = "coco/annotations/captions_val2017.json"
LVIS = "lvis/lvis_v1_val.json"
SPECIES = "inaturalist/annotations/val2018.json"
# what lies outside: by a path from each folder that images are in, and by an absolute one
OUTSIDE = ("../../../outside/secret.jpg", "../../outside/secret.jpg", "{top}/outside/secret.jpg")
ADDRESSES = ("http://h/../secret.jpg", "http://h/../..", "x", "a/\0", "/", "http://h/val2017/..")
MASKS = (
    *({"size": [128, 128], "counts": [0, 16384]}, {"size": [128, 128], "counts": [16384, 1]}),
    *({"size": [10**9, 10**9], "counts": [10**18]}, {"size": [128, 128], "counts": "oo"}),
    *({"size": [128, 128], "counts": "PP"}, {"size": [128, 128], "counts": "00000000`000l"}),
    *({"size": [128.0, 128.0], "counts": [16384]}, {"size": [128, 128], "counts": [-5, 16389]}),
    *([[0, 0, 1e9, 1e9, -1e9, 5]], [[0, 0, 1, 1, None, 5]], [[1, 2, 3, 4, 5, 6, 7]], [[]]),
    *([[1, 2]], [[1, 2, 3, 4]], [[float("nan")] * 6], [[True] * 6], [[10**400] * 6]),
)
BOXES = ([0, 0, 0, 0], [1e300, 0, 1, 1], [10**400, 0, 1, 1], [-5, -5, 500, 500], [0, 0, -1, 1])

QUIRKS = ("12", "7.0", "1e5", 3.0, "a\\b.jpg", [1, 2, 3, 4, 5, 6], ["1", "2", "3", "4"], None)


def original(path):
    return json.loads((smallest() / path).read_text())


def spoiled_root(tmp_path_factory, *names):
    return copied(tmp_path_factory.mktemp("annotations"), *names)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return spoiled_root(tmp_path_factory, "coco", "lvis", "inaturalist")


def spoil(root, path, content):
    """Write one file anew; {top} stands for the folder of the data root."""
    (root / path).write_bytes(content.replace(b"{top}", os.fsencode(root.parent)))


def checked(root, path, task):
    """What check_data says of a task: complete or not; a file that is spoiled is named."""
    before = sorted(os.listdir(root.parent))
    with guarded(root.parent / "outside"):
        status, out, err = run(check_data, "--data-root", root, "--task", task)
        require_plain(status, err, root / path, root)
        readable = outcome(partial(TASKS[task].read_data, root), root)
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert sorted(os.listdir(root.parent)) == before
    return status == 0 and readable


def changed(path, key, **fields):
    """The file with fields of the first item of a list changed."""
    content = original(path)
    content[key][0] |= fields
    return as_json(content).encode()


@given(file_of(original(INSTANCES), (*OUTSIDE, *MASKS, *BOXES)))
@example(changed(INSTANCES, "images", file_name="../../../outside/secret.jpg"))
@example(changed(INSTANCES, "images", file_name="{top}/outside/secret.jpg"))
@example(changed(INSTANCES, "images", file_name="a\0/b.jpg"))
@example(changed(INSTANCES, "images", file_name="\ud800/b.jpg"))
@example(changed(INSTANCES, "images", license="none", flickr_url=[]))
@example(changed(INSTANCES, "images", height=10**400))
@example(changed(INSTANCES, "annotations", area=10**400))
@example(changed(INSTANCES, "annotations", bbox=[10**400, 0, 1, 1]))
@example(changed(INSTANCES, "annotations", bbox=[0, 0, 1e300, 1]))
@example(changed(INSTANCES, "annotations", area=THOUSANDS_OF_DIGITS))
@example(changed(INSTANCES, "annotations", id=0))
@example(changed(INSTANCES, "annotations", id=-5))
@example(changed(INSTANCES, "annotations", segmentation=[]))
@example(changed(INSTANCES, "annotations", segmentation=[[1, 2]]))
@example(changed(INSTANCES, "annotations", segmentation=[[0.5, 10**400, 1, 1, 1, 1]]))
@example(changed(INSTANCES, "annotations", segmentation=[[0, 0, 1e9, 1e9, -1e9, 5]]))
@example(changed(INSTANCES, "annotations", segmentation=MASKS[2]))
@example(changed(INSTANCES, "annotations", segmentation=MASKS[5]))
@example(changed(INSTANCES, "categories", supercategory=5))
@example(as_json({**original(INSTANCES), "images": [], "annotations": []}).encode())
@pytest.mark.timeout(3000)
def test_any_instances_file_is_read_or_rejected(root, mapper, content):
    spoil(root, INSTANCES, content)
    checked(root, INSTANCES, "coco")
    with guarded(root.parent / "outside"):
        outcome(partial(read_labels, root / "coco", "val"), root / INSTANCES)
        outcome(partial(as_detectron2_uses_it, root, mapper, "coco_2017_val"), root)


@given(file_of(original(INSTANCES), (*MASKS, *BOXES, *QUIRKS)))
@example(changed(INSTANCES, "images", file_name="a\\\0b.jpg", height=None))
@example(changed(INSTANCES, "images", file_name="/etc/passwd", height=None))
@example(changed(INSTANCES, "images", height=str(10**400)))
@example(changed(INSTANCES, "images", id="9" * 15))
@example(changed(INSTANCES, "annotations", bbox=None, segmentation=[[1, 2]]))
@example(changed(INSTANCES, "annotations", bbox=None, segmentation=[[]]))
@example(changed(INSTANCES, "annotations", bbox=None, segmentation=[0.5, 10**400, 1, 1, 1, 1]))
@example(changed(INSTANCES, "annotations", area=None, bbox=["1e308", "1", "2", "3"]))
@example(changed(INSTANCES, "annotations", area=None, bbox=[True, 0, 5, 5]))
@example(changed(INSTANCES, "annotations", area=None, segmentation=MASKS[2]))
@example(changed(INSTANCES, "annotations", bbox=None, segmentation=MASKS[5]))
@example(changed(INSTANCES, "annotations", id=None, iscrowd=THOUSANDS_OF_DIGITS))
@pytest.mark.timeout(3000)
def test_custom_file_is_read_or_rejected(root, mapper, content):
    spoil(root, INSTANCES, content)
    # images may lie anywhere
    outcome(partial(use_custom_file, root, mapper), root, "cannot decode the image", "are missing")


@given(file_of(original(KEYPOINTS), ([1, 2, 2] * 17, [0] * 51, *BOXES)))
@example(changed(KEYPOINTS, "annotations", keypoints=[10**400, 0, 2] * 17))
@example(changed(KEYPOINTS, "annotations", keypoints=[float("nan"), 0, 2] * 17))
@example(changed(KEYPOINTS, "annotations", keypoints=[1e6, -1e6, 1] * 17, num_keypoints=0))
@example(changed(KEYPOINTS, "annotations", keypoints=[True] * 51, num_keypoints=True))
@example(changed(KEYPOINTS, "annotations", keypoints=[0] * 51, area=-5, bbox=[0, 0, 0, 0]))
@example(changed(KEYPOINTS, "annotations", keypoints=[[1, 2, 2]] * 17))
@example(changed(KEYPOINTS, "annotations", keypoints={"nose": [1, 2]}))
@pytest.mark.timeout(3000)
def test_any_keypoints_file_is_read_or_rejected(root, content):
    spoil(root, KEYPOINTS, content)
    checked(root, KEYPOINTS, "coco_keypoints")
    with guarded(root.parent / "outside"):
        outcome(partial(use_keypoints, root), root)


@given(file_of(original(LVIS), (*OUTSIDE, *MASKS, *BOXES, *ADDRESSES)))
@example(changed(LVIS, "images", coco_url="http://h/../secret.jpg"))
@example(changed(LVIS, "annotations", segmentation=[[1, 2]]))
@pytest.mark.timeout(3000)
def test_any_lvis_file_is_read_or_rejected(root, mapper, content):
    spoil(root, LVIS, content)
    checked(root, LVIS, "lvis")
    with guarded(root.parent / "outside"):
        outcome(partial(as_detectron2_uses_it, root, mapper, "lvis_v1_val"), root)


@given(file_of(original(CAPTIONS), OUTSIDE))
@example(changed(CAPTIONS, "images", file_name="../../../outside/secret.jpg"))
@example(changed(CAPTIONS, "annotations", image_id=True))
@pytest.mark.timeout(3000)
def test_any_captions_file_is_read_or_rejected(root, content):
    spoil(root, CAPTIONS, content)
    checked(root, CAPTIONS, "coco_captioning")
    with guarded(root.parent / "outside"):
        for skip in (False, True):
            outcome(partial(read_captions, root / "coco", "val", skip), root / CAPTIONS)


@given(file_of(original(SPECIES), OUTSIDE))
@example(changed(SPECIES, "images", file_name="a/../../../outside/secret.jpg"))
@pytest.mark.timeout(3000)
def test_any_inaturalist_file_is_read_or_rejected(root, content):
    spoil(root, SPECIES, content)
    checked(root, SPECIES, "inaturalist")
    with guarded(root.parent / "outside"):
        outcome(partial(read_inaturalist, root), root)


@given(st.sampled_from([INSTANCES, LVIS, CAPTIONS, SPECIES]), st.data())
def test_corrupted_annotation_file_is_read_or_rejected(root, path, data):
    spoil(root, path, data.draw(broken((smallest() / path).read_text())))
    for name, task in TASKS.items():
        if path in [need.path for need in task.layout.needs]:
            checked(root, path, name)


def as_detectron2_uses_it(root, mapper, name):
    """Read, look for the images, load each with its objects, and score detections."""
    cfg = settings()
    cfg.DATASETS.TEST = (name,)
    _, sets = read_data(cfg, root, eval_only=True)
    samples = sets[name]
    require_paths(sample["file_name"] for sample in samples)
    for sample in samples:
        raise_if_error([mapper(sample)])
    content = json.loads((root / DETECTION_SETS[name].annotations).read_bytes())
    style = DETECTION_SETS[name].kind
    rows = detections(name, samples)
    scores = [
        score_detections(scorable_json(content, style), rows, ["bbox", "segm"], style, scorer)
        for scorer in ("hotcoco", "reference")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9, nan_ok=True)


def use_custom_file(root, mapper):
    """The same with a custom dataset, scored against what was read."""
    cfg = settings()
    cfg.DATASETS.TEST = ("custom_val",)
    entry = DetectionSet("custom_val", "coco", str(root / INSTANCES), str(root / "coco/val2017"))
    _, sets = read_data(cfg, root, eval_only=True, custom=[entry])
    samples = sets["custom_val"]
    require_paths(sample["file_name"] for sample in samples)
    for sample in samples:
        raise_if_error([mapper(sample)])
    truth, rows = loaded_set("custom_val").ground_truth, detections("custom_val", samples)
    scores = [
        score_detections(truth, rows, ["bbox", "segm"], "coco", scorer)
        for scorer in ("hotcoco", "reference")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9, nan_ok=True)


def use_keypoints(root):
    """The same with keypoints, those of each object found at its corner."""
    cfg = build_settings(packaged_protocol("coco_keypoints", "toy"), [], 1, "cpu").cfg
    (name,) = cfg.DATASETS.TEST
    _, sets = read_data(cfg, root, eval_only=True)
    mapper = SafeMapper(DatasetMapper(cfg, True))
    for sample in sets[name]:
        require_paths([sample["file_name"]])
        raise_if_error([mapper(sample)])
    rows = [row | {"keypoints": [1, 1, 0.5] * 17} for row in detections(name, sets[name])]
    scores = [
        score_detections(loaded_set(name).ground_truth, rows, ["bbox", "keypoints"], "coco", scorer)
        for scorer in ("hotcoco", "reference")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9, nan_ok=True)


def detections(name, samples):
    """One that fills each image, of the first class."""
    kinds = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    rows = []
    for sample in samples:
        height, width = sample["height"], sample["width"]
        counts = pycocotools.mask.frPyObjects(
            {"size": [height, width], "counts": [0, height * width]}, height, width
        )["counts"]
        rows.append(
            {
                "image_id": sample["image_id"],
                "category_id": next(iter(kinds), 1),
                "score": 0.5,
                "bbox": [0, 0, width, height],
                "segmentation": {"size": [height, width], "counts": counts.decode()},
            }
        )
    return rows


@pytest.fixture(scope="module")
def mapper(root):
    """What makes a training sample of an image and its annotations.

    Sound data are used first: what is imported on the way takes longer than a case may.
    """
    made = sample_maker()
    for name in ("coco_2017_val", "lvis_v1_val"):
        as_detectron2_uses_it(smallest(), made, name)
    return made


def sample_maker():
    return SafeMapper(DatasetMapper(settings(), True))


def settings():
    return build_settings(packaged_protocol("coco", "toy"), [], 1, "cpu").cfg
