"""Output and exit status of eval_tools/inspect_checkpoint.py."""

import json
import runpy
import sys
from pathlib import Path

import checkpoint_writers as writers
import pytest

TOOL = Path(__file__).parents[2] / "eval_tools" / "inspect_checkpoint.py"


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run the tool in this process; return (status, stdout, stderr)."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOL), run_name="__main__")
        return left.value.code, *capsys.readouterr()

    return run_here


def test_complete_checkpoint(run_here, resnet18, here):
    path = writers.save(writers.moco(resnet18), here / "moco.pth.tar")
    status, page, errors = run_here(path)
    assert (status, errors) == (0, "")
    lines = [line.split() for line in page.splitlines()]
    assert lines[3][:2] == ["format", "moco"] and lines[4][1] == "resnet18,"
    assert "RGB, mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in page
    assert ["total", "100", "100", "0", "0"] in lines
    assert ["129", "module.encoder_k"] in lines


def test_incomplete_checkpoint_as_json(run_here, resnet18, here):
    partial = {key: value for key, value in resnet18.items() if key != "layer4.1.bn2.bias"}
    path = writers.save(writers.moco(partial), here / "moco.pth.tar")
    status, page, errors = run_here(path, "--json")
    record = json.loads(page)
    assert status == 2 and "[checkpoint.incomplete]" in errors and "layer4.1.bn2.bias" in errors
    assert (record["complete"], record["code"]) == (False, "checkpoint.incomplete")
    assert record["format"] == "moco" and record["arch"]["name"] == "resnet18"
    assert record["coverage"]["stages"]["res5"]["missing"] == ["layer4.1.bn2.bias"]
    assert len(record["sha256"]) == 64


def test_missing_file_as_json(run_here, here):
    status, page, errors = run_here(here / "absent.pth", "--json")
    assert status == 2
    assert json.loads(page)["code"] == "checkpoint.not_found"
    assert len(errors.splitlines()) == 1


def test_list_formats(run_here):
    status, page, _ = run_here("--list-formats")
    assert status == 0
    assert "moco, moco_v1_v2, moco_v1, moco_v2, pcl" in page
    assert "dino_student" in page


def test_missing_argument(run_here):
    status, page, errors = run_here()
    assert (status, page) == (2, "") and "[arguments.missing]" in errors
