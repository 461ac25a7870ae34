"""Bad input gets one sentence and status 2, and nothing is written."""

import re
import shutil

import pytest

from tests.eval_tools.probe_runs import (
    KINDS,
    arguments,
    ended_well,
    quick,
    record_of,
    refused,
    refused_in_a_line,
    status_of,
)


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        ("svm", ("VOC2007/JPEGImages", "VOC2007/ImageSets/Main/trainval.txt")),
        ("linear", ("imagenet/train", "imagenet/val")),
        ("knn", ("imagenet/train", "imagenet/val")),
        ("fractions", ("imagenet/train", "imagenet/val")),
        ("inaturalist", ("inaturalist/train_val2018", "inaturalist/annotations/val2018.json")),
    ],
)
def test_a_data_root_without_the_data_says_what_is_missing_and_what_is_there(
    tmp_path, out, capsys, kind, paths
):
    root = tmp_path / "elsewhere"
    (root / "coco").mkdir(parents=True)
    error = refused(capsys, out, kind, arguments(kind, root, out))
    for path in paths:
        assert f"{root / path}  (no such" in error
    assert f"The data root {root} holds coco/." in error


def test_an_empty_class_folder_is_named(copy_of_data, out, capsys):
    empty = min((copy_of_data / "imagenet/train").iterdir())
    for image in empty.iterdir():
        image.unlink()
    error = refused_in_a_line(capsys, out, "linear", arguments("linear", copy_of_data, out))
    assert f"1 class folders of {empty.parent} hold no image: {empty.name}" in error


def test_val_with_other_classes_than_train_is_refused(copy_of_data, out, capsys):
    folder = min((copy_of_data / "imagenet/val").iterdir())
    folder.rename(folder.with_name("n12345678"))
    error = refused_in_a_line(capsys, out, "knn", arguments("knn", copy_of_data, out))
    assert "1 class folders of val are not in train (n12345678)" in error
    assert f"1 class folders of train are not in val ({folder.name})" in error


def test_labels_of_voc_that_disagree_with_the_list_of_images_are_named(copy_of_data, out, capsys):
    path = copy_of_data / "VOC2007/ImageSets/Main/cat_trainval.txt"
    path.write_text(path.read_text().partition("\n")[2])
    error = refused_in_a_line(capsys, out, "svm", arguments("svm", copy_of_data, out))
    assert f"{path} does not have the images of trainval.txt: it lacks 1 images (000001)" in error


def broken_image(folder):
    path = min(folder.rglob("*.jpg"), default=None) or min(folder.rglob("*.JPEG"))
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("svm", "VOC2007/JPEGImages"),
        ("knn", "imagenet/val"),
        ("cached", "imagenet/train"),
        ("linear", "imagenet/train"),
        ("inaturalist", "inaturalist/train_val2018"),
    ],
)
def test_an_image_that_does_not_decode_is_named_and_no_result_is_written(
    copy_of_data, out, cache, capsys, kind, place
):
    path = broken_image(copy_of_data / place)
    assert status_of(kind, arguments(kind, copy_of_data, out)) == 2
    error = capsys.readouterr().err
    assert f"error: cannot decode the image {path}: " in error
    assert len(error.strip().splitlines()) == 1
    assert not (out / "result.json").exists()
    assert not list(cache.glob("partial-*"))


def test_a_probe_goes_on_once_the_image_is_restored(copy_of_data, data, out, finished):
    path = broken_image(copy_of_data / "imagenet/val")
    assert status_of("knn", arguments("knn", copy_of_data, out)) == 2
    shutil.copyfile(data / path.relative_to(copy_of_data), path)
    ended_well("knn", copy_of_data, out, "--overwrite")
    assert record_of(out)["metrics"] == record_of(finished("knn"))["metrics"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [("linear", "imagenet/train"), ("inaturalist", "inaturalist/train_val2018")],
)
def test_training_goes_on_without_bad_images_where_that_is_asked(
    copy_of_data, out, finished, kind, place
):
    if kind == "linear":
        path = broken_image(copy_of_data / place)
    else:  # a training image, for validation leaves none out
        annotations = (copy_of_data / "inaturalist/annotations/train2018.json").read_text()
        path = copy_of_data / "inaturalist" / re.search(r'"file_name": ?"([^"]+)"', annotations)[1]
        path.write_bytes(path.read_bytes()[:200])
    ended_well(kind, copy_of_data, out, "--skip-bad-images")
    assert f"left out: cannot decode the image {path}" in (out / "log.txt").read_text()
    deviations = record_of(out)["protocol"]["overrides"]
    assert {
        "key": "skip_bad_images",
        "protocol": False,
        "run": True,
        "reason": "override",
    } in deviations
    assert len(deviations) == len(KINDS[kind].settings) + 1


