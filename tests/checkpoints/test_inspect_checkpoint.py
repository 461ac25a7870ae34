"""eval_tools/inspect_checkpoint.py: what it prints and the status it leaves with."""

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import checkpoint_writers as writers
import pytest

TOOL = Path(__file__).parents[2] / "eval_tools" / "inspect_checkpoint.py"


def run(*arguments):
    """As its users run it: (status, stdout, stderr) of a process of its own."""
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same in this process, which has imported torch already."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOL), run_name="__main__")
        return left.value.code, *capsys.readouterr()

    return run_here


def test_a_complete_file_is_shown_stage_by_stage(run_here, resnet18, here):
    path = writers.save(writers.moco(resnet18), here / "moco.pth.tar")
    status, page, errors = run_here(path)
    assert (status, errors) == (0, "")
    assert "format        moco (facebookresearch/moco v1 and v2; salesforce/PCL)" in page
    assert "architecture  resnet18" in page
    assert "RGB, mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in page
    assert ["total", "100", "100", "0", "0"] in [line.split() for line in page.splitlines()]
    assert ["129", "module.encoder_k"] in [line.split() for line in page.splitlines()]


def test_machines_get_json_and_status_2_if_it_is_incomplete(resnet18, here):
    partial = {key: value for key, value in resnet18.items() if key != "layer4.1.bn2.bias"}
    done = run(writers.save(writers.moco(partial), here / "moco.pth.tar"), "--json")
    record = json.loads(done.stdout)
    assert done.returncode == 2
    assert record["complete"] is False
    assert record["format"] == "moco" and record["arch"]["name"] == "resnet18"
    assert record["coverage"]["stages"]["res5"]["missing"] == ["layer4.1.bn2.bias"]
    assert len(record["sha256"]) == 64
    assert "error: " in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_cannot_be_opened_is_json_too(run_here, here):
    status, page, errors = run_here(here / "absent.pth", "--json")
    assert status == 2
    assert json.loads(page)["complete"] is False
    assert len(errors.splitlines()) == 1


def test_the_formats_are_listed(run_here):
    status, page, _ = run_here("--list-formats")
    assert status == 0
    assert "moco, moco_v1_v2, moco_v1, moco_v2, pcl" in page
    assert "dino_student" in page


def test_without_a_checkpoint_it_says_what_to_give(run_here):
    assert run_here() == (
        2,
        "",
        "inspect_checkpoint.py: error: give a checkpoint to inspect, or --list-formats\n",
    )


def test_help_answers_at_once_and_begins_with_commands():
    started = time.monotonic()
    done = run("--help")
    assert time.monotonic() - started < 1.5  # 0.05 s on an idle machine; torch alone takes longer
    assert "python eval_tools/inspect_checkpoint.py torchvision://resnet50" in done.stdout
