"""A trained detector on any images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.detectron.backbones import make_backbone
from tests.detectron.test_transfer import finished, moco_file, record
from tests.errors import assert_invalid_input
from tests.tool_runs import completed
from virtex.checkpoints.inputs import saved_input
from virtex.config import save_config
from virtex.detectron.loading import build_mapper
from virtex.detectron.predict import SKIPPED
from virtex.detectron.settings import load_config
from virtex.detectron.trainer import build_detector
from virtex.eval_tools import predict
from virtex.tasks import packaged_protocol

__all__ = ["finished", "moco_file"]  # fixtures
DETECTIONS = "detections_coco_2017_val.json"
LISTED = "0000000*.jpg"  # images of instances_val2017.json, without those of persons


def run(weights, out, *images, threshold="0", more=()):
    given = ["--weights", weights, "--output-dir", out, "--num-gpus", "0", "--num-workers", "0"]
    return completed(predict, *given, "--score-threshold", threshold, *more, "--images", *images)


def read(out):
    names = ("images.json", "predictions.json")
    return (json.loads((out / name).read_text()) for name in names)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, toy, finished):
    """Predictions for the test images of a run."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    done = run(finished, out, toy / "coco/val2017" / LISTED)
    assert done.returncode == 0, done.stderr
    return out


