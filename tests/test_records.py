"""Records are written atomically and are valid JSON."""

import json
import os

import pytest

from tests.errors import raises_code
from virtex.records import (
    SCHEMA_VERSION,
    Deviation,
    Result,
    git_revision,
    read_record,
    write_json,
)


def make_result(**changes):
    fields = {
        "task": "coco",
        "protocol": {"name": "p", "version": "1"},
        "deviations": [Deviation("SOLVER.MAX_ITER", 10, 5, "override")],
        "metrics": {"bbox/AP": 12.5, "bbox/APs": float("nan")},
        "primary_metric": "bbox/AP",
        "model": {"name": "m"},
        "seed": 0,
        "timing": {"train_seconds": 1.0},
    }
    return Result(**{**fields, **changes})


def test_record_has_the_schema(tmp_path):
    found = json.loads(make_result().write(tmp_path).read_text())
    assert found["schema_version"] == SCHEMA_VERSION
    assert found["protocol"]["overrides"] == [
        {"key": "SOLVER.MAX_ITER", "protocol": 10, "run": 5, "reason": "override"}
    ]
    assert found["higher_is_better"] is True
    assert {"python", "torch", "torchvision", "gpus", "git_revision"} <= set(found["environment"])
    assert found["created"].endswith("+00:00")


def test_written_record_can_be_read(tmp_path):
    arch = {"name": "resnet18"}
    model = {"name": "m", "sha256": "0" * 64, "format": "torchvision", "arch": arch}
    path = make_result(model=model).write(tmp_path)
    assert read_record(path)["metrics"] == {"bbox/AP": 12.5, "bbox/APs": None}


def test_invalid_record_is_reported(tmp_path):
    path = make_result(model={"name": "m"}).write(tmp_path)
    with raises_code("records.invalid", path, "model.sha256"):
        read_record(path)


def test_undefined_metric_is_null(tmp_path):
    found = json.loads(make_result().write(tmp_path).read_text())
    assert found["metrics"] == {"bbox/AP": 12.5, "bbox/APs": None}


def test_failed_write_keeps_the_old_record(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("inf")})
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["result.json"]


def test_git_revision_is_a_commit_or_none():
    found = git_revision()
    assert found is None or len(found.removesuffix("+changes")) == 40
