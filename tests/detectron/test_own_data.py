"""Custom data in COCO's format: --train-json, --train-images, --val-json, --val-images."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.detectron.test_transfer import (
    QUICK,
    TWO_ITERATIONS,
    assert_classes_explain,
    common,
    error_of,
    moco_file,
    record,
    run,
)
from tests.errors import raises_code
from virtex.data.custom_coco import complete_coco
from virtex.data.detection_sets import DetectionSet
from virtex.detectron.datasets import (
    CUSTOM_SETS,
    READERS,
    custom_sets,
    data_notes,
    register_detection_sets,
)
from virtex.detectron.settings import load_config
from virtex.tasks import packaged_protocol

__all__ = ["moco_file"]  # a fixture
TRAIN, VAL = 16, 4
FEW = ("MODEL.RPN.POST_NMS_TOPK_TEST", "10", "TEST.DETECTIONS_PER_IMAGE", "5")


@pytest.fixture(autouse=True)
def catalog():
    yield
    for name in CUSTOM_SETS.values():
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture
def own(toy, tmp_path):
    """20 images in a folder, split by two JSON files beside it; ids of classes have gaps."""
    folder = tmp_path / "own"
    shutil.copytree(toy / "coco/train2017", folder / "images")
    content = json.loads((toy / "coco/annotations/instances_train2017.json").read_text())
    used = sorted({a["category_id"] for a in content["annotations"]})
    ids = {number: 10 * position + 3 for position, number in enumerate(used)}
    categories = [c | {"id": ids[c["id"]]} for c in content["categories"] if c["id"] in ids]
    for split, images in (
        ("train", content["images"][:TRAIN]),
        ("val", content["images"][TRAIN : TRAIN + VAL]),
    ):
        kept = {image["id"] for image in images}
        part = {
            "images": images,
            "categories": categories,
            "annotations": [
                a | {"category_id": ids[a["category_id"]]}
                for a in content["annotations"]
                if a["image_id"] in kept
            ],
        }
        (folder / f"{split}.json").write_text(json.dumps(part))
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flags(own, *splits):
    return [
        word
        for split in splits or ("train", "val")
        for word in (f"--{split}-json", own / f"{split}.json", f"--{split}-images", own / "images")
    ]


def read(own, split="val", images=None):
    entry = DetectionSet(
        CUSTOM_SETS["TEST"], "coco", str(own / f"{split}.json"), str(images or own / "images")
    )
    return READERS["coco"](entry, Path(), True)


def test_own_data_end_to_end(capsys, tmp_path, moco_file, own):
    out = tmp_path / "out"
    given = [*common(moco_file, tmp_path / "nowhere", out), *flags(own)]
    more = [*QUICK, *TWO_ITERATIONS, *FEW]
    assert run(*given, *more) == 0
    found = record(out)
    # not a number of COCO
    assert (found["task"], found["protocol"]["name"]) == ("custom", "toy/coco")
    overrides = {o["key"]: o["run"] for o in found["protocol"]["overrides"]}
    assert overrides["DATASETS.TRAIN"] == ["custom_train"]
    assert overrides["DATASETS.TEST"] == ["custom_val"]
    assert {name: about["images"] for name, about in found["data"].items()} == {
        "custom_train": TRAIN,
        "custom_val": VAL,
    }
    assert_classes_explain(found)
    content = json.loads((own / "val.json").read_text())
    table = found["details"]["per_class"]["custom_val"]
    assert [row["class"] for row in table] == [c["name"] for c in content["categories"]]
    assert "custom_val, per class" in capsys.readouterr().out
    # detections have the ids of the file
    rows = json.loads((out / "detections_custom_val.json").read_text())
    assert rows and {r["category_id"] for r in rows} <= {c["id"] for c in content["categories"]}
    # evaluated again without the training set, and protected
    (out / "result.json").unlink()
    given = [*common(moco_file, tmp_path / "nowhere", out), *flags(own, "val"), *more]
    assert run(*given, "--eval-only") == 0
    again = record(out)
    for key in ("task", "metrics", "protocol", "data"):
        assert again[key] == found[key]
    edit(own / "val.json", lambda c: c["annotations"][0].update(iscrowd=1))
    error = error_of(capsys, out, *given, "--eval-only")
    assert "[resume.mismatch]" in error and "custom_val" in error


def first(key, **values):
    return lambda content: content[key][0].update(values)


def of_all(key, change):
    def apply(content):
        for item in content[key]:
            change(item)

    return apply


def as_text(item):
    item.update({k: str(v) for k, v in item.items() if k in ("id", "image_id", "category_id")})


def as_float(item):
    item.update({k: float(v) for k, v in item.items() if k in ("id", "image_id", "category_id")})


def ids_of(convert):
    def apply(content):
        for key in ("images", "annotations", "categories"):
            of_all(key, convert)(content)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        of_all("annotations", lambda a: a.pop("iscrowd")),
        of_all("annotations", lambda a: a.update(iscrowd=None)),
        of_all("annotations", lambda a: a.update(id=1)),
        of_all("annotations", lambda a: a.pop("id")),
        ids_of(as_text),
        ids_of(as_float),
        of_all("images", lambda i: (i.pop("height"), i.pop("width"))),
        of_all("images", lambda i: i.update(height=float(i["height"]), width=str(i["width"]))),
        of_all("annotations", lambda a: a.update(bbox=list(map(str, a["bbox"])))),
        of_all("annotations", lambda a: a.update(segmentation=a["segmentation"][0])),
        of_all("annotations", lambda a: a["segmentation"].append([])),
    ],
)
def test_completed_file_is_read_as_the_original(own, change):
    edit(own / "val.json", lambda c: one_polygon(c) or of_all("annotations", no_crowd)(c))
    before = read(own)
    edit(own / "val.json", change)
    after = read(own)
    assert (after.samples, after.metadata) == (before.samples, before.metadata)
    assert json.loads(after.ground_truth) == json.loads(before.ground_truth)


def no_crowd(annotation):
    annotation["iscrowd"] = 0


def one_polygon(content):
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], dict):  # a crowd
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        annotation["segmentation"] = annotation["segmentation"][:1]


def test_boxes_and_areas_are_computed(own):
    """From masks, or areas from boxes."""
    edit(own / "val.json", lambda c: one_polygon(c) or of_all("annotations", no_crowd)(c))
    before = read(own)
    edit(own / "val.json", of_all("annotations", lambda a: (a.pop("area"), a.pop("bbox"))))
    after = read(own)
    for mine, theirs in zip(after.samples, before.samples, strict=True):
        for ours, original in zip(mine["annotations"], theirs["annotations"], strict=True):
            assert ours["bbox"] == pytest.approx(original["bbox"], abs=1.5)
    areas = [
        [a["area"] for a in json.loads(read.ground_truth)["annotations"]]
        for read in (after, before)
    ]
    assert areas[0] == pytest.approx(areas[1], rel=0.1)
    edit(
        own / "val.json",
        of_all("annotations", lambda a: a.update(bbox=[1, 2, 3, 4], segmentation=[])),
    )
    truth = json.loads(read(own).ground_truth)
    assert {a["area"] for a in truth["annotations"]} == {12}
    assert all("segmentation" not in o for s in read(own).samples for o in s["annotations"])


def test_notes_name_what_was_assumed(own):
    def change(content):
        content["annotations"][0].update(bbox=[0, 0, 9000, 5], iscrowd=1)
        content["annotations"][1].pop("iscrowd")

    assert read(own).notes == []
    edit(own / "val.json", change)
    text = " ".join(read(own).notes)
    for word in ("1 boxes reach beyond", "1 objects are crowds", "1 objects without iscrowd"):
        assert word in text


def test_labeled_keypoints_are_counted(own):
    annotation = {"keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0], "bbox": [1, 2, 3, 4]}
    notes = complete_coco({"annotations": [annotation]}, own)
    assert annotation["num_keypoints"] == 2
    assert any("num_keypoints" in note for note in notes)


@pytest.mark.parametrize("kind", ["absolute", "subfolder", "parent", "windows", "default folder"])
def test_file_names(own, kind):
    (own / "images/deep").mkdir()
    names = {}

    def rename(image):
        name = image["file_name"]
        shutil.copy(own / "images" / name, own / "images/deep")
        names[image["id"]], image["file_name"] = {
            "absolute": (own / "images" / name, str(own / "images" / name)),
            "subfolder": (own / "images/deep" / name, f"deep/{name}"),
            "parent": (own / "images/../images" / name, f"../images/{name}"),
            "windows": (own / "images/deep" / name, f"deep\\{name}"),
            "default folder": (own / "images" / name, f"images/{name}"),
        }[kind]

    edit(own / "val.json", of_all("images", rename))
    if kind == "default folder":
        args = Namespace(val_json=str(own / "val.json"), train_json=None, eval_only=True)
        args.val_images = None
        (entry,) = custom_sets(args, load_config(packaged_protocol("coco", "toy")))
        samples = READERS["coco"](entry, Path(), True).samples
    else:
        samples = read(own).samples
    assert {s["image_id"]: s["file_name"] for s in samples} == {k: str(v) for k, v in names.items()}
    assert all(Path(sample["file_name"]).is_file() for sample in samples)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.pop("categories"), "categories"),
        (lambda c: c["categories"].clear(), "categories"),
        (first("annotations", category_id=5), "category_id"),
        (lambda c: c["categories"].append(c["categories"][0] | {"id": 999}), "name"),
        (first("categories", name=None), "name"),
        (first("images", id="image_1"), "images[0]"),
        (first("images", id=1.5), "images[0]"),
        (first("images", file_name=7), "file_name"),
        (first("images", file_name=""), "file_name"),
        (lambda c: c["images"][1].update(id=str(c["images"][0]["id"])), "images[1]"),
        (first("annotations", image_id=10**6), "image_id"),
        (first("annotations", image_id=[1]), "image_id"),
        (first("annotations", category_id="car"), "category_id"),
        (first("annotations", bbox=[1, 2, 3]), "bbox"),
        (first("annotations", bbox=[1, 2, -3, 4]), "bbox"),
        (first("annotations", bbox=["a", 2, 3, 4]), "bbox"),
        (first("annotations", bbox=None, segmentation=[]), "bbox"),
        (first("annotations", bbox={"x": 1}), "bbox"),
        (first("annotations", bbox=[0, 0, float("nan"), 4]), "bbox"),
        (first("annotations", area="large"), "area"),
        (first("annotations", iscrowd="no"), "iscrowd"),
        (first("annotations", iscrowd=2), "iscrowd"),
        (first("annotations", segmentation="mask"), "segmentation"),
        (first("annotations", segmentation=[["a", "b"]]), "segmentation"),
        (first("annotations", segmentation={"size": [1, 1], "counts": [1]}), "segmentation"),
        (first("annotations", segmentation={"counts": None}), "segmentation"),
        (lambda c: c["annotations"].append(None), "annotations["),
        (lambda c: c["images"].append([]), "images["),
        (lambda c: c.update(annotations={"1": {}}), "annotations"),
        (lambda c: c.update(images=None), "images"),
    ],
)
def test_ambiguous_file_is_refused(own, change, named):
    edit(own / "val.json", change)
    with raises_code("data.annotations", own / "val.json", named):
        read(own)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"x"', "1"])
def test_other_json_is_refused(own, text):
    (own / "val.json").write_text(text)
    with raises_code("data.annotations", own / "val.json"):
        read(own)


def test_set_without_images(own):
    edit(own / "val.json", lambda c: (c["annotations"].clear(), c["images"].clear()))
    with raises_code("data.empty", own / "val.json"):
        read(own)


def remove_masks(own):
    for split in ("train", "val"):
        edit(own / f"{split}.json", of_all("annotations", lambda a: a.update(segmentation=[])))


@pytest.mark.parametrize(
    ("prepare", "code", "named"),
    [
        (remove_masks, "data.mask_missing", "MODEL.MASK_ON"),
        (lambda own: (own / "val.json").unlink(), "data.missing", "val.json"),
        (lambda own: shutil.rmtree(own / "images"), "data.missing", "images"),
        (
            lambda own: edit(own / "val.json", lambda c: c["annotations"].clear()),
            "data.empty",
            "val.json",
        ),
        (
            lambda own: edit(own / "val.json", first("images", file_name="missing.jpg")),
            "data.missing",
            "missing.jpg",
        ),
        (
            lambda own: edit(own / "train.json", first("images", width=5, height=5)),
            "data.annotations",  # masks lie beyond the image
            "train.json",
        ),
        (
            lambda own: edit(own / "train.json", first("categories", name="other class")),
            "data.classes_differ",
            "other class",
        ),
        (
            lambda own: edit(own / "val.json", lambda c: swap_classes(c["categories"])),
            "data.classes_differ",
            "order",
        ),
    ],
)
def test_invalid_own_data(capsys, tmp_path, moco_file, own, prepare, code, named):
    prepare(own)
    out = tmp_path / "out"
    error = error_of(capsys, out, *common(moco_file, tmp_path, out), *QUICK, *flags(own))
    assert f"[{code}]" in error and named in error


def swap_classes(categories):
    categories[0]["name"], categories[1]["name"] = categories[1]["name"], categories[0]["name"]


@pytest.mark.whole
def test_boxes_only(tmp_path, moco_file, own):
    remove_masks(own)
    out = tmp_path / "out"
    given = [*common(moco_file, tmp_path, out), *flags(own), *QUICK, *TWO_ITERATIONS]
    assert run(*given, "MODEL.MASK_ON", "False") == 0
    assert "segm/AP" not in record(out)["metrics"]


def test_shared_images_are_noted(toy, own):
    sets = [
        DetectionSet(name, "coco", str(own / f"{split}.json"), str(own / "images"))
        for split, name in (("train", "custom_train"), ("val", "custom_val"))
    ]
    register_detection_sets(toy, ("custom_val",), sets)
    names = list(CUSTOM_SETS.values())
    assert not any("in common" in note for note in data_notes(names))
    shutil.copy(own / "val.json", own / "train.json")
    register_detection_sets(toy, ("custom_val",), sets)
    assert any("4 images in common" in note for note in data_notes(names))


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["--train-json", "a.json"], "arguments.invalid"),
        (["--val-json", "a.json"], "arguments.invalid"),
        (["--train-images", "a"], "arguments.invalid"),
        (["--val-json", "a.json", "--eval-only", "--train-images", "a"], "arguments.invalid"),
        (
            ["--train-json", "a", "--val-json", "a", "DATASETS.TEST", "('coco_2017_val',)"],
            "config.invalid_override",
        ),
    ],
)
def test_conflicting_flags(capsys, tmp_path, moco_file, given, code):
    out = tmp_path / "out"
    assert f"[{code}]" in error_of(capsys, out, *common(moco_file, tmp_path, out), *given)


def test_protocol_of_another_format(capsys, tmp_path, moco_file, own):
    out = tmp_path / "out"
    given = [*common(moco_file, tmp_path, out, "voc"), *flags(own)]
    assert "[data.kind]" in error_of(capsys, out, *given)


@pytest.mark.whole
def test_own_lvis_json(tmp_path, toy, moco_file):
    out = tmp_path / "out"
    given = [*common(moco_file, tmp_path, out, "lvis"), *QUICK, *TWO_ITERATIONS]
    for split in ("train", "val"):
        path = toy / f"lvis/lvis_v1_{split}.json"
        given += [f"--{split}-json", path, f"--{split}-images", toy / "coco"]
    assert run(*given, *FEW) == 0
    found = record(out)
    assert (found["task"], found["protocol"]["name"]) == ("custom", "toy/lvis")
    assert "bbox/APr" in found["metrics"]