def test_detections_match_the_evaluation(predicted, toy, finished):
    images, rows = read(predicted)
    content = json.loads((toy / "coco/annotations/instances_val2017.json").read_text())
    original = {image["file_name"]: image for image in content["images"]}
    ids = {}
    for image in images["images"]:
        stated = original[Path(image["file_name"]).name]
        assert (image["width"], image["height"]) == (stated["width"], stated["height"])
        ids[image["id"]] = stated["id"]
    assert sorted(ids.values()) == sorted(image["id"] for image in content["images"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert {c["id"]: c["name"] for c in images["categories"]} == names
    assert all(row.pop("category_name") == names[row["category_id"]] for row in rows)
    ours = [row | {"image_id": ids[row["image_id"]]} for row in rows]
    evaluated = json.loads((finished / DETECTIONS).read_text())
    assert len(ours) == len(evaluated) > 0
    assert sorted(ours, key=str) == sorted(evaluated, key=str)


def test_figures(predicted, toy):
    figures = list((predicted / "gallery").iterdir())
    assert {path.stem for path in figures} == {p.stem for p in (toy / "coco/val2017").glob(LISTED)}
    assert all(cv2.imread(str(path)) is not None for path in figures)


def test_files_are_read_by_pycocotools(predicted):
    from pycocotools.coco import COCO

    truth = COCO(str(predicted / "images.json"))
    found = truth.loadRes(str(predicted / "predictions.json"))
    assert set(found.getImgIds()) == set(truth.getImgIds())
    assert len(found.getAnnIds()) > 0


@pytest.fixture
def found(predicted):
    """Image files in which the detector finds objects -> their rows."""
    images, rows = read(predicted)
    names = {image["id"]: Path(image["file_name"]) for image in images["images"]}
    by_image = {}
    for row in rows:
        by_image.setdefault(names[row.pop("image_id")], []).append(row)
    assert len(by_image) >= 2
    return by_image


def test_threshold_and_pattern(tmp_path, finished, found):
    paths = sorted(found)[:2]
    folder = tmp_path / "images"
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    scores = sorted(row["score"] for path in paths for row in found[path])
    threshold = scores[len(scores) // 2]
    checkpoint, pattern = finished / "model_final.pth", f"{folder}/*{paths[0].suffix}"
    done = run(
        checkpoint, tmp_path / "out", pattern, folder / paths[0].name, threshold=str(threshold)
    )
    assert done.returncode == 0, done.stderr
    images, rows = read(tmp_path / "out")
    assert [Path(image["file_name"]).name for image in images["images"]] == [p.name for p in paths]
    assert sorted(row["score"] for row in rows) == [s for s in scores if s >= threshold]


def test_image_rotated_by_exif(tmp_path, finished, found):
    """The same pixels, stored rotated, give the same detections."""
    upright = Image.open(next(iter(found))).convert("RGB")
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 270 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    out = tmp_path / "out"
    assert run(finished, out, tmp_path / "upright.png", tmp_path / "turned.png").returncode == 0
    images, rows = read(out)
    assert [(image["width"], image["height"]) for image in images["images"]] == 2 * [upright.size]
    first, second = (
        [{k: v for k, v in row.items() if k != "image_id"} for row in rows if row["image_id"] == n]
        for n in (1, 2)
    )
    assert first == second == next(iter(found.values()))


def test_unreadable_images_are_skipped_and_reported(tmp_path, finished, found):
    good, broken = next(iter(found)), tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    done = run(finished, tmp_path / "out", tmp_path, good)
    assert done.returncode == SKIPPED
    assert "Traceback" not in done.stderr and str(broken) in done.stderr
    images, rows = read(tmp_path / "out")
    assert [s["file_name"] for s in images["info"]["skipped"]] == [str(broken)]
    assert [image["file_name"] for image in images["images"]] == [str(good)]
    assert len(rows) == len(found[good])
    assert len(list((tmp_path / "out/gallery").iterdir())) == 1
    done = run(finished, tmp_path / "none", broken)
    assert_invalid_input(done, "data.image")
    assert not (tmp_path / "none/predictions.json").exists()


def test_small_and_gray_images(tmp_path, finished):
    Image.fromarray(np.full((1, 3, 3), 200, np.uint8)).save(tmp_path / "tiny.png")
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / "gray.png")
    done = run(finished, tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stderr


def test_output_folder_is_protected(tmp_path, toy, finished):
    image = next((toy / "coco/val2017").iterdir())
    own = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    assert_invalid_input(run(own, own, image), "run.exists")
    assert_invalid_input(run(own, own, image, more=["--overwrite"]), "run.deletes_input")
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    out = tmp_path / "out"
    assert run(finished, out, image).returncode == 0
    assert_invalid_input(run(finished, out, image), "run.exists")
    other = max((toy / "coco/val2017").iterdir())
    (out / "notes.txt").write_text("of the user")
    assert run(finished, out, other, more=["--overwrite"]).returncode == 0
    assert [path.stem for path in (out / "gallery").iterdir()] == [other.stem]
    assert (out / "notes.txt").exists()


def test_invalid_weights(tmp_path, toy, finished, moco_file):
    image = next((toy / "coco/val2017").iterdir())
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert_invalid_input(run(tmp_path / "empty", out, image), "predict.no_detector", "empty")
    assert_invalid_input(run(tmp_path / "missing", out, image), "predict.no_detector", "missing")
    assert_invalid_input(run(moco_file, out, image), "predict.no_config", moco_file)
    own = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.copy(moco_file, own / "model_final.pth")
    assert_invalid_input(run(own, out, image), "detection.weights_mismatch", "model_final.pth")
    content = torch.load(finished / "model_final.pth", weights_only=True)
    torch.save({"model": content["model"]}, own / "model_final.pth")
    assert_invalid_input(run(own, out, image), "predict.no_classes", "model_final.pth")
    shutil.copy(finished / "model_final.pth", own)
    (own / "config.yaml").write_text("MODEL: {NO_SUCH: 1}")
    assert_invalid_input(run(own, out, image), "config.unreadable", "config.yaml")
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["--images", "nowhere.jpg"], "data.no_images"),
        (["--images", "nowhere/*.jpg"], "data.no_images"),
        (["--images", "."], "data.no_images"),
        (["--images", "a.jpg", "--score-threshold", "2"], "arguments.invalid"),
        (["--images", "a.jpg", "--score-threshold", "nan"], "arguments.invalid"),
        (["--images", "a.jpg", "--num-gpus", "2"], "arguments.invalid"),
        ([], "arguments.invalid"),
    ],
)
def test_invalid_arguments(tmp_path, monkeypatch, finished, given, code):
    monkeypatch.chdir(tmp_path)
    assert_invalid_input(completed(predict, "--weights", finished, *given), code)
    assert list(tmp_path.iterdir()) == []


