"""The plan: tasks, protocols, seeds and arguments; a dry run; invalid command lines."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.errors import raises_code
from tests.evaluate_all.evaluations import Evaluation, evaluate, exit_status, write_checkpoint
from virtex.evaluate_all.plan import choose_tasks, evaluable_tasks, parse
from virtex.tasks import TASKS

EVALUATIONS = {name: TASKS[name] for name in evaluable_tasks()}
TOY = ("--protocol", "toy", "--num-gpus", "0", "--dry-run")


def planned_commands(printed):
    return [shlex.split(line) for line in printed.splitlines() if " --resume" in line]


@pytest.mark.parametrize("task", EVALUATIONS.values(), ids=EVALUATIONS)
def test_protocols_plan_their_task_without_overrides(task):
    argv = ["--checkpoint", "a.pth", "--output-dir", "out", "--seed", "3", "--num-gpus", "0"]
    for protocol in task.protocols:
        args = parse(task, [*argv, *task.arguments, "--protocol", protocol, "--resume"])
        (job,) = task.jobs(args)
        assert job.protocol.task == task.name
        assert [d for d in job.deviations if d.reason == "override"] == []
    args = parse(task, [*argv, *task.arguments, task.workers_option, "7"])
    assert "7" in args.overrides or args.num_workers == 7


def test_task_choice():
    def folders(*names, protocol=None):
        return {choice.folder: choice.protocol for choice in choose_tasks(names, protocol)}

    assert folders("coco", "coco:1x", "imagenet_linear:paper", "coco:2x") == {
        "coco": "2x",
        "coco_1x": "1x",
        "imagenet_linear": "paper",
    }
    assert folders("coco", "voc07_svm:paper", protocol="toy") == {
        "coco_toy": "toy",
        "voc07_svm": "paper",
    }
    with raises_code("arguments.unknown_task", "cocoo", "voc07_svm"):
        choose_tasks(["cocoo"], None)
    with raises_code("arguments.unknown_task", "pretraining"):
        choose_tasks(["pretraining"], None)
    with raises_code("protocol.unknown", "3x", "scratch"):
        choose_tasks(["coco:3x"], None)


def test_dry_run_prints_commands_and_writes_nothing(here, data, capsys, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(here / "cache"))
    write_checkpoint(here / "a.pth", 0)
    argv = [
        *("--checkpoint", "random:resnet18", "./random:resnet18/../a.pth", "random:resnet18"),
        *("--tasks", "voc07_svm", "imagenet_knn", *TOY, "--data-root", str(data)),
        *("--num-workers", "0", "--arguments", "voc07_svm", "--ap voc11 SVM.FOLDS 2"),
    ]
    assert exit_status(argv) == 0
    assert os.listdir(here) == ["a.pth"]
    printed = capsys.readouterr().out
    assert printed.count("pending\n") == 4  # 2 checkpoints, 2 tasks
    commands = planned_commands(printed)
    folder = "output/all/random_resnet18/voc07_svm_toy/seed_0"
    assert commands[0][1:] == [
        *("-m", "virtex.eval_tools.voc07_svm", "--checkpoint", "random:resnet18"),
        *("--protocol", "toy", "--data-root", str(data), "--output-dir", folder),
        *("--seed", "0", "--num-gpus", "0", "--resume", "--num-workers", "0"),
        *("--ap", "voc11", "SVM.FOLDS", "2"),
    ]
    # neighbors in the plan do not compute the same features
    assert [c[4] for c in commands] == ["random:resnet18", "a.pth"] * 2
    assert all("--knn" in c for c in commands if c[2].endswith("imagenet_linear"))


def test_detection_has_its_own_arguments(here, data, capsys):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "coco:1x", "--data-root", str(data)),
        *("--num-gpus", "0", "--num-workers", "3", "--arguments", "coco", "SOLVER.MAX_ITER 10"),
    ]
    assert exit_status([*argv, "--dry-run"]) == 0
    (command,) = planned_commands(capsys.readouterr().out)
    assert command[2] == "virtex.eval_tools.detectron2_transfer"
    assert command[5:9] == ["--task", "coco", "--protocol", "1x"]
    assert command[-4:] == ["DATALOADER.NUM_WORKERS", "3", "SOLVER.MAX_ITER", "10"]


@pytest.mark.parametrize("more, svm", [((), 1), (("--arguments", "voc07_svm", "--low-shot 1"), 2)])
def test_seeds_without_effect_are_left_out(here, data, capsys, more, svm):
    argv = ["--checkpoint", "random:resnet18", "--tasks", "voc07_svm", "imagenet_linear", *TOY]
    assert exit_status([*argv, "--data-root", str(data), "--seeds", "0", "1", *more]) == 0
    printed = capsys.readouterr().out
    modules = [command[2].rpartition(".")[2] for command in planned_commands(printed)]
    assert (modules.count("voc07_svm"), modules.count("imagenet_linear")) == (svm, 2)
    assert ("one seed" in printed) == (svm == 1)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--tasks", "voc"), "protocol.unknown", "'paper'"),
        (("--arguments", "coco", "SOLVER.MAX_ITER 1"), "arguments.unknown_task", "coco"),
        (("--arguments", "voc07_svm", "'a"), "arguments.invalid", "'a"),
        (("--arguments", "voc07_svm", "--knn 1"), "arguments.invalid", "--knn"),
        (("--arguments", "voc07_svm", "--seed 1"), "arguments.invalid", "--seed"),
        (("--arguments", "voc07_svm", "--format moco"), "arguments.invalid", "--format"),
        (("--arguments", "voc07_svm", "--ap voc11 --help"), "arguments.invalid", "--help"),
        (("--arguments", "voc07_svm", "--output x"), "arguments.invalid", "--output-dir"),
        (("--arguments", "voc07_svm", "--overwrite"), "arguments.invalid", "--resume"),
        (("--data-root", "nowhere"), "data.missing", "nowhere"),
        (("--slurm", "timeout_min=1"), "arguments.conflict", "--slurm"),
        (("--launcher", "slurm", "--dry-run"), "arguments.missing", "--num-gpus"),
        (("--num-gpus", "512"), "device.too_few_gpus", "512"),
    ],
)
def test_invalid_arguments(here, data, capsys, words, code, named):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "voc07_svm", "--protocol", "paper"),
        *("--data-root", str(data), *words),
    ]
    capsys.readouterr()
    assert exit_status(argv) == 2
    error = capsys.readouterr().err
    assert f"[{code}]" in error and named in error
    assert not os.listdir(here)


@pytest.mark.parametrize("words", ["SVM.COST 1", "--skip-bad-images"])
def test_invalid_settings(here, data, capsys, words):
    argv = ["--checkpoint", "random:resnet18", "--tasks", "voc07_svm", "--data-root", str(data)]
    capsys.readouterr()
    assert exit_status([*argv, "--arguments", "voc07_svm", words]) == 2
    assert words.partition(" ")[0] in capsys.readouterr().err


def test_arguments_must_not_select_another_task(here, data, capsys):
    argv = [
        *("--checkpoint", "random:resnet18", "--tasks", "imagenet_linear", *TOY),
        *("--data-root", str(data), "--arguments", "imagenet_linear", "--knn"),
    ]
    assert exit_status(argv) == 2
    assert "imagenet_linear" in capsys.readouterr().err


def test_torchrun_and_files_are_refused(here, data, capsys, monkeypatch):
    argv = ["--checkpoint", "random:resnet18", "--data-root", str(data), "--output-dir", "out"]
    (here / "out").write_text("")
    assert exit_status(argv) == 2
    assert "[run.not_a_folder]" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert exit_status(argv) == 2
    assert "[environment.torchrun]" in capsys.readouterr().err


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("name", ["nowhere.pth", "text.pth", "folder", "virtex://nope"])
def test_invalid_checkpoint_is_reported_once(here, checkpoints, data, dry_run, name):
    (here / "folder").mkdir()
    name = str(checkpoints / name) if name == "text.pth" else name
    found = Evaluation([name], data, here / "out", "imagenet_linear", "")
    evaluate(found, "--seeds", "0", "1", *(["--dry-run"] if dry_run else []))
    assert found.status == 2
    (line,) = [line for line in found.errors.splitlines() if ": invalid: " in line]
    assert name.rpartition("/")[2] in line
    assert not found.out.exists()


def test_missing_data_stop_only_their_task(mixed, tmp_path):
    evaluation = Evaluation(mixed.checkpoints[1:], mixed.data, mixed.out)
    (mixed.data / "inaturalist").rename(tmp_path / "away")
    try:
        evaluate(evaluation, "--tasks", "voc07_svm", "inaturalist", "--dry-run")
    finally:
        (tmp_path / "away").rename(mixed.data / "inaturalist")
    assert evaluation.status == 1
    assert evaluation.printed.count(" complete") == 2
    (failure,) = evaluation.errors.split(": invalid: ")[1:]
    assert failure.count("inaturalist_toy seed 0") == 2
    assert "[data.missing]" in failure


LOCK = """
import sys
from pathlib import Path
from virtex.run_folder import acquire_lock
acquire_lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_one_command_per_folder(mixed, tmp_path, capsys):
    shutil.copytree(mixed.out, tmp_path / "out")
    evaluation = Evaluation(mixed.checkpoints[1:], mixed.data, tmp_path / "out")
    command = [sys.executable, "-c", LOCK, str(tmp_path / "out" / ".evaluate_all.lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        other.stdout.readline()
        assert exit_status(evaluation.argv) == 2
        assert "[run.locked]" in capsys.readouterr().err
        assert exit_status([*evaluation.argv, "--dry-run"]) == 0
        other.communicate(b"")
    assert exit_status(evaluation.argv) == 0
    shutil.rmtree(tmp_path / "out")