def test_a_bad_validation_image_is_never_left_out(copy_of_data, out, capsys):
    path = broken_image(copy_of_data / "imagenet/val")
    argv = arguments("linear", copy_of_data, out, "--skip-bad-images", **quick())
    assert status_of("linear", argv) == 2
    assert f"cannot decode the image {path}" in capsys.readouterr().err
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "message"),
    [
        ("svm", ("--protocol", "cached"), {}, "task voc07_svm has no protocol 'cached'; it has"),
        ("linear", ("--protocol", "x"), {}, "it has paper, cached, toy, toy-cached"),
        ("knn", ("--protocol", "cached"), {}, "task imagenet_knn has no protocol 'cached'"),
        ("inaturalist", ("--protocol", "x"), {}, "task inaturalist has no protocol 'x'"),
        ("svm", (), {"SVM__COST": 1}, "SVM.COSTS"),
        ("linear", (), {"OPTIM__RATE": 1}, "OPTIM.RATE"),
        ("linear", (), {"PROBE__LRS": [1.0]}, "PROBE.LRS"),
        ("linear", (), {"OPTIM__LR": "high"}, "OPTIM.LR"),
        ("linear", (), {"DATA__IMAGE_CROP_SIZE": 64}, "DATA.IMAGE_CROP_SIZE is 64"),
        ("linear", (), {"OPTIM__WARMUP_EPOCHS": 9.0}, "OPTIM.WARMUP_EPOCHS is 9.0"),
        ("svm", ("SVM.COSTS",), {}, "overrides come in pairs KEY VALUE"),
        ("svm", ("--low-shot", "0"), {}, "argument --low-shot: '0' is not a whole number above 0"),
        ("fractions", ("--fraction", "2"), {}, "--fraction 2 is more than all"),
        ("fractions", ("--fraction", "0"), {}, "argument --fraction: '0' is not a number above 0"),
        ("inaturalist", ("--image-folder", "."), {}, "--image-folder belongs to --fraction"),
        ("knn", ("--checkpoint", "nowhere.pth"), {}, "nowhere.pth"),
        ("knn", ("--checkpoint", "random:resnet19"), {}, "resnet18"),
        ("knn", ("--image-folder", "nowhere"), {}, "nowhere has no folder train"),
        ("svm", ("--num-gpus", "4096"), {}, "--num-gpus 0 runs on the CPU"),
    ],
)
def test_a_wrong_flag_or_setting_is_refused(data, out, capsys, kind, flags, settings, message):
    argv = arguments(kind, data, out, *flags, **settings)
    assert message in refused_in_a_line(capsys, out, kind, argv)


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist"])
def test_without_a_checkpoint_the_flag_is_named(data, out, capsys, kind):
    argv = arguments(kind, data, out)[2:]
    assert "--checkpoint is missing" in refused_in_a_line(capsys, out, kind, argv)


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist", "fractions"])
def test_an_output_folder_that_is_a_file_is_refused(data, out, capsys, kind):
    out.write_text("a file")
    error = refused_in_a_line(capsys, out, kind, arguments(kind, data, out))
    assert f"--output-dir {out}" in error
    assert out.read_text() == "a file"


def test_a_feature_cache_that_cannot_be_written_is_told_before_anything_is(
    data, out, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    argv = arguments("knn", data, out, "--cache-dir", tmp_path / "file")
    error = refused_in_a_line(capsys, out, "knn", argv)
    assert "[probe.cache_not_a_folder]" in error and str(tmp_path / "file") in error


def test_a_feature_cache_that_is_too_small_is_told_before_anything_is(data, out, capsys):
    argv = arguments("knn", data, out, "--cache-limit", "0.000001")
    error = refused_in_a_line(capsys, out, "knn", argv)
    assert "[probe.cache_limit]" in error and "--cache-limit" in error