def test_old_checkpoint_without_category_ids(tmp_path, toy, finished):
    own = Path(shutil.copytree(finished, tmp_path / "run"))
    content = torch.load(own / "model_final.pth", weights_only=True)
    del content["category_ids"]
    torch.save(content, own / "model_final.pth")
    assert run(own, tmp_path / "out", next((toy / "coco/val2017").iterdir())).returncode == 0
    images, _ = read(tmp_path / "out")
    classes = [row["class"] for row in record(finished)["details"]["per_class"]["coco_2017_val"]]
    assert images["categories"] == [{"id": n, "name": name} for n, name in enumerate(classes)]


def write_untrained(folder, task, classes):
    """Write a run with a detector of random weights; return the detector and its settings."""
    cfg = load_config(packaged_protocol(task, "toy"))
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.DEVICE, cfg.INPUT.MIN_SIZE_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = "cpu", 96, 3
    torch.manual_seed(0)
    model = build_detector(cfg).eval()
    folder.mkdir()
    save_config(cfg, folder / "config.yaml")
    content = {"model": model.state_dict(), **saved_input(make_backbone("resnet18"), classes)}
    torch.save(content, folder / "model_final.pth")
    return model, cfg


def test_keypoints(tmp_path, toy):
    own, out = tmp_path / "run", tmp_path / "out"
    model, cfg = write_untrained(own, "coco_keypoints", ["person"])
    path = next((toy / "coco/val2017").iterdir())
    done = run(own, out, path)
    assert done.returncode == 0, done.stderr
    _, rows = read(out)
    with torch.no_grad():
        (output,) = model([build_mapper(cfg, False)({"file_name": str(path)})])
    expected = output["instances"].pred_keypoints.numpy() - [0.5, 0.5, 0]  # indices of pixels
    assert len(expected) > 0
    found = np.reshape([row["keypoints"] for row in rows], expected.shape)
    assert found == pytest.approx(expected, abs=1e-4)
    figure, image = (cv2.imread(str(p)) for p in (next((out / "gallery").iterdir()), path))
    size = figure.shape[1], figure.shape[0]
    assert np.abs(figure.astype(float) - cv2.resize(image, size)).max() > 100  # drawn


def test_heads_of_ours_are_registered_in_a_fresh_process():
    """ViTDet's on LVIS; in this process, other tests import their modules, too."""
    code = (
        "import virtex.detectron.predict\n"
        "from detectron2.modeling import ROI_HEADS_REGISTRY\n"
        "assert 'SigmoidROIHeads' in ROI_HEADS_REGISTRY"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_label_maps(tmp_path, toy):
    """Those of the network, for images as the evaluation loads them."""
    own, out = tmp_path / "run", tmp_path / "out"
    classes = [f"class {index}" for index in range(21)]
    model, cfg = write_untrained(own, "voc_seg", classes)
    paths = sorted((toy / "coco/val2017").iterdir())[:2]
    done = run(own, out, *paths)
    assert done.returncode == 0, done.stderr
    images = json.loads((out / "images.json").read_text())
    assert [category["name"] for category in images["categories"]] == classes
    mapper = build_mapper(cfg, False)
    for image, path in zip(images["images"], paths, strict=True):
        with torch.no_grad():
            (output,) = model([mapper({"file_name": str(path)})])
        labels = cv2.imread(str(out / image["label_map"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (image["height"], image["width"])
        assert np.array_equal(labels, output["sem_seg"].argmax(dim=0).numpy())
        assert len(np.unique(labels)) > 1
    assert len(list((out / "gallery").iterdir())) == 2
    assert not (out / "predictions.json").exists()
    assert run(own, out, paths[0], more=["--overwrite"]).returncode == 0
    assert len(list((out / "label_maps").iterdir())) == 1
