"""What a task needs on disk, and the error that names what is missing."""

import re
import shlex
from pathlib import Path

import pytest

from tests.errors import raises_code
from virtex.data import layouts
from virtex.data.layouts import Layout, Need, missing_paths, require_layout
from virtex.tasks import TASKS

LAYOUTS = {name: task.layout for name, task in TASKS.items()}
TOY_LAYOUTS = {name: layout for name, layout in LAYOUTS.items() if layout.has_toy_data}
BUILT_IN = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def build(root: Path, layout: Layout) -> None:
    """Write the least that satisfies ``layout``."""
    for need in layout.needs:
        path = root / need.path
        if need.is_folder:
            (path / "n01440764").mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")


@BUILT_IN
def test_listed_paths_suffice(tmp_path, layout):
    build(tmp_path, layout)
    require_layout(tmp_path, layout, "task")
    assert missing_paths(tmp_path, layout) == []


@BUILT_IN
def test_every_missing_path_is_named(tmp_path, layout):
    paths = [str(tmp_path / need.path) for need in layout.needs]
    assert missing_paths(tmp_path, layout) == paths
    command = f"check_data --data-root {tmp_path} --task task"
    toy = ["make_toy_data"] * layout.has_toy_data
    with raises_code("data.missing", *paths, layout.source, command, *toy):
        require_layout(tmp_path, layout, "task")


@BUILT_IN
def test_annotations_name_their_images_below_a_needed_folder(layout):
    for need in layout.needs:
        if need.images:
            folders = {other.path.split("/")[0] for other in layout.needs if other.is_folder}
            assert need.images.split("/")[0] in folders and need.images.count("{}") == 1


def test_only_missing_paths_are_named(tmp_path):
    build(tmp_path, layouts.COCO_DETECTION)
    file = tmp_path / "coco/annotations/instances_val2017.json"
    file.unlink()
    assert missing_paths(tmp_path, layouts.COCO_DETECTION) == [str(file)]


def test_voc07_classification_needs_neither_boxes_nor_voc2012():
    paths = {need.path for need in layouts.VOC07_CLASSIFICATION.needs}
    assert "VOC2007/Annotations" not in paths
    assert not any(path.startswith("VOC2012") for path in paths)


def test_command_in_message_is_quoted_for_a_shell():
    with raises_code("data.missing") as caught:
        require_layout("my data; $HOME", layouts.IMAGENET, "knn")
    (command,) = re.findall("Details: (.*)", str(caught.value))
    assert shlex.split(command)[-4:] == ["--data-root", "my data; $HOME", "--task", "knn"]


def empty(path: Path) -> None:
    path.mkdir()


def file(path: Path) -> None:
    path.write_text("")


def files_only(path: Path) -> None:
    path.mkdir()
    (path / "ILSVRC2012_val_00000001.JPEG").write_text("")


def dangling(path: Path) -> None:
    path.symlink_to("moved")


def loop(path: Path) -> None:
    path.symlink_to(path)


def looping_class(path: Path) -> None:
    path.mkdir()
    loop(path / "n01440764")


@pytest.mark.parametrize(
    ("kind", "make", "problem"),
    [
        ("images", empty, "empty folder"),
        ("images", file, "found a file"),
        ("class_folders", files_only, "no class folders"),
        ("class_folders", looping_class, "no class folders"),
        ("image_list", empty, "expected a file"),
        ("images", dangling, "broken symbolic link"),
        ("coco_json", dangling, "broken symbolic link"),
        ("images", loop, "symbolic link loop"),
    ],
)
def test_unusable_path(tmp_path, kind, make, problem):
    make(tmp_path / "data")
    with raises_code("data.missing", tmp_path / "data", problem):
        require_layout(tmp_path, Layout((Need("data", kind),), "nowhere"), "task")


def test_links_are_followed(tmp_path):
    build(tmp_path / "elsewhere", layouts.COCO_DETECTION)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/coco").symlink_to(tmp_path / "elsewhere/coco")
    require_layout(tmp_path / "root", layouts.COCO_DETECTION, "coco")


def test_message_lists_contents_of_data_root(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}").mkdir()
    with raises_code("data.missing", "00/, 01/, ", "07/, …"):
        require_layout(tmp_path, layouts.COCO_DETECTION, "coco")
    with raises_code("data.missing", "does not exist"):
        require_layout(tmp_path / "nowhere", layouts.COCO_DETECTION, "coco")


def test_unknown_kind_is_a_programming_error():
    with pytest.raises(ValueError, match="tarball"):
        Need("data", "tarball")
