"""check_data: missing and malformed data, counts, exit status."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from tests.data.conftest import TRAIN, VAL
from tests.data.test_data_layouts import TOY_LAYOUTS
from tests.errors import assert_invalid_input, raises_code
from virtex.check_data import IMAGE_SUFFIXES, PathReport, check_data
from virtex.data.layouts import Layout, Need
from virtex.tasks import TASKS, Task

TOOL = Path(__file__).parents[2] / "eval_tools" / "check_data.py"


def run(*args: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *args], capture_output=True, text=True)


def check_task(root: Path, name: str, **options):
    (report,) = check_data(root, [name], **options).tasks
    return report


def check_path(root: Path, task: str, path: str, **options) -> PathReport:
    return check_data(root, [task], **options).paths[path]


def test_all_tasks_are_complete_on_toy_data(toy_root):
    report = check_data(toy_root, list(TOY_LAYOUTS))
    assert [task.name for task in report.tasks] == list(TOY_LAYOUTS)
    assert not report.incomplete
    assert all(task.is_subset for task in report.tasks)
    assert {n.path for layout in TOY_LAYOUTS.values() for n in layout.needs} <= set(report.paths)


def test_unknown_task(toy_root):
    with raises_code("arguments.unknown_task", "cooc", "coco"):
        check_data(toy_root, ["coco", "cooc"])


@pytest.mark.parametrize("name", TASKS)
def test_missing_paths(tmp_path, name):
    report = check_data(tmp_path / "nowhere", [name])
    (task,) = report.tasks
    needs = [need.path for need in TASKS[name].layout.needs]
    assert [path.path for path in task.paths if path.state == "missing"] == needs
    assert all(path in task.summary() for path in needs)
    assert task.source in report.as_text() and "does not exist" in report.as_text()


def test_new_task_needs_no_other_edit(tmp_path, monkeypatch):
    def read_data(root):
        read.append(root)

    read = []
    layout = Layout((Need("mine", "class_folders", {"images": 9}),), "my disk: https://mine")
    task = Task("mine", "Mine", layout, {}, lambda args: [], read_data=read_data)
    monkeypatch.setitem(TASKS, "mine", task)
    assert (
        check_task(tmp_path, "mine").summary() == f"mine: incomplete: {tmp_path}/mine (not found)"
    )
    (tmp_path / "mine/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "mine/cat/1.png")
    report = check_task(tmp_path, "mine", deep=True)
    assert report.is_complete and report.is_subset
    assert read == [tmp_path]


# Counts ----


@pytest.mark.parametrize(
    ("task", "path", "counts"),
    [
        ("coco", "coco/train2017", {"images": TRAIN + TRAIN // 2}),  # half as many of persons
        ("coco_keypoints", "coco/annotations/person_keypoints_val2017.json",
         {"images": VAL // 2, "categories": 1}),
        ("coco", "coco/annotations/instances_val2017.json", {"images": VAL, "categories": 10}),
        ("pretraining", "coco/annotations/captions_val2017.json",
         {"images": VAL, "captions": 5 * VAL}),
        ("lvis", "lvis/lvis_v1_val.json", {"images": VAL, "categories": 80}),
        ("voc", "VOC2007/Annotations", {"files": TRAIN // 2 + VAL}),
        ("voc", "VOC2007/ImageSets/Main/test.txt", {"images": VAL}),
        ("voc", "VOC2012/JPEGImages", {"images": TRAIN // 2}),
        ("voc07_svm", "VOC2007/ImageSets/Main/aeroplane_test.txt", {"classes": 20}),
        ("imagenet_linear", "imagenet/train", {"images": TRAIN, "classes": 20}),
        ("inaturalist", "inaturalist/train_val2018", {"images": TRAIN + VAL}),
        ("inaturalist", "inaturalist/annotations/train2018.json",
         {"images": TRAIN, "categories": 30, "labels": TRAIN}),
    ],
)  # fmt: skip
def test_counts(toy_root, task, path, counts):
    assert counts.items() <= check_path(toy_root, task, path).counts.items()


def test_published_counts_are_those_of_the_protocols():
    paths = {
        "coco_2017": "coco/annotations/instances_{}2017.json",
        "keypoints_coco_2017": "coco/annotations/person_keypoints_{}2017.json",
        "coco_captions": "coco/annotations/captions_{}.json",
        "lvis_v1": "lvis/lvis_v1_{}.json",
        "voc_2007": "VOC2007/ImageSets/Main/{}.txt",
        "voc_2012": "VOC2012/ImageSets/Main/{}.txt",
        "voc_2012_sem_seg": "VOC2012/ImageSets/Segmentation/{}.txt",
        "cityscapes_fine_sem_seg": "cityscapes/leftImg8bit/{}",
        "ade20k_sem_seg_train": "ADEChallengeData2016/images/training",
        "ade20k_sem_seg_val": "ADEChallengeData2016/images/validation",
        "imagenet": "imagenet/{}",
        "inaturalist_2018": "inaturalist/annotations/{}2018.json",
    }
    needs = {need.path: need for task in TASKS.values() for need in task.layout.needs}
    sizes = {
        name: size
        for task in TASKS.values()
        for protocol in task.protocols.values()
        for name, size in protocol.images.items()
    }
    checked = 0
    for name, size in sizes.items():
        data_set, _, split = name.rpartition("_")
        path = paths.get(name) or paths.get(data_set, "").format(split)
        if path in needs and "images" in needs[path].counts:
            assert needs[path].counts["images"] == size
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize(
    ("count", "text", "is_subset"),
    [
        (5000, "5000 images", False),
        (5001, "5001 images (published: 5000)", False),
        (4999, "4999 images (published: 5000)", True),
    ],
)
def test_published_counts_are_shown_if_they_differ(count, text, is_subset):
    found = PathReport("val2017", counts={"images": count}, published={"images": 5000})
    assert (found.as_text(), found.is_subset) == (text, is_subset)


def test_suffixes_are_those_of_torchvision():
    assert IMAGE_SUFFIXES == IMG_EXTENSIONS


# Malformed data ----


def test_missing_images(copy):
    root = copy("coco")
    files = sorted((root / "coco/val2017").iterdir())[:7]
    for file in files:
        file.unlink()
    found = check_path(root, "coco", "coco/annotations/instances_val2017.json")
    assert found.state == "malformed"
    assert found.missing_files == [f"coco/val2017/{file.name}" for file in files]
    assert "7 missing files" in found.problem() and files[4].name in found.problem()
    assert files[5].name not in found.problem()


def test_lvis_images_may_be_in_train2017(copy):
    root = copy("coco", "lvis")
    path = root / "lvis/lvis_v1_val.json"
    content = json.loads(path.read_text())
    name = min((root / "coco/train2017").iterdir()).name
    content["images"][0]["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
    path.write_text(json.dumps(content))
    assert check_task(root, "lvis").is_complete


def test_missing_voc_files(copy):
    root = copy("VOC2007", "VOC2012")
    (root / "VOC2012/ImageSets/Main/test.txt").write_text("2008_000001\n")  # has no annotations
    assert check_task(root, "voc").is_complete
    stem = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    (root / f"VOC2007/Annotations/{stem}.xml").unlink()
    assert check_task(root, "voc07_svm").is_complete
    found = check_path(root, "voc", "VOC2007/Annotations")
    assert found.missing_files == [f"VOC2007/Annotations/{stem}.xml"]
    (root / "VOC2007/ImageSets/Main/cow_test.txt").unlink()
    assert "cow_test.txt" in check_task(root, "voc07_svm").summary()


def test_class_folders(copy):
    root = copy("imagenet")
    first, second, *_ = sorted((root / "imagenet/val").iterdir())
    for file in first.iterdir():
        file.rename(file.with_suffix(".txt"))
    shutil.rmtree(second)
    found = check_path(root, "imagenet_linear", "imagenet/val")
    assert "1 class folders without images" in found.problem() and first.name in found.problem()
    assert "only in one" in found.problem() and second.name in found.problem()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda text: text[: len(text) // 2], "at line 1"),
        (lambda text: "[]", "missing lists: images, annotations, categories"),
        (lambda text: text.replace('"annotations":', '"notes":'), "missing lists: annotations"),
        (lambda text: text.replace('"file_name":', '"name":', 1), "1 images without a file name"),
        (lambda text: '{"images": [], "annotations": [], "categories": []}', "names no image"),
    ],
)
def test_malformed_json(copy, spoil, problem):
    root = copy("inaturalist")
    file = root / "inaturalist/annotations/val2018.json"
    file.write_text(spoil(file.read_text()))
    found = check_path(root, "inaturalist", "inaturalist/annotations/val2018.json")
    assert found.state == "malformed" and problem in found.problem()


def test_malformed_list(copy):
    root = copy("VOC2007")
    (root / "VOC2007/ImageSets/Main/test.txt").write_bytes(b"\xff\xfe")
    assert not check_task(root, "voc07_svm").is_complete


def test_link_loop(copy):
    root = copy("imagenet")
    (root / "imagenet/train/loop").symlink_to(root / "imagenet/train")
    found = check_path(root, "imagenet_linear", "imagenet/train")
    assert found.state == "malformed" and "imagenet/train/loop" in found.problem()


@contextmanager
def unreadable(folder: Path):
    """Make a folder unreadable, for root too, who becomes nobody meanwhile."""
    is_root = os.geteuid() == 0
    folder.chmod(0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("folder", "incomplete"),
    [("coco/val2017", 2), ("imagenet/train", 1), ("imagenet/train/n90000001", 1), ("other", 0)],
)
def test_unreadable_folder(copy, monkeypatch, folder, incomplete):
    root = copy("coco", "imagenet")
    root.chmod(0o755)
    monkeypatch.chdir(root)  # relative paths: nobody may not enter pytest's folders
    (root / folder).mkdir(parents=True, exist_ok=True)
    with unreadable(root / folder):
        report = check_data("", ["coco", "pretraining", "imagenet_linear"])
    assert len(report.incomplete) == incomplete
    assert all(folder in task.summary() for task in report.incomplete)


def test_unreadable_data_root(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with unreadable(tmp_path), raises_code("data.unreadable"):
        check_data("")


# Deep checks ----


def test_deep_check_decodes_every_image_that_is_read(copy):
    root = copy("coco")
    broken = sorted((root / "coco/val2017").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    (root / "coco/val2017/unlisted.jpg").write_bytes(b"")
    path = "coco/annotations/captions_val2017.json"
    assert check_path(root, "coco_captioning", path).state == "ok"
    found = check_path(root, "coco_captioning", path, deep=True)
    assert list(found.undecodable) == [f"coco/val2017/{broken.name}"]
    assert found.state == "malformed"


def test_deep_check_reads_the_annotations(copy):
    root = copy("coco")
    path = root / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 12345
    path.write_text(json.dumps(content))
    assert check_task(root, "coco").is_complete
    error = check_task(root, "coco", deep=True).error
    assert str(path) in error and "12345" in error


@pytest.mark.parametrize("task", TOY_LAYOUTS)
def test_deep_check_passes_on_toy_data(toy_root, task):
    assert TASKS[task].read_data is not None
    TASKS[task].read_data(toy_root)


# The tool ----


def test_tool(copy):
    root = copy("VOC2007")
    done = run("--data-root", root, "--task", "voc07_svm")
    assert done.returncode == 0, done.stderr
    assert "voc07_svm: complete" in done.stdout
    done = run("--data-root", root, "--task", "voc07_svm", "coco", "--json")
    assert_invalid_input(done, "data.incomplete", "coco: incomplete", "coco/val2017")
    report = json.loads(done.stdout)
    assert report["tasks"]["voc07_svm"]["is_complete"] and not report["is_complete"]
    path = report["paths"]["VOC2007/JPEGImages"]
    assert (path["state"], path["published"]) == ("ok", {"images": 9963})
    assert report["paths"]["coco/val2017"]["state"] == "missing"
