"""The plan, before anything runs: what is printed, and what is refused in one sentence."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock

from tests.evaluate_all.evaluations import (
    TOOL,
    Evaluation,
    in_this_process,
    refused,
    status_of,
    write_checkpoint,
)

TASKS = ("--tasks", "voc07_svm", "imagenet_knn", "--protocol", "toy", "--num-gpus", "0")
TRAINED = ("--tasks", "voc07_svm", "imagenet_linear", "--protocol", "toy", "--num-gpus", "0")


def commands_in(printed):
    return [shlex.split(line) for line in printed.splitlines() if " --resume" in line]


def test_a_dry_run_prints_every_run_and_command_and_writes_nothing(here, data, capsys, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(here / "cache"))
    argv = [
        *("--checkpoint", "random:resnet18", "./random:resnet18/../a.pth", "random:resnet18"),
        *TASKS, "--seeds", "0", "--data-root", str(data), "--num-workers", "0",
        *("--arguments", "voc07_svm", "--ap voc11 SVM.FOLDS 2", "--dry-run"),
    ]  # fmt: skip
    write_checkpoint(here / "a.pth", 0)
    assert status_of(argv) == 0
    assert os.listdir(here) == ["a.pth"]
    printed = capsys.readouterr().out
    assert printed.count("to run\n") == 4  # 2 checkpoints, 2 tasks
    commands = commands_in(printed)
    assert len(commands) == 4
    folder = "output/all/random_resnet18/voc07_svm_toy/seed_0"
    assert commands[0][1:] == [
        *(str(TOOL.parent / "voc07_svm.py"), "--checkpoint", "random:resnet18"),
        *("--protocol", "toy", "--data-root", str(data), "--output-dir", folder),
        *("--seed", "0", "--num-gpus", "0", "--resume", "--num-workers", "0"),
        *("--ap", "voc11", "SVM.FOLDS", "2"),
    ]
    assert all("--knn" in command for command in commands if "imagenet_linear.py" in command[1])


@pytest.mark.parametrize(
    ("more", "svm", "said"),
    [
        ((), 1, "run with one seed, on which the result does not depend: voc07_svm\n"),
        (("--arguments", "voc07_svm", "--low-shot 1,2"), 2, ""),
    ],
)
def test_what_no_seed_changes_is_run_once(here, data, capsys, more, svm, said):
    argv = ["--checkpoint", "random:resnet18", *TRAINED, "--data-root", str(data), *more]
    assert status_of([*argv, "--seeds", "0", "1", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    tools = [os.path.basename(command[1]) for command in commands_in(printed)]
    assert (tools.count("voc07_svm.py"), tools.count("imagenet_linear.py")) == (svm, 2)
    assert printed.startswith(said) and ("one seed" in printed) == bool(said)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--checkpoint", "virtex://nope"), "no model is named 'nope' in the zoo"),
        (("--data-root", "nowhere"), "--data-root nowhere is no folder; name the one with"),
        (("--launcher", "slurm", "--slurm", "foo"), "--slurm foo: give KEY=VALUE"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(here, data, words, told):
    evaluation = Evaluation(["random:resnet18"], data, here / "out")
    in_this_process(evaluation, *words, "--dry-run")
    assert evaluation.status == 2
    assert told in evaluation.errors


def test_neighbors_in_the_plan_share_no_features(here, data, capsys):
    argv = ["--checkpoint", "random:a", "random:b", *TASKS, "--data-root", str(data), "--dry-run"]
    assert status_of(argv) == 0
    names = [command[3] for command in commands_in(capsys.readouterr().out)]
    assert names == ["random:a", "random:b", "random:a", "random:b"]


def test_detection_runs_by_its_own_tool(here, data, capsys):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "coco:1x", "--data-root", str(data)),
        *("--num-gpus", "0", "--num-workers", "3", "--arguments", "coco", "SOLVER.MAX_ITER 10"),
    ]
    assert status_of([*argv, "--dry-run"]) == 0
    (command,) = commands_in(capsys.readouterr().out)
    assert command[1] == str(TOOL.parent / "detectron2_transfer.py")
    assert command[4:8] == ["--task", "coco", "--protocol", "1x"]
    assert command[-4:] == ["DATALOADER.NUM_WORKERS", "3", "SOLVER.MAX_ITER", "10"]


def test_only_the_runs_that_lack_something_fail(mixed, tmp_path):
    evaluation = Evaluation(mixed.checkpoints[1:], mixed.data, mixed.out)
    (mixed.data / "inaturalist").rename(tmp_path / "away")
    try:
        in_this_process(evaluation, "--tasks", "voc07_svm", "inaturalist", "--dry-run")
    finally:
        (tmp_path / "away").rename(mixed.data / "inaturalist")
    assert evaluation.status == 1
    assert evaluation.printed.count(" complete") == 2
    (failure,) = evaluation.errors.split("evaluate_all.py: cannot run: ")[1:]
    assert failure.count("inaturalist_toy seed 0") == 2
    assert f"the data root {mixed.data} lacks what task inaturalist needs" in failure


def test_where_nothing_can_run_nothing_is_written(here, data):
    evaluation = Evaluation(["nowhere.pth"], data, here / "out")
    in_this_process(evaluation)
    assert evaluation.status == 2
    assert "there is no checkpoint nowhere.pth" in evaluation.errors
    assert not (here / "out").exists()


def test_a_folder_as_checkpoint_is_told(here, data):
    (here / "folder").mkdir()
    in_this_process(evaluation := Evaluation(["folder"], data, here / "out"))
    assert evaluation.status == 2
    assert "folder is a folder: give the checkpoint file in it" in evaluation.errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "voc"), "task voc has no protocol 'paper'; it has 24k, toy"),
        (("--tasks", "svm"), "there is no task 'svm'; there are coco"),
        (("--format", "x"), "x"),
        (("--arguments", "coco", "SOLVER.MAX_ITER 1"), "no such task is asked for, only voc07_svm"),
        (("--arguments", "voc07_svm", "'a"), "No closing quotation; close the quote"),
        (("--arguments", "voc07_svm", "SVM.COST 1"), "SVM.COST is not a setting"),
        (("--arguments", "voc07_svm", "--knn 1"), "--arguments voc07_svm: unrecognized arguments"),
        (("--arguments", "voc07_svm", "--seed 1"), "voc07_svm: --seed is not for there"),
        (("--arguments", "voc07_svm", "--format moco"), "voc07_svm: --format is not for there"),
        (
            ("--arguments", "voc07_svm", "--ap voc11 --help"),
            "--help is not for there; run voc07_svm.py",
        ),
        (("--arguments", "voc07_svm", "--output x"), "voc07_svm: --output-dir is not for there"),
        (("--arguments", "voc07_svm", " --overwrite"), "not allowed with argument --resume"),
        (
            ("--tasks", "voc07_svm:toy", "voc07_svm", "--arguments", "voc07_svm:toy", "SVM.X 1"),
            "SVM.X is not a setting",
        ),
        (("--slurm", "timeout_min=1"), "--slurm belongs to --launcher slurm"),
        (("--launcher", "slurm", "--dry-run"), "--launcher slurm needs --num-gpus N"),
        (("--num-gpus", "512"), "--num-gpus 512, but this machine has"),
    ],
)
def test_what_cannot_be_right_is_refused_in_a_sentence(here, data, capsys, words, message):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "voc07_svm", "--protocol", "paper"),
        *("--data-root", str(data), *words),
    ]
    error = refused(capsys, argv)
    assert message in error and "\n" not in error
    assert not os.listdir(here)


def test_arguments_that_make_it_another_task_are_refused(here, data, capsys):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "imagenet_linear", "--protocol", "toy"),
        *("--data-root", str(data), "--arguments", "imagenet_linear", " --knn"),
    ]
    error = refused(capsys, argv)
    assert "--arguments imagenet_linear make it another task" in error


def test_torchrun_is_refused(here, data, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    argv = ["--checkpoint", "random:resnet18", "--data-root", str(data)]
    assert "start it without torchrun" in refused(capsys, argv)


def test_an_output_folder_that_is_a_file_is_refused(here, data, capsys):
    (here / "out").write_text("")
    argv = ["--checkpoint", "random:resnet18", "--data-root", str(data), "--output-dir", "out"]
    assert "--output-dir out is a file; name a folder" in refused(capsys, argv)


def test_one_evaluation_at_a_time_in_a_folder(mixed, tmp_path, capsys):
    shutil.copytree(mixed.out, tmp_path / "out")
    evaluation = Evaluation(mixed.checkpoints[1:], mixed.data, tmp_path / "out")
    with FileLock(tmp_path / "out" / ".evaluate_all.lock"):
        error = refused(capsys, evaluation.argv)
        assert f"another evaluate_all.py is at work in {evaluation.out}; wait for it" in error
        assert status_of([*evaluation.argv, "--dry-run"]) == 0
    assert status_of(evaluation.argv) == 0
    shutil.rmtree(tmp_path / "out")


def test_help_comes_at_once_and_a_single_flag_may_be_added(here):
    command = [sys.executable, TOOL]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=5)
    assert done.returncode == 0 and "examples:" in done.stdout
    words = ["--checkpoint", "a", "--tasks", "voc07_svm", "--arguments", "voc07_svm", "--seed=1"]
    words += ["--data-root", "."]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--arguments voc07_svm: --seed is not for there" in done.stderr
