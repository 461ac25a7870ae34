"""Invalid input: exit status 2, one error with a code, and no output."""

import re
import shutil

import pytest

from tests.eval_tools.probe_runs import (
    KINDS,
    arguments,
    assert_error,
    assert_rejected,
    quick,
    record_of,
    run_to_end,
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
def test_missing_data(tmp_path, out, capsys, kind, paths):
    root = tmp_path / "elsewhere"
    (root / "coco").mkdir(parents=True)
    argv = arguments(kind, root, out)
    assert_rejected(capsys, out, kind, argv, "data.missing", *(root / path for path in paths))


def test_empty_class_folder(copy_of_data, out, capsys):
    empty = min((copy_of_data / "imagenet/train").iterdir())
    for image in empty.iterdir():
        image.unlink()
    argv = arguments("linear", copy_of_data, out)
    assert_rejected(capsys, out, "linear", argv, "data.class_folders", empty.parent, empty.name)


def test_classes_of_val_must_match_train(copy_of_data, out, capsys):
    folder = min((copy_of_data / "imagenet/val").iterdir())
    folder.rename(folder.with_name("n12345678"))
    argv = arguments("knn", copy_of_data, out)
    assert_rejected(capsys, out, "knn", argv, "data.class_folders", "n12345678", folder.name)


def test_voc_labels_must_match_image_list(copy_of_data, out, capsys):
    path = copy_of_data / "VOC2007/ImageSets/Main/cat_trainval.txt"
    path.write_text(path.read_text().partition("\n")[2])
    argv = arguments("svm", copy_of_data, out)
    assert_rejected(capsys, out, "svm", argv, "data.annotations", path, "000001")


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
def test_undecodable_image(copy_of_data, out, cache, capsys, kind, place):
    path = broken_image(copy_of_data / place)
    assert status_of(kind, arguments(kind, copy_of_data, out)) == 2
    assert_error(capsys, "data.image", path)
    assert not (out / "result.json").exists()
    assert not list(cache.glob("partial-*"))


def test_probe_succeeds_after_image_is_restored(copy_of_data, data, out, finished):
    path = broken_image(copy_of_data / "imagenet/val")
    assert status_of("knn", arguments("knn", copy_of_data, out)) == 2
    shutil.copyfile(data / path.relative_to(copy_of_data), path)
    run_to_end("knn", copy_of_data, out, "--overwrite")
    assert record_of(out)["metrics"] == record_of(finished("knn"))["metrics"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [("linear", "imagenet/train"), ("inaturalist", "inaturalist/train_val2018")],
)
def test_skip_bad_images(copy_of_data, out, finished, kind, place):
    if kind == "linear":
        path = broken_image(copy_of_data / place)
    else:  # a training image, because validation skips none
        annotations = (copy_of_data / "inaturalist/annotations/train2018.json").read_text()
        path = copy_of_data / "inaturalist" / re.search(r'"file_name": ?"([^"]+)"', annotations)[1]
        path.write_bytes(path.read_bytes()[:200])
    run_to_end(kind, copy_of_data, out, "--skip-bad-images")
    assert str(path) in (out / "log.txt").read_text()
    deviations = record_of(out)["protocol"]["overrides"]
    assert {
        "key": "skip_bad_images",
        "protocol": False,
        "run": True,
        "reason": "override",
    } in deviations
    assert len(deviations) == len(KINDS[kind].settings) + 1


def test_bad_validation_image_is_never_skipped(copy_of_data, out, capsys):
    path = broken_image(copy_of_data / "imagenet/val")
    argv = arguments("linear", copy_of_data, out, "--skip-bad-images", **quick())
    assert status_of("linear", argv) == 2
    assert_error(capsys, "data.image", path)
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "code", "named"),
    [
        ("svm", ("--protocol", "cached"), {}, "protocol.unknown", "voc07_svm"),
        ("linear", ("--protocol", "x"), {}, "protocol.unknown", "toy-cached"),
        ("knn", ("--protocol", "cached"), {}, "protocol.unknown", "imagenet_knn"),
        ("inaturalist", ("--protocol", "x"), {}, "protocol.unknown", "inaturalist"),
        ("svm", (), {"SVM__COST": 1}, "config.unknown_key", "SVM.COST"),
        ("linear", (), {"OPTIM__RATE": 1}, "config.unknown_key", "OPTIM.RATE"),
        ("linear", (), {"PROBE__LRS": [1.0]}, "config.unknown_key", "PROBE.LRS"),
        ("linear", (), {"OPTIM__LR": "high"}, "config.invalid_value", "OPTIM.LR"),
        (
            "linear",
            (),
            {"DATA__IMAGE_CROP_SIZE": 64},
            "config.invalid_value",
            "CROP_SIZE",
        ),
        (
            "linear",
            (),
            {"OPTIM__WARMUP_EPOCHS": 9.0},
            "config.invalid_value",
            "WARMUP_EPOCHS",
        ),
        ("svm", ("SVM.COSTS",), {}, "config.unpaired_override", "KEY VALUE"),
        ("svm", ("--low-shot", "0"), {}, "arguments.invalid", "--low-shot"),
        ("fractions", ("--fraction", "2"), {}, "arguments.invalid", "--fraction"),
        ("fractions", ("--fraction", "0"), {}, "arguments.invalid", "--fraction"),
        ("inaturalist", ("--image-folder", "."), {}, "arguments.conflict", "--image-folder"),
        ("knn", ("--checkpoint", "nowhere.pth"), {}, "checkpoint.not_found", "nowhere.pth"),
        ("knn", ("--checkpoint", "random:resnet19"), {}, "checkpoint.invalid_name", "resnet19"),
        ("knn", ("--image-folder", "nowhere"), {}, "data.missing", "nowhere"),
        ("svm", ("--num-gpus", "4096"), {}, "device.not_available", "--num-gpus"),
    ],
)
def test_invalid_arguments(data, out, capsys, kind, flags, settings, code, named):
    argv = arguments(kind, data, out, *flags, **settings)
    assert_rejected(capsys, out, kind, argv, code, named)


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist"])
def test_checkpoint_is_required(data, out, capsys, kind):
    argv = arguments(kind, data, out)[2:]
    assert_rejected(capsys, out, kind, argv, "arguments.missing", "--checkpoint")


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist", "fractions"])
def test_output_dir_is_a_file(data, out, capsys, kind):
    out.write_text("a file")
    argv = arguments(kind, data, out)
    assert_rejected(capsys, out, kind, argv, "run.not_a_folder", f"{out} is a file")
    assert out.read_text() == "a file"


def test_cache_dir_is_a_file(data, out, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    argv = arguments("knn", data, out, "--cache-dir", file)
    assert_rejected(capsys, out, "knn", argv, "probe.cache_not_a_folder", file)


def test_cache_limit_is_too_small(data, out, capsys):
    argv = arguments("knn", data, out, "--cache-limit", "0.000001")
    assert_rejected(capsys, out, "knn", argv, "probe.cache_limit", "--cache-limit")
