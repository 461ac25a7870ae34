"""A probe that was killed goes on to the same result; a finished one is left alone."""

import shutil

import pytest

from tests.eval_tools.probe_runs import (
    CHECKPOINT,
    CROPS,
    KINDS,
    arguments,
    comparable,
    ended_well,
    lines_of,
    often,
    quick,
    record_of,
    refused_in_a_line,
    status_of,
)
from tests.pretraining_runs import files_in
from tests.run_states import assert_equal, content_of


def losses_of(folder):
    return [
        (line["iteration"], line["train/loss"]) for line in lines_of(folder) if "train/loss" in line
    ]


def assert_resumed(folder, undisturbed):
    assert "after iteration" in (folder / "log.txt").read_text()
    assert_equal(content_of(folder), content_of(undisturbed))
    assert record_of(folder)["metrics"] == record_of(undisturbed)["metrics"]
    assert losses_of(folder) == losses_of(undisturbed)


def test_a_probe_goes_on_from_its_newest_checkpoint_to_the_same_bits(finished, data, out):
    flags = (*often("linear"), "--checkpoint-every", "3")
    ended_well("linear", data, out, *flags)
    for lost in ("result.json", "model_final.pth", "model_0000009.pth", "per_class.csv"):
        (out / lost).unlink()
    (out / "last_checkpoint").write_text("model_0000006.pth")
    ended_well("linear", data, out, *flags, "--resume")
    assert_resumed(out, finished("linear"))
    assert "after iteration 6" in (out / "log.txt").read_text()
    per_class = [(run / "per_class.csv").read_text() for run in (out, finished("linear"))]
    assert per_class[0] == per_class[1]


def test_a_run_killed_before_its_record_is_validated_and_recorded(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "result.json").unlink()
    ended_well("linear", data, out, "--resume")
    assert comparable(record_of(out)) == comparable(record_of(finished("linear")))


@pytest.mark.parametrize("kind", ["svm", "cached", "knn", "linear", "inaturalist", "fractions"])
def test_a_finished_run_is_not_run_again(finished, data, capsys, kind):
    folder = finished(kind)
    before = files_in(folder)
    capsys.readouterr()
    assert status_of(kind, arguments(kind, data, folder, "--resume")) == 0
    printed = capsys.readouterr().out
    assert "this run is finished" in printed
    assert f"{KINDS[kind].task}, protocol toy" in printed
    assert "result.json" in printed
    assert files_in(folder) == before


def test_only_the_fractions_that_are_missing_are_run(finished, data, out):
    shutil.copytree(finished("fractions"), out)
    done = files_in(out / "fraction_0.5")
    shutil.rmtree(out / "fraction_0.1")
    ended_well("fractions", data, out, "--resume")
    assert files_in(out / "fraction_0.5") == done
    assert record_of(out / "fraction_0.1")["protocol"]["name"] == "toy-fraction-0.1"


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "named"),
    [
        ("linear", ("--seed", "1"), {}, "seed 0, not 1"),
        ("linear", ("--checkpoint", f"{CHECKPOINT}?seed=1"), {}, "checkpoint sha256"),
        ("linear", (), {"OPTIM__LR": 0.5}, "setting OPTIM.LR 0.2, not 0.5"),
        ("linear", ("--skip-bad-images",), {}, "setting skip bad images"),
        ("linear", ("--protocol", "paper"), {}, 'protocol ["toy", "1"], not ["paper", "1"]'),
        ("linear", ("--knn",), CROPS, 'task "imagenet_linear", not "imagenet_knn"'),
        ("svm", ("--solver", "liblinear"), {}, 'solver "fast", not "liblinear"'),
        ("svm", ("--ap", "voc11"), {}, 'protocol ["toy", "1"], not ["toy-voc11", "1"]'),
        ("low-shot", ("--low-shot", "2"), {}, 'protocol ["toy-low-shot-1-2", "1"], not'),
        ("cached", (), {"PROBE__HELD_OUT": 0.3}, "setting PROBE.HELD_OUT"),
    ],
)
def test_resume_with_something_else_is_refused(
    finished, data, capsys, kind, flags, settings, named
):
    folder = finished(kind)
    argv = arguments(kind, data, folder, *flags, "--resume", **settings)
    if "--knn" in flags:  # which knows no OPTIM
        argv = argv[: argv.index("OPTIM.BATCH_SIZE")]
    assert f"was started with {named}" in refused_in_a_line(capsys, folder, kind, argv)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_resume_with_other_images_is_refused(finished, copy_of_data, capsys, kind):
    folder, place = finished(kind), {"linear": "imagenet/train", "svm": "VOC2007/JPEGImages"}[kind]
    changed, *_, other = sorted(p for p in (copy_of_data / place).rglob("*") if p.is_file())
    changed.write_bytes(other.read_bytes())
    argv = arguments(kind, copy_of_data, folder, "--resume")
    error = refused_in_a_line(capsys, folder, kind, argv)
    assert "was started with data set " in error


@pytest.mark.parametrize("kind", ["svm", "linear", "fractions"])
def test_a_folder_with_a_run_is_refused(finished, data, capsys, kind):
    folder = finished(kind)
    error = refused_in_a_line(capsys, folder, kind, arguments(kind, data, folder))
    assert "holds another run" in error
    assert "--resume" in error
    assert "--overwrite" in error


def test_overwrite_replaces_the_run_and_nothing_else(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "notes.txt").write_text("mine")
    ended_well("knn", data, out, "--overwrite")
    assert record_of(out)["task"] == "imagenet_knn"
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob("model_*")) and not (out / "per_class.csv").exists()
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert len(lines_of(out)) == 1


def test_a_trained_probe_is_scored_once_a_broken_validation_image_is_restored(copy_of_data, out):
    image = sorted((copy_of_data / "imagenet/val").rglob("*.JPEG"))[0]
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    assert status_of("linear", arguments("linear", copy_of_data, out, **quick())) == 2
    image.write_bytes(whole)
    ended_well("linear", copy_of_data, out, "--resume", **quick())
    assert "top1" in record_of(out)["metrics"]
