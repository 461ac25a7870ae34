"""Data that lie elsewhere, or are packed: the commands that are printed fix them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from messy_data import MESSES, flatten_val, move, pack

from virtex.data.check import check_data

SETS = ("coco", "lvis", "VOC2007", "VOC2012", "imagenet", "inaturalist")
ROUNDS = 3  # what is unpacked may have to be linked, and sorted then


@pytest.fixture
def root(toy_root, tmp_path):
    for name in SETS:
        shutil.copytree(toy_root / name, tmp_path / "data" / name)
    return tmp_path / "data"


def commands(root: Path | str, task: str) -> list[str]:
    (found,) = check_data(root, [task]).tasks
    return [remedy.command for remedy in found.remedies if remedy.command]


def what_was_found(root: Path, task: str) -> list[str]:
    return [remedy.found for remedy in check_data(root, [task]).tasks[0].remedies]


def give(root: Path) -> str:
    return f"give --data-root {root}"


def run_in_shell(command: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # python is this one
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def counts(root: Path, task: str) -> list[dict[str, int]]:
    return [path.counts for path in check_data(root, [task]).tasks[0].paths]


@pytest.mark.parametrize("name", MESSES)
def test_the_printed_commands_mend_it(root, name):
    mess = MESSES[name]
    before = counts(root, mess.task)
    mess.make(root)
    assert check_data(root, [mess.task]).incomplete
    for _ in range(ROUNDS):
        for command in commands(root, mess.task):
            run_in_shell(command, root.parent)
    assert not check_data(root, [mess.task]).incomplete
    if name != "coco of 2014":  # there all pictures are in both folders
        assert counts(root, mess.task) == before


def test_nothing_is_changed_by_looking(root):
    MESSES["ImageNet packed"].make(root)
    before = sorted(root.rglob("*"))
    check_data(root)
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in MESSES if "link" in name])
def test_what_links_lead_to_stays_where_it_is(root, name):
    mess = MESSES[name]
    mess.make(root)
    before = sorted(file for file in (root.parent / "store").rglob("*") if not file.is_symlink())
    for command in commands(root, mess.task):
        run_in_shell(command, root.parent)
    after = sorted(file for file in (root.parent / "store").rglob("*") if not file.is_symlink())
    assert after == before


def test_a_folder_of_data_is_not_moved_for_the_sake_of_one_that_lies_in_it(root):
    file = sorted((root / "coco/train2017").iterdir())[0]
    move(root, f"coco/train2017/{file.name}", f"coco/train2017/extra/{file.name}")
    (found,) = check_data(root, ["coco"]).tasks
    assert found.paths[2].lacking == [f"coco/train2017/{file.name}"]
    assert found.remedies == []


def test_a_folder_too_deep_is_found_also_where_the_first_image_is_lost(root):
    sorted((root / "coco/val2017").iterdir())[0].unlink()
    move(root, "coco/val2017", "coco/val2017/val2017")
    assert "one folder too deep, in val2017" in what_was_found(root, "coco")[0]


def test_what_was_put_aside_before_is_not_moved_into(root):
    MESSES["coco's images one folder too deep"].make(root)
    (root / "coco/train2017.outer").mkdir()
    (found,) = check_data(root, ["coco"]).tasks
    assert [bool(remedy.command) for remedy in found.remedies] == [False, True]
    assert "train2017.outer is there already" in found.remedies[0].found


@pytest.mark.parametrize(
    ("archive", "path", "inside", "lost", "edited"),
    [
        ("annotations_trainval2017.zip", "coco/annotations", "annotations",
         "captions_val2017.json", "instances_val2017.json"),
        ("VOCtest_06-Nov-2007.tar", "VOC2007/ImageSets/Main", "VOCdevkit/VOC2007/ImageSets/Main",
         "test.txt", "trainval.txt"),
    ],
)  # fmt: skip
def test_unpacking_replaces_no_file(root, archive, path, inside, lost, edited):
    shutil.copytree(root / path, root / "copy")
    pack(root, "copy", archive, inside)
    (root / path / lost).unlink()
    (root / path / edited).write_text("edited")
    (command,) = commands(root, "voc07_svm" if "VOC" in path else "coco_captioning")
    run_in_shell(command, root)
    assert (root / path / edited).read_text() == "edited"
    assert (root / path / lost).exists()


def test_val_images_go_to_their_own_classes(root):
    before = sorted((root / "imagenet/val").rglob("*.JPEG"))
    flatten_val(root)
    for command in commands(root, "imagenet_linear"):
        run_in_shell(command, root)
    assert sorted((root / "imagenet/val").rglob("*.JPEG")) == before


def test_a_flat_val_without_a_table_of_classes_is_told_what_it_needs(root):
    flatten_val(root)
    (root / "LOC_val_solution.csv").unlink()
    (found,) = check_data(root, ["imagenet_linear"]).tasks
    (remedy,) = found.remedies
    assert remedy.command == ""
    assert "24 images without class folders" in remedy.found
    assert "LOC_val_solution.csv or ILSVRC2012_devkit_t12.tar.gz" in remedy.found


def test_a_data_root_one_folder_too_deep_is_told_the_right_one(root):
    assert what_was_found(root / "coco", "coco") == [f"{root} holds all of it: {give(root)}"]


def test_a_data_root_one_folder_too_high_is_told_the_right_one(root):
    assert what_was_found(root.parent, "voc") == [f"{root} holds all of it: {give(root)}"]


def test_what_voc_unpacks_to_is_linked_from_also_where_nothing_else_is(root, tmp_path):
    new = tmp_path / "new"
    (new / "VOCdevkit").mkdir(parents=True)
    (root / "VOC2007").rename(new / "VOCdevkit/VOC2007")
    assert commands(new, "voc07_svm") == [f"ln -sn {new}/VOCdevkit/VOC2007 {new}/VOC2007"]


def test_a_link_that_is_made_twice_does_not_get_into_the_data(root, tmp_path):
    new = tmp_path / "new"
    (new / "VOCdevkit").mkdir(parents=True)
    (root / "VOC2007").rename(new / "VOCdevkit/VOC2007")
    (command,) = commands(new, "voc07_svm")
    before = os.listdir(new / "VOCdevkit/VOC2007")
    first, second = (subprocess.run(command, shell=True, capture_output=True) for _ in range(2))
    assert first.returncode == 0 and second.returncode != 0
    assert os.listdir(new / "VOCdevkit/VOC2007") == before


def test_a_relative_data_root_is_mended_from_where_the_check_was_run(root, monkeypatch):
    move(root, "VOC2007", "VOCdevkit/VOC2007")
    monkeypatch.chdir(root.parent)
    (command,) = commands("data", "voc07_svm")
    run_in_shell(command, root.parent)
    assert not check_data("data", ["voc07_svm"]).incomplete


def test_annotations_of_2014_are_not_renamed(root):
    annotations = root / "coco/annotations"
    for split in ("train", "val"):
        name = f"instances_{split}20"
        (annotations / f"{name}17.json").rename(annotations / f"{name}14.json")
    (found,) = check_data(root, ["coco"]).tasks
    assert [remedy.command for remedy in found.remedies] == ["", ""]
    assert "2017's must be downloaded" in found.remedies[0].found


def test_folders_of_other_data_are_not_taken_for_what_is_missing(root):
    shutil.rmtree(root / "VOC2007")  # VOC2012 has folders and lists of the same names
    shutil.rmtree(root / "imagenet/train")
    shutil.copytree(root / "imagenet/val", root / "places365/train")
    assert commands(root, "voc07_svm") == []
    assert commands(root, "imagenet_linear") == []


def test_the_same_command_is_given_once(root):
    move(root, "VOC2007", "VOCdevkit/VOC2007")
    assert len(commands(root, "voc")) == 1


def test_paths_in_commands_are_quoted(root):
    move(root, "VOC2007", "my data; $HOME/VOC2007")
    (command,) = commands(root, "voc07_svm")
    assert shlex.split(command)[-2:] == [f"{root}/my data; $HOME/VOC2007", f"{root}/VOC2007"]
