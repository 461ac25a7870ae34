"""A whole evaluation by the real tools: what it runs, skips, refuses and tells."""

import shutil

import pytest

from tests.evaluate_all.evaluations import (
    Evaluation,
    in_this_process,
    records_in,
    times_of,
    write_checkpoint,
)
from virtex.evaluate_all.naming import checkpoint_folders

NAMES = ("broken", "first", "second")


@pytest.fixture
def again(mixed, tmp_path):
    """The finished evaluation of the two networks, to be asked for again and spoiled."""
    shutil.copytree(mixed.out, tmp_path / "out")
    names = [name for name in mixed.checkpoints if "broken" not in name]
    yield Evaluation(names, mixed.data, tmp_path / "out")
    shutil.rmtree(tmp_path)


def folder_of(evaluation, name):
    (checkpoint,) = (c for c in evaluation.checkpoints if name in c)
    return checkpoint_folders([checkpoint])[checkpoint]


def rows_of(text):
    """Checkpoint -> what the last table says of it."""
    lines = text[text.rindex("\nrun ") :].splitlines()
    return {n: line.partition("seed 0")[2] for n in NAMES for line in lines if f"_{n}.pth" in line}


def test_a_failure_stops_no_other_run_and_ends_with_status_1(mixed):
    assert mixed.status == 1
    assert {path.split("/")[0] for path in records_in(mixed.out)} == {
        folder_of(mixed, "first"),
        folder_of(mixed, "second"),
    }


def test_the_end_says_what_became_of_each_run(mixed):
    rows = rows_of(mixed.printed)
    assert rows["broken"].split()[0] == "failed"
    for name in ("first", "second"):
        record = records_in(mixed.out)[f"{folder_of(mixed, name)}/voc07_svm_toy/seed_0"]
        status, _, metric, score = rows[name].split()
        assert (status, metric, score) == ("done", "mAP", f"{record['metrics']['mAP']:.2f}")


def test_a_failure_is_told_with_its_reason_and_log(mixed):
    log = mixed.out / "logs" / f"{folder_of(mixed, 'broken')}_voc07_svm_toy_seed_0.log"
    (line,) = mixed.errors.strip().splitlines()
    assert line.startswith("evaluate_all.py: failed: ")
    assert "exit status 2: " in line
    assert "is a file; name a folder" in line
    assert line.endswith(f"(log: {log})")
    assert "is a file; name a folder" in log.read_text()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_file_that_is_no_checkpoint_is_told_once_before_anything_runs(
    checkpoints, data, here, dry_run
):
    names = [str(checkpoints / "text.pth")]
    found = Evaluation(names, data, here / "out", task="voc07_svm")
    in_this_process(found, "--seeds", "0", "1", *(["--dry-run"] if dry_run else []))
    assert found.status == 2
    assert found.errors.count("text.pth is a text file, not a checkpoint") == 1
    assert "cannot run: " in found.errors
    assert not found.out.exists()


def test_runs_at_once_begin_before_the_first_has_ended(mixed):
    lines = [line for line in mixed.printed.splitlines() if line.startswith("[")]
    assert [": started (log" in line for line in lines[:3]] == [True, True, False]
    assert [line[:5] for line in lines if "started" in line] == ["[1/3]", "[2/3]", "[3/3]"]


def test_a_log_holds_the_command_and_all_that_the_tool_said(mixed):
    log = mixed.out / "logs" / f"{folder_of(mixed, 'first')}_voc07_svm_toy_seed_0.log"
    heading, *rest = log.read_text().splitlines()
    assert heading.startswith("=== ") and "voc07_svm.py --checkpoint" in heading
    assert any(line.startswith("record:  ") for line in rest)


def test_the_leaderboard_is_written_in_spite_of_the_failure(mixed):
    table = (mixed.out / "leaderboard.csv").read_text()
    assert "mAP" in table
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.png"):
        assert (mixed.out / name).stat().st_size > 100


