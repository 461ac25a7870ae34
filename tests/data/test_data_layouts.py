"""What a task needs on disk, and how it is said that something is missing."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from virtex.data.layouts import LAYOUTS, missing_paths, require_layout
from virtex.errors import UserError


def build(root: Path, task: str) -> None:
    """The least that satisfies ``task``."""
    for need in LAYOUTS[task].needs:
        path = root / need.path
        if need.kind == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        else:
            (path / "n01440764").mkdir(parents=True)


@pytest.mark.parametrize("task", LAYOUTS)
def test_all_that_is_listed_is_enough(tmp_path, task):
    build(tmp_path, task)
    require_layout(tmp_path, task)


@pytest.mark.parametrize("task", LAYOUTS)
def test_every_missing_path_is_listed(tmp_path, task):
    expected = [str(tmp_path / need.path) for need in LAYOUTS[task].needs]
    assert missing_paths(tmp_path, task) == expected


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_error_names_every_missing_path_joined_with_the_given_root(task):
    with pytest.raises(UserError) as raised:
        require_layout("no/such/root", task)
    for need in LAYOUTS[task].needs:
        assert os.path.join("no/such/root", need.path) in str(raised.value)


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_error_says_where_real_and_toy_data_come_from(task):
    with pytest.raises(
        UserError, match=r"http[\s\S]*python -m virtex\.eval_tools\.make_toy_data OUT"
    ):
        require_layout("no/such/root", task)


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_error_names_the_command_that_says_what_mends_it(task):
    command = rf"python -m virtex\.eval_tools\.check_data --data-root no/such/root --task {task}\n"
    with pytest.raises(UserError, match=command):
        require_layout("no/such/root", task)


def test_that_command_runs_in_any_folder_and_for_a_path_that_a_shell_would_cut(tmp_path):
    with pytest.raises(UserError) as raised:
        require_layout("my data; $HOME", "coco")
    (command,) = re.findall("what fixes it: python (.*)", str(raised.value))
    command = [sys.executable, *shlex.split(command)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "coco: lacks my data; $HOME/coco/train2017," in done.stderr


@pytest.mark.parametrize("task", LAYOUTS)
def test_only_what_is_missing_is_listed(tmp_path, task):
    build(tmp_path, task)
    files = [need.path for need in LAYOUTS[task].needs if need.kind == "file"]
    if files:
        (tmp_path / files[-1]).unlink()
        assert missing_paths(tmp_path, task) == [str(tmp_path / files[-1])]


@pytest.mark.parametrize(
    ("task", "paths"),
    [
        ("coco", ["coco/train2017", "coco/annotations/instances_val2017.json"]),
        ("lvis", ["coco/train2017", "coco/val2017", "lvis/lvis_v1_val.json"]),
        ("voc", ["VOC2007/ImageSets/Main/test.txt", "VOC2012/ImageSets/Main/trainval.txt"]),
        ("voc07_svm", ["VOC2007/JPEGImages", "VOC2007/ImageSets/Main/trainval.txt"]),
        ("imagenet", ["imagenet/train", "imagenet/val"]),
        ("inaturalist", ["inaturalist/annotations/val2018.json"]),
        ("captioning", ["coco/annotations/captions_val2017.json"]),
        ("pretraining", ["coco/annotations/captions_train2017.json"]),
        ("multilabel_pretraining", ["coco/annotations/instances_train2017.json"]),
    ],
)
def test_tasks_need_the_published_folders(task, paths):
    assert set(paths) <= {need.path for need in LAYOUTS[task].needs}


def test_voc07_does_without_voc2012_and_without_boxes(tmp_path):
    build(tmp_path, "voc07_svm")
    assert not (tmp_path / "VOC2007/Annotations").exists()
    assert missing_paths(tmp_path, "voc07_svm") == []


def test_an_empty_image_folder_is_missing(tmp_path):
    build(tmp_path, "coco")
    (tmp_path / "coco/val2017/n01440764").rmdir()
    with pytest.raises(UserError, match=r"val2017  \(an empty folder\)"):
        require_layout(tmp_path, "coco")


def test_imagenet_val_that_was_never_sorted_is_missing(tmp_path):
    build(tmp_path, "imagenet")
    (tmp_path / "imagenet/val/n01440764").rmdir()
    (tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG").write_text("")
    with pytest.raises(UserError, match="without class folders"):
        require_layout(tmp_path, "imagenet")


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    build(tmp_path, "inaturalist")
    (tmp_path / "inaturalist/train_val2018/n01440764").rmdir()
    (tmp_path / "inaturalist/train_val2018").rmdir()
    (tmp_path / "inaturalist/train_val2018").write_text("")
    with pytest.raises(UserError, match="a file, where a folder is needed"):
        require_layout(tmp_path, "inaturalist")


def test_a_folder_in_the_place_of_a_file_is_said(tmp_path):
    build(tmp_path, "voc07_svm")
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").unlink()
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").mkdir()
    with pytest.raises(UserError, match="a folder, where a file is needed"):
        require_layout(tmp_path, "voc07_svm")


def test_a_link_to_nothing_is_said(tmp_path):
    (tmp_path / "coco").symlink_to(tmp_path / "moved")
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/train").symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match=r"imagenet/train  \(a link to nothing\)"):
        require_layout(tmp_path, "imagenet")


def test_a_link_to_itself_is_said(tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/train").symlink_to(tmp_path / "imagenet/train")
    with pytest.raises(UserError, match=r"imagenet/train  \(a link to itself\)"):
        require_layout(tmp_path, "imagenet")


def test_a_link_to_itself_among_class_folders_is_passed_over(tmp_path):
    build(tmp_path, "imagenet")
    (tmp_path / "imagenet/train/n01440764").rmdir()
    (tmp_path / "imagenet/train/again").symlink_to(tmp_path / "imagenet/train/again")
    with pytest.raises(UserError, match=r"imagenet/train  \(without class folders\)"):
        require_layout(tmp_path, "imagenet")


def test_a_link_to_itself_in_the_data_root_is_listed(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path / "again")
    with pytest.raises(UserError, match=r"holds again\."):
        require_layout(tmp_path, "imagenet")


def test_linked_data_sets_are_followed(tmp_path):
    build(tmp_path / "elsewhere", "coco")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/coco").symlink_to(tmp_path / "elsewhere/coco")
    require_layout(tmp_path / "root", "coco")


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"'cooc'.*coco, lvis, voc"):
        missing_paths(tmp_path, "cooc")


def test_the_error_says_what_the_data_root_holds(tmp_path):
    for name in ("train2017", "val2017", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds annotations/, notes\.txt, train2017/, val2017/\."):
        require_layout(tmp_path, "coco")


def test_of_many_things_found_the_first_eight_are_told(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}").mkdir()
    with pytest.raises(UserError, match=r"holds 00/, 01/, .*, 07/, …\."):
        require_layout(tmp_path, "coco")


def test_the_error_says_that_the_data_root_is_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match=rf"The data root {tmp_path} is empty\."):
        require_layout(tmp_path, "coco")
    with pytest.raises(UserError, match=r"The data root .*nowhere does not exist\."):
        require_layout(tmp_path / "nowhere", "coco")
