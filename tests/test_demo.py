"""The demo of the Makefile: its commands are valid, it runs, and a second run repeats nothing."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# small enough for a test
SMALL = "DATA.IMAGE_CROP_SIZE 32 OPTIM.BATCH_SIZE 8 OPTIM.WARMUP_STEPS 0 OPTIM.NUM_ITERATIONS 2"
EVALUATED = "--protocol toy --num-gpus 0 --tasks voc07_svm coco_captioning"


def make(*words):
    command = [
        "make",
        "--no-print-directory",
        "-o",
        ".venv/.ready",
        f"RUN={sys.executable}",
        *words,
    ]
    # flags of the make that runs the tests
    others = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=others, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def small_demo(folder):
    data = folder / "data"
    return make(
        "demo",
        f"DEMO={folder}",
        "IMAGES=--coco-train-images 150 --train-images 30 --val-images 20",
        f"PRETRAIN={sys.executable} -m virtex.pretrain --data-root {data} --num-gpus 0 {SMALL}",
        f"EVALUATE={sys.executable} eval_tools/evaluate_all.py --data-root {data} {EVALUATED}",
    )


@pytest.mark.parametrize("target", ["demo", "demo-full"])
def test_commands_are_valid(target):
    check_shell = pytest.importorskip("tests.documentation.command_lines").check_shell
    commands = make("-n", target, "DEMO=nowhere/demo", "FULL=nowhere/full")
    assert "virtex.pretrain" in commands and "leaderboard.py" in commands
    check_shell(commands)


@pytest.mark.whole
def test_demo_ends_with_the_leaderboard_and_runs_once(tmp_path):
    folder = tmp_path / "demo"
    printed = small_demo(folder)
    assert "| VirTex" in printed and "| random initialization" in printed
    with open(folder / "leaderboard.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"VirTex", "random initialization"}
    for metric in ("/mAP", "/CIDEr"):
        (column,) = (name for name in rows[0] if name.endswith(metric))
        assert all(row[column] for row in rows)
    assert (folder / "leaderboard.html").is_file() and (folder / "leaderboard.png").is_file()

    left = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    (folder / "leaderboard.html").unlink()
    again = small_demo(folder)
    assert "virtex.pretrain" not in again and "make_toy_data" not in again
    assert left == {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    assert (folder / "leaderboard.html").is_file()


def test_interrupted_demo_continues(tmp_path):
    folder = tmp_path / "demo"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "toy.json").touch()  # as left by a demo that ended before its vocabulary
    printed = make("-n", "demo", f"DEMO={folder}")
    assert "make_toy_data" not in printed
    assert "virtex.data.tokenizer" in printed
