"""Which tasks there are, and what TASK[:PROTOCOL] chooses of them."""

from pathlib import Path

import pytest

from tests.evaluate_all.evaluations import TOOL
from virtex.data.layouts import LAYOUTS
from virtex.errors import UserError
from virtex.evaluate_all.records import parsed
from virtex.evaluate_all.tasks import DEFAULT_TASKS, TASKS, choose_tasks

NEEDED = ["--checkpoint", "a.pth", "--output-dir", "out", "--seed", "3", "--num-gpus", "0"]


def folders(*asked, protocol=None):
    return {choice.folder: choice.protocol for choice in choose_tasks(asked, protocol)}


def test_the_default_is_the_tasks_of_the_paper():
    paper = "coco lvis voc voc07_svm imagenet_linear inaturalist coco_captioning"
    assert " ".join(DEFAULT_TASKS) == paper


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_a_tool_that_takes_its_arguments_and_plans_that_task(task):
    for protocol in task.protocol_names():
        words = [*NEEDED, *task.arguments, "--protocol", protocol, "--resume"]
        args = parsed(task, TOOL.parent, words)
        (plan,) = task.plans(args)
        assert (plan.protocol.task, plan.deviations) == (task.name, [])
    assert task.layout in LAYOUTS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_tool_takes_the_number_of_workers(task):
    words = [*NEEDED, *task.arguments, task.workers, "7"]
    args = parsed(task, TOOL.parent, words)
    assert "7" in args.overrides or args.num_workers == 7


def test_a_folder_carries_the_protocol_unless_it_is_the_default():
    assert folders("coco", "coco:1x", "imagenet_linear:paper", "imagenet_linear:cached") == {
        "coco": "2x",
        "coco_1x": "1x",
        "imagenet_linear": "paper",
        "imagenet_linear_cached": "cached",
    }


def test_one_protocol_for_all_that_name_none():
    assert folders("coco", "voc07_svm:paper", protocol="toy") == {
        "coco_toy": "toy",
        "voc07_svm": "paper",
    }


def test_the_same_task_twice_is_run_once():
    assert len(choose_tasks(["coco", "coco:2x", "coco"], None)) == 1


@pytest.mark.parametrize(
    ("asked", "protocol", "message"),
    [
        ("cocoo", None, "there is no task 'cocoo'; there are coco, lvis, voc, voc07_svm"),
        ("coco:3x", None, "task coco has no protocol '3x'; it has 2x, 1x, scratch, toy"),
        ("voc07_svm", "1x", "task voc07_svm has no protocol '1x'; it has paper, toy"),
        ("imagenet_knn:", "k2", "task imagenet_knn has no protocol 'k2'; it has k20, toy"),
    ],
)
def test_what_there_is_not_is_named_with_what_there_is(asked, protocol, message):
    with pytest.raises(UserError) as told:
        choose_tasks([asked], protocol)
    assert message in str(told.value)


def test_no_task_is_named_after_a_path():
    assert all(Path(name).name == name for name in TASKS)
