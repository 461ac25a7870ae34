"""The command eval_tools/check_data.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "eval_tools" / "check_data.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)


def test_complete_data_are_status_0_and_a_row_for_each_path(toy_root):
    done = run("--data-root", toy_root)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  ok       {toy_root}/imagenet/val" in done.stdout


def test_missing_data_are_status_2_and_a_sentence_for_each_task(toy_root, tmp_path):
    shutil.copytree(toy_root / "coco", tmp_path / "coco")
    done = run("--data-root", tmp_path, "--task", "coco", "lvis", "--task", "voc07_svm")
    assert done.returncode == 2
    lvis, voc = done.stderr.splitlines()
    assert f"lvis: lacks {tmp_path}/lvis/lvis_v1_train.json, {tmp_path}/lvis/lvis_v1_val" in lvis
    assert voc.startswith(f"voc07_svm: lacks {tmp_path}/VOC2007/JPEGImages")
    assert f"  missing  {tmp_path}/VOC2007/JPEGImages" in done.stdout
    assert "python -m virtex.eval_tools.make_toy_data OUT" in done.stdout


def test_an_unknown_task_is_one_plain_sentence(toy_root):
    done = run("--data-root", toy_root, "--task", "cooc")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "there is no task 'cooc'; the tasks are coco, lvis, voc," in done.stderr


def test_json_is_all_that_is_on_stdout(toy_root, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    shutil.copytree(toy_root / "VOC2007", tmp_path / "VOCdevkit/VOC2007")
    done = run("--data-root", tmp_path, "--task", "voc07_svm", "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)["tasks"]["voc07_svm"]
    (remedy,) = found["remedies"]
    assert remedy["command"] == f"ln -sn {tmp_path}/VOCdevkit/VOC2007 {tmp_path}/VOC2007"


def test_the_commands_that_mend_it_are_on_lines_of_their_own(toy_root, tmp_path):
    shutil.copytree(toy_root / "imagenet", tmp_path / "ILSVRC2012")
    done = run("--data-root", tmp_path, "--task", "imagenet_linear")
    command = f"    ln -sn {tmp_path}/ILSVRC2012 {tmp_path}/imagenet"
    assert command in done.stdout.splitlines()


def test_deep_names_a_broken_image(toy_root, tmp_path):
    shutil.copytree(toy_root / "imagenet", tmp_path / "imagenet")
    file = next((tmp_path / "imagenet/val").glob("*/*.JPEG"))
    file.write_bytes(file.read_bytes()[:100])
    command = ("--data-root", tmp_path, "--task", "imagenet", "--num-workers", "2")
    assert run(*command).returncode == 0
    done = run(*command, "--deep")
    assert done.returncode == 2
    assert f"the image {file} cannot be read" in done.stdout


def test_the_quick_check_needs_no_torch(toy_root):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None\n"
        "from virtex.data.check import check_data\n"
        "print(len(check_data(sys.argv[1]).incomplete))"
    )
    done = subprocess.run([sys.executable, "-c", code, toy_root], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_help_answers_at_once():
    command = [sys.executable, "-X", "importtime", TOOL, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "--deep" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "virtex.cli" in imported
    assert not imported.intersection({"torch", "numpy", "virtex.data.check"})