def test_a_leaderboard_that_cannot_be_written_is_told(again):
    (again.out / "leaderboard.csv").unlink()
    (again.out / "leaderboard.csv").mkdir()
    in_this_process(again)
    assert again.status == 1
    assert "evaluate_all.py: error: no leaderboard: " in again.errors
    assert {row.split()[0] for row in rows_of(again.printed).values()} == {"complete"}


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(checkpoints, data, here):
    names = [str(checkpoints / "first.pth")]
    found = Evaluation(names, data, here / "out")
    slug = checkpoint_folders(names)[names[0]]
    (here / "out" / "logs" / f"{slug}_voc07_svm_toy_seed_0.json").mkdir(parents=True)
    in_this_process(found)
    assert found.status == 2
    assert "_seed_0.json cannot be written (Is a directory); fix that, or name" in found.errors
    assert not records_in(found.out)


def test_what_is_complete_is_left_alone(again):
    before = times_of(again.out)
    in_this_process(again)
    assert again.status == 0
    assert {row.split()[0] for row in rows_of(again.printed).values()} == {"complete"}
    assert times_of(again.out) == before  # the logs, too: no tool was started


@pytest.mark.parametrize("dry_run", [True, False])
def test_another_file_of_the_same_name_is_not_skipped_and_nothing_overwritten(
    again, tmp_path, dry_run
):
    changed = tmp_path / "changed.pth"
    folder = again.out / checkpoint_folders([str(changed)])[str(changed)]
    (again.out / folder_of(again, "first")).rename(folder)
    write_checkpoint(changed, 5)
    again.checkpoints = [str(changed)]
    before = times_of(again.out)
    in_this_process(again, *(["--dry-run"] if dry_run else []))
    assert again.status == 2
    assert "holds a finished run of another kind (checkpoint sha256" in again.errors
    assert times_of(again.out) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "setting DATA.IMAGE_CROP_SIZE 32, not as the protocol says"),
        ("DATA.IMAGE_CROP_SIZE 32 DATA.IMAGE_RESIZE_SIZE 40", "RESIZE_SIZE 36, not 40"),
        ("--ap voc11 DATA.IMAGE_CROP_SIZE 32 DATA.IMAGE_RESIZE_SIZE 36", 'toy", not "toy-voc11"'),
    ],
)
def test_a_finished_run_with_other_settings_is_told(again, arguments, told):
    again.arguments = arguments
    before = times_of(again.out)
    in_this_process(again)
    assert again.status == 2
    assert told in again.errors
    assert times_of(again.out) == before


@pytest.mark.parametrize("solver", ["liblinear", "fast"])
def test_what_the_record_does_not_tell_is_compared_too(again, solver):
    again.arguments += f" --solver {solver}"
    in_this_process(again)
    assert again.status == (2 if solver == "liblinear" else 0)
    assert ('solver "fast", not "liblinear"' in again.errors) == (solver == "liblinear")


def test_a_finished_run_on_other_data_is_told(again, tmp_path):
    shutil.copytree(again.data / "VOC2007", tmp_path / "other" / "VOC2007")
    again.data = tmp_path / "other"
    in_this_process(again)
    assert again.status == 2
    assert "holds a finished run of another kind (data_root" in again.errors


def test_a_file_read_in_another_format_is_another_model(again):
    in_this_process(again, "--format", "torchvision")  # as it was recognized
    assert again.status == 0
    in_this_process(again, "--format", "timm")
    assert again.status == 2


def test_the_same_settings_in_other_words_are_the_same(again):
    again.arguments = "DATA.IMAGE_RESIZE_SIZE 36 --batch-size 8 DATA.IMAGE_CROP_SIZE 32"
    in_this_process(again)
    assert again.status == 0


def test_a_record_that_cannot_be_read_is_told(again):
    (path,) = (again.out / folder_of(again, "first")).rglob("result.json")
    path.write_text("{")
    in_this_process(again)
    assert again.status == 1
    assert f"{path} is no readable record" in again.errors
    assert rows_of(again.printed)["second"].split()[0] == "complete"


def test_a_run_begun_with_another_file_is_told(again):
    (path,) = (again.out / folder_of(again, "first")).rglob("run.json")
    (path.parent / "result.json").unlink()
    path.write_text(path.read_text().replace('"checkpoint sha256": "', '"checkpoint sha256": "0'))
    in_this_process(again)
    assert again.status == 1
    assert f"{path.parent} was started with another file of this name" in again.errors
