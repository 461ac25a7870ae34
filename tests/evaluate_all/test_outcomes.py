"""Whole evaluations: what is run, skipped, resumed and reported."""

import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.evaluate_all.evaluations import (
    EARLY,
    INTERRUPTIBLE,
    SMALL,
    Evaluation,
    evaluate,
    modification_times,
    read_records,
    write_checkpoint,
)
from virtex.evaluate_all.naming import checkpoint_folders

NAMES = ("broken", "first", "second")


@pytest.fixture
def again(mixed, tmp_path):
    """The finished evaluation of the two networks, copied, to be repeated."""
    shutil.copytree(mixed.out, tmp_path / "out")
    names = [name for name in mixed.checkpoints if "broken" not in name]
    yield Evaluation(names, mixed.data, tmp_path / "out")
    shutil.rmtree(tmp_path)


def folder_of(evaluation, name):
    (checkpoint,) = (c for c in evaluation.checkpoints if name in c)
    return checkpoint_folders([checkpoint])[checkpoint]


def summary(text):
    """Checkpoint -> columns of the last table."""
    lines = text[text.rindex("\nrun ") :].splitlines()
    rows = {n: line for n in NAMES for line in lines if f"_{n}.pth" in line}
    return {name: line.partition("seed 0")[2].split() for name, line in rows.items()}


def test_failure_stops_no_other_run(mixed):
    assert mixed.status == 1
    records = read_records(mixed.out)
    rows = summary(mixed.printed)
    assert rows["broken"][0] == "failed"
    for name in ("first", "second"):
        record = records.pop(f"{folder_of(mixed, name)}/voc07_svm_toy/seed_0")
        assert (rows[name][0], rows[name][2]) == ("done", "mAP")
        assert rows[name][3] == f"{record['metrics']['mAP']:.2f}"
    assert not records
    assert "mAP" in (mixed.out / "leaderboard.csv").read_text()
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.png"):
        assert (mixed.out / name).stat().st_size > 100


def test_failure_has_reason_and_log(mixed):
    log = mixed.out / "logs" / f"{folder_of(mixed, 'broken')}_voc07_svm_toy_seed_0.log"
    (line,) = mixed.errors.strip().splitlines()
    assert ": failed: " in line and "exit status 2: " in line
    assert "[run.not_a_folder]" in line and line.endswith(f"(log: {log})")
    heading, *rest = log.read_text().splitlines()
    assert heading.startswith("=== ") and "virtex.eval_tools.voc07_svm --checkpoint" in heading
    assert any("[run.not_a_folder]" in text for text in rest)


def test_parallel_runs_start_together(mixed):
    lines = [line for line in mixed.printed.splitlines() if line.startswith("[")]
    assert [": started (log" in line for line in lines[:3]] == [True, True, False]
    assert [line[:5] for line in lines if "started" in line] == ["[1/3]", "[2/3]", "[3/3]"]


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (SMALL, ()),
        # the same settings, another order; options without effect; the detected format
        (
            "DATA.IMAGE_RESIZE_SIZE 36 --batch-size 8 DATA.IMAGE_CROP_SIZE 32 --solver fast",
            ("--format", "torchvision"),
        ),
    ],
)
def test_complete_runs_are_skipped(again, arguments, more):
    before = modification_times(again.out)
    again.arguments = arguments
    evaluate(again, *more)
    assert again.status == 0, again.errors
    assert [row[0] for row in summary(again.printed).values()] == ["complete"] * 2
    assert modification_times(again.out) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "DATA.IMAGE_CROP_SIZE"),
        ("DATA.IMAGE_CROP_SIZE 32 DATA.IMAGE_RESIZE_SIZE 40", "DATA.IMAGE_RESIZE_SIZE"),
        (f"--ap voc11 {SMALL}", "protocol"),
        (f"--solver liblinear {SMALL}", "solver"),  # not in the record
    ],
)
def test_results_of_other_settings_are_not_reused(again, arguments, named):
    again.arguments = arguments
    before = modification_times(again.out)
    evaluate(again)
    assert again.status == 2
    assert "[run.exists]" in again.errors and named in again.errors
    assert modification_times(again.out) == before


def test_results_of_other_data_or_formats_are_not_reused(again, tmp_path):
    evaluate(again, "--format", "timm")
    assert again.status == 2
    assert "[run.exists]" in again.errors or "[checkpoint." in again.errors
    again.more.clear()
    shutil.copytree(again.data / "VOC2007", tmp_path / "other" / "VOC2007")
    again.data = tmp_path / "other"
    evaluate(again)
    assert again.status == 2
    assert "[run.exists]" in again.errors and "data_root" in again.errors


@pytest.mark.parametrize("dry_run", [True, False])
def test_results_of_another_checkpoint_are_not_reused(again, tmp_path, dry_run):
    changed = tmp_path / "changed.pth"
    folder = again.out / checkpoint_folders([str(changed)])[str(changed)]
    (again.out / folder_of(again, "first")).rename(folder)
    write_checkpoint(changed, 5)
    again.checkpoints = [str(changed)]
    before = modification_times(again.out)
    evaluate(again, *(["--dry-run"] if dry_run else []))
    assert again.status == 2
    assert "[run.exists]" in again.errors and "checkpoint sha256" in again.errors
    assert modification_times(again.out) == before


def test_invalid_record_stops_only_its_run(again):
    (path,) = (again.out / folder_of(again, "first")).rglob("result.json")
    path.write_text("{")
    evaluate(again)
    assert again.status == 1
    assert "[records.invalid]" in again.errors and str(path) in again.errors
    assert summary(again.printed)["second"][0] == "complete"


def test_leaderboard_failure_is_reported(again):
    (again.out / "leaderboard.csv").unlink()
    (again.out / "leaderboard.csv").mkdir()
    evaluate(again)
    assert again.status == 1
    assert ": error: no leaderboard: " in again.errors
    assert [row[0] for row in summary(again.printed).values()] == ["complete"] * 2


@pytest.mark.whole
def test_killed_evaluation_resumes(data, checkpoints, tmp_path):
    training = Evaluation(
        [str(checkpoints / "first.pth")], data, tmp_path / "out", "imagenet_linear", INTERRUPTIBLE
    )
    process = subprocess.Popen(training.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    logs = training.out / "logs"
    end = time.monotonic() + 300
    while not any(EARLY in log.read_text() for log in logs.glob("*.log")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not read_records(training.out)
    dry = evaluate(training, "--dry-run")
    assert (dry.status, dry.printed.count("resumable")) == (0, 1)
    training.more.clear()

    assert evaluate(training).status == 0
    (log,) = logs.glob("*.log")
    (resumed,) = re.findall(r"(?:going on|resuming) after iteration (\d+)", log.read_text())
    assert 3 <= int(resumed) < 80
    assert f"after iteration {resumed}" in training.printed  # a single run streams
    (record,) = read_records(training.out).values()
    assert record["metrics"]["top1"] is not None
    shutil.rmtree(tmp_path)
