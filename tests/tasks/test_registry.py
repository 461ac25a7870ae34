"""The Task registry: built-in entries, and a task that one file adds."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.errors import raises_code
from tests.faults.processes import Process
from virtex.tasks import TASKS, get_task, packaged_protocol, register_task

ROOT = Path(__file__).resolve().parents[2]
EVALUATIONS = [task for task in TASKS.values() if task.is_evaluation]


@pytest.mark.parametrize("task", EVALUATIONS, ids=lambda task: task.name)
def test_protocols_are_packaged(task):
    for protocol in task.protocols.values():
        assert protocol.task == task.name
        assert protocol.config.is_file()
        assert (protocol.images == {}) == ("toy" in protocol.config.parts)
    assert task.primary_metric


def test_unknown_names_are_reported():
    with raises_code("arguments.unknown_task", "coco3d", "voc07_svm"):
        get_task("coco3d")
    with raises_code("protocol.unknown", "imagenet_linear", "cached"):
        packaged_protocol("imagenet_linear", "fast")


def test_names_are_unique():
    with pytest.raises(ValueError, match="coco"):
        register_task(TASKS["coco"])


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The task of docs/extending.md as a file."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"cat > output/flowers.py <<'EOF'\n(.*?)EOF\n", page, re.DOTALL)
    assert len(code.splitlines()) <= 40
    path = tmp_path_factory.mktemp("plugin") / "flowers.py"
    path.write_text(code)
    return path


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Thirty images of two classes in each split."""
    root = tmp_path_factory.mktemp("datasets")
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val"), ("iris", "rose"), range(30)):
        folder = root / "flowers" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        level = 60 if name == "iris" else 180
        pixels = rng.integers(level, level + 60, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def run_tool(plugin, tmp_path, started):
    """Run a tool to its end in a process that has read the plugin."""

    def run(name, *arguments):
        folder = tmp_path / f"printed by {name} {len(list(tmp_path.iterdir()))}"
        environment = {"VIRTEX_TASKS": str(plugin)}
        process = started(Process(f"virtex.eval_tools.{name}", arguments, folder, environment))
        return process.status(), process.printed

    return run


CHECKPOINT = ("--checkpoint", "random:resnet18?seed=0", "--protocol", "toy", "--num-gpus", "0")


def test_plugin_is_evaluated_and_ranked(run_tool, data_root, tmp_path):
    arguments = ("--data-root", data_root, "--output-dir", tmp_path / "out", "--num-workers", 0)
    status, printed = run_tool("probe", "--task", "flowers", *CHECKPOINT, *arguments)
    assert status == 0, printed
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["task"] == "flowers"
    assert record["metrics"][record["primary_metric"]] > 60
    status, printed = run_tool("leaderboard", tmp_path / "out", "--output", tmp_path / "board.csv")
    assert status == 0, printed
    assert "flowers[toy]/top1" in (tmp_path / "board.csv").read_text().splitlines()[0]


def test_plugin_is_checked(run_tool, data_root, tmp_path):
    for root, expected in ((data_root, 0), (tmp_path, 2)):
        status, printed = run_tool("check_data", "--data-root", root, "--task", "flowers")
        assert status == expected, printed
        assert str(Path("flowers", "train")) in printed


def test_plugin_is_planned(run_tool, data_root, tmp_path):
    arguments = ("--data-root", data_root, "--output-dir", tmp_path / "all", "--dry-run")
    status, printed = run_tool("evaluate_all", "--tasks", "flowers", *CHECKPOINT, *arguments)
    assert status == 0, printed
    assert "flowers" in printed


def test_missing_plugin_is_reported(tmp_path, started):
    arguments = ("--task", "flowers", *CHECKPOINT)
    environment = {"VIRTEX_TASKS": "/nowhere/flowers.py"}
    process = Process("virtex.eval_tools.probe", arguments, tmp_path / "printed", environment)
    started(process).fails("environment.plugin", "/nowhere/flowers.py")
