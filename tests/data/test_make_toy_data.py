"""The command eval_tools/make_toy_data.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from virtex.data.toy import write_toy_data

TOOL = Path(__file__).parents[2] / "eval_tools" / "make_toy_data.py"
SIZES = ("--train-images", "6", "--val-images", "2")


def run(*args: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, TOOL, *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tool") / "toy"
    result = run(out, *SIZES, PYTHONHASHSEED="7")
    assert result.returncode == 0, result.stderr
    return out


def test_it_writes_what_the_library_writes(written, tmp_path):
    write_toy_data(tmp_path, train_images=6, val_images=2)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes()


def test_a_second_time_it_says_that_nothing_was_written(written):
    result = run(written, *SIZES)
    assert result.returncode == 0
    assert "already holds" in result.stdout


def test_other_data_in_the_folder_are_one_plain_sentence_and_status_2(written):
    result = run(written, "--seed", "5", *SIZES)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "--overwrite" in result.stderr


def test_the_preview_is_a_picture(written, tmp_path):
    result = run(written, *SIZES, "--preview", tmp_path / "sheet.png")
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10


def test_a_preview_of_another_kind_is_refused_before_anything_is_written(tmp_path):
    result = run(tmp_path / "toy", *SIZES, "--preview", tmp_path / "sheet.pdf")
    assert result.returncode == 2
    assert not (tmp_path / "toy").exists()


def test_a_preview_that_cannot_be_written_is_named(written, tmp_path):
    result = run(written, *SIZES, "--preview", tmp_path / "none" / "sheet.png")
    assert result.returncode == 2
    assert "sheet.png" in result.stderr


def test_help_answers_at_once():
    begun = time.perf_counter()
    result = run("--help")
    assert time.perf_counter() - begun < 1  # 0.05 s on an idle machine
    assert "--train-images" in result.stdout
