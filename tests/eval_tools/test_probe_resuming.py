"""Resuming, overwriting and repeating runs of probes."""

import shutil

import pytest

from tests.eval_tools.probe_runs import (
    CHECKPOINT,
    CROPS,
    KINDS,
    arguments,
    assert_rejected,
    comparable,
    lines_of,
    log_flags,
    quick,
    record_of,
    run_to_end,
    status_of,
)
from tests.pretraining_runs import files_in
from tests.run_states import assert_equal, content_of


def losses_of(folder):
    return [
        (line["iteration"], line["train/loss"]) for line in lines_of(folder) if "train/loss" in line
    ]


def assert_resumed(folder, expected):
    assert "after iteration" in (folder / "log.txt").read_text()
    assert_equal(content_of(folder), content_of(expected))
    assert record_of(folder)["metrics"] == record_of(expected)["metrics"]
    assert losses_of(folder) == losses_of(expected)


def test_resume_is_bit_exact(finished, data, out):
    flags = (*log_flags("linear"), "--checkpoint-every", "3")
    run_to_end("linear", data, out, *flags)
    for lost in ("result.json", "model_final.pth", "model_0000009.pth", "per_class.csv"):
        (out / lost).unlink()
    (out / "last_checkpoint").write_text("model_0000006.pth")
    run_to_end("linear", data, out, *flags, "--resume")
    assert_resumed(out, finished("linear"))
    assert "after iteration 6" in (out / "log.txt").read_text()
    per_class = [(run / "per_class.csv").read_text() for run in (out, finished("linear"))]
    assert per_class[0] == per_class[1]


def test_resume_of_a_run_without_record(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "result.json").unlink()
    run_to_end("linear", data, out, "--resume")
    assert comparable(record_of(out)) == comparable(record_of(finished("linear")))


@pytest.mark.parametrize("kind", ["svm", "cached", "knn", "linear", "inaturalist", "fractions"])
def test_resume_of_a_finished_run(finished, data, capsys, kind):
    folder = finished(kind)
    before = files_in(folder)
    capsys.readouterr()
    assert status_of(kind, arguments(kind, data, folder, "--resume")) == 0
    assert KINDS[kind].task in capsys.readouterr().out
    assert files_in(folder) == before


def test_resume_runs_missing_fractions(finished, data, out):
    shutil.copytree(finished("fractions"), out)
    done = files_in(out / "fraction_0.5")
    shutil.rmtree(out / "fraction_0.1")
    run_to_end("fractions", data, out, "--resume")
    assert files_in(out / "fraction_0.5") == done
    assert record_of(out / "fraction_0.1")["protocol"]["name"] == "toy-fraction-0.1"


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "named"),
    [
        ("linear", ("--seed", "1"), {}, "seed"),
        ("linear", ("--checkpoint", f"{CHECKPOINT}?seed=1"), {}, "checkpoint"),
        ("linear", (), {"OPTIM__LR": 0.5}, "OPTIM.LR"),
        ("linear", ("--skip-bad-images",), {}, "skip_bad_images"),
        ("linear", ("--protocol", "paper"), {}, "protocol"),
        ("linear", ("--knn",), CROPS, "task"),
        ("svm", ("--solver", "liblinear"), {}, "solver"),
        ("svm", ("--ap", "voc11"), {}, "protocol"),
        ("low-shot", ("--low-shot", "2"), {}, "protocol"),
        ("cached", (), {"PROBE__HELD_OUT": 0.3}, "PROBE.HELD_OUT"),
    ],
)
def test_resume_with_other_arguments(finished, data, capsys, kind, flags, settings, named):
    folder = finished(kind)
    argv = arguments(kind, data, folder, *flags, "--resume", **settings)
    if "--knn" in flags:  # has no OPTIM settings
        argv = argv[: argv.index("OPTIM.BATCH_SIZE")]
    assert_rejected(capsys, folder, kind, argv, "resume.mismatch", named)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_resume_with_other_images(finished, copy_of_data, capsys, kind):
    folder, place = finished(kind), {"linear": "imagenet/train", "svm": "VOC2007/JPEGImages"}[kind]
    changed, *_, other = sorted(p for p in (copy_of_data / place).rglob("*") if p.is_file())
    changed.write_bytes(other.read_bytes())
    argv = arguments(kind, copy_of_data, folder, "--resume")
    assert_rejected(capsys, folder, kind, argv, "resume.mismatch", "data")


@pytest.mark.parametrize("kind", ["svm", "linear", "fractions"])
def test_existing_run_is_not_overwritten(finished, data, capsys, kind):
    folder = finished(kind)
    argv = arguments(kind, data, folder)
    assert_rejected(capsys, folder, kind, argv, "run.exists", "--resume", "--overwrite")


def test_overwrite_keeps_other_files(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "notes.txt").write_text("mine")
    run_to_end("knn", data, out, "--overwrite")
    assert record_of(out)["task"] == "imagenet_knn"
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob("model_*")) and not (out / "per_class.csv").exists()
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert len(lines_of(out)) == 1


def test_resume_after_validation_image_is_restored(copy_of_data, out):
    image = sorted((copy_of_data / "imagenet/val").rglob("*.JPEG"))[0]
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    assert status_of("linear", arguments("linear", copy_of_data, out, **quick())) == 2
    image.write_bytes(whole)
    run_to_end("linear", copy_of_data, out, "--resume", **quick())
    assert "top1" in record_of(out)["metrics"]
