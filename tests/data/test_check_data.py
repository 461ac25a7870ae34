"""What is told of the data that are there, and of those that are missing."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS

from virtex.data.check import TASKS, check_data
from virtex.data.check.disk import FOLDERS, IMAGE_SUFFIXES
from virtex.data.check.quick import HELD
from virtex.data.check.report import PathReport, TaskReport
from virtex.data.layouts import LAYOUTS
from virtex.errors import UserError

TRAIN, VAL = 100, 24  # of toy_root


def task(root: Path, name: str, **options) -> TaskReport:
    (found,) = check_data(root, [name], **options).tasks
    return found


def path(root: Path, name: str, wanted: str) -> PathReport:
    return next(found for found in task(root, name).paths if found.path == f"{root}/{wanted}")


def change_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# ---- tasks


def test_every_task_that_a_tool_evaluates_on_is_known():
    from virtex.evaluate_all.tasks import ROWS
    from virtex.leaderboard.columns import TASKS as COLUMNS

    assert {row.name: row.layout for row in ROWS}.items() <= TASKS.items()
    assert set(COLUMNS) <= set(TASKS)


def test_every_layout_is_of_a_task():
    assert set(TASKS.values()) == set(LAYOUTS)


def test_all_tasks_are_checked_where_none_is_named(toy_root):
    found = check_data(toy_root)
    assert [name for report in found.tasks for name in report.tasks] == list(TASKS)
    assert not found.incomplete


def test_tasks_that_need_the_same_are_told_together(toy_root):
    (found,) = check_data(toy_root, ["imagenet_knn", "imagenet_linear"]).tasks
    assert found.tasks == ["imagenet_knn", "imagenet_linear"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_layout_is_called_is_a_task_too(toy_root, name):
    assert task(toy_root, name).tasks == [name]


def test_an_unknown_task_is_answered_with_the_known_ones(toy_root):
    with pytest.raises(UserError, match=r"'cooc'; the tasks are coco, lvis, .*coco_captioning"):
        check_data(toy_root, ["coco", "cooc"])


# ---- what is missing


@pytest.mark.parametrize("name", TASKS)
def test_every_missing_path_is_told_joined_with_the_data_root(tmp_path, name):
    found = task(tmp_path / "no" / "root", name)
    needed = [f"{tmp_path}/no/root/{need.path}" for need in LAYOUTS[TASKS[name]].needs]
    assert [report.path for report in found.paths if report.state == "missing"] == needed
    for missing in needed:
        assert missing in found.summary()
        assert missing in found.as_text()


def test_where_to_get_the_data_is_told(tmp_path):
    assert "to get it: LVIS v1 annotations: https://" in task(tmp_path, "lvis").as_text()


def test_nothing_is_to_be_got_where_all_is_there(toy_root):
    assert "to get it" not in task(toy_root, "lvis").as_text()


def test_one_lost_path_leaves_other_tasks_complete(copy):
    root = copy("coco")
    (root / "coco/annotations/captions_val2017.json").unlink()
    found = check_data(root, ["coco", "coco_captioning", "pretraining"])
    assert [report.complete for report in found.tasks] == [True, False, False]


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """The folder may not be read; by root neither, who is nobody for as long."""
    root = os.geteuid() == 0
    folder.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def here(copy, monkeypatch):
    """``copy``, for a path that is none of root's: all of it may be read, and is relative."""

    def copy_here(*names: str) -> Path:
        root = copy(*names)
        root.chmod(0o755)
        monkeypatch.chdir(root)
        return Path()

    return copy_here


def test_a_data_root_that_may_not_be_read_is_said(here):
    root = here("imagenet")
    with closed(root), pytest.raises(UserError, match="cannot be listed"):
        check_data(root)


@pytest.mark.parametrize(
    ("folder", "incomplete", "said"),
    [
        ("coco", 2, "missing coco/val2017 it cannot be reached: Permission denied"),
        ("coco/val2017", 2,
         "missing coco/val2017 a folder that cannot be listed: Permission denied"),
        ("imagenet/train", 1,
         "missing imagenet/train a folder that cannot be listed: Permission denied"),
        ("imagenet/train/n90000001", 1,
         "95 images (published: 1281167), 20 classes (published: 1000), the folder "
         "imagenet/train/n90000001 cannot be listed (Permission denied); let yourself read it"),
        ("vocab", 0, "there is no vocabulary yet"),
        ("other", 0, "complete"),
    ],
)  # fmt: skip
def test_a_folder_that_may_not_be_read_is_said_and_the_rest_checked(here, folder, incomplete, said):
    root = here("coco", "imagenet")
    (root / folder).mkdir(parents=True, exist_ok=True)
    with closed(root / folder):
        found = check_data(root, ["coco", "pretraining", "imagenet_linear"])
    assert len(found.incomplete) == incomplete
    assert said in " ".join(found.as_text().split())


def test_a_link_into_a_folder_that_may_not_be_read_is_passed_over(here):
    root = here("coco", "imagenet")
    (root / "closed/n01").mkdir(parents=True)
    for folder in ("", "coco", "coco/val2017", "imagenet/val", "imagenet/train/n90000001"):
        (root / folder / "linked").symlink_to(root.absolute() / "closed/n01")
    with closed(root / "closed"):
        assert not check_data(root, ["coco", "imagenet"]).incomplete


def test_a_link_to_itself_is_passed_over(copy):
    root = copy("coco", "imagenet")
    for folder in ("", "coco", "coco/val2017", "imagenet/val", "imagenet/train/n90000001"):
        (root / folder / "again").symlink_to(root / folder / "again")
    assert not check_data(root, ["coco", "imagenet"]).incomplete
    (root / "coco/annotations").rename(root / "annotations")
    assert len(task(root, "coco").remedies) == 1


def test_a_link_into_itself_is_followed_once(copy):
    root = copy("imagenet")
    for name in ("again", "and again"):
        (root / "imagenet/train" / name).symlink_to(root / "imagenet/train")
    found = path(root, "imagenet", "imagenet/train")
    assert found.counts == {"images": TRAIN, "classes": 20}
    assert found.problem == (
        "imagenet/train/again is a link into itself, imagenet/train/and again is a link into itself"
    )


def test_a_data_root_of_many_folders_is_searched_only_in_part(copy):
    root = copy("VOC2007", "VOC2012")
    for number in range(1, FOLDERS + 100):
        (root / f"{number % 60}/{number}").mkdir(parents=True)
    (root / "VOC2007").rename(root / "59/VOC2007")
    found = check_data(root, ["voc"])
    assert FOLDERS <= int(found.read.split()[3]) <= FOLDERS + 10
    assert f"looked for in {FOLDERS} of them, not in all" in found.read
    assert f"ln -sn {root}/59/VOC2007 {root}/VOC2007" in found.as_text()


# ---- counts


@pytest.mark.parametrize(
    ("name", "wanted", "counts"),
    [
        ("coco", "coco/train2017", {"images": TRAIN}),
        ("coco", "coco/annotations/instances_val2017.json", {"images": VAL, "categories": 10}),
        ("pretraining", "coco/annotations/captions_val2017.json",
         {"images": VAL, "captions": 5 * VAL}),
        ("lvis", "lvis/lvis_v1_val.json", {"images": VAL, "categories": 80}),
        ("voc", "VOC2007/Annotations", {"files": 50 + VAL}),
        ("voc", "VOC2007/ImageSets/Main/test.txt", {"images": VAL}),
        ("voc", "VOC2012/JPEGImages", {"images": 50}),
        ("voc07_svm", "VOC2007/ImageSets/Main/aeroplane_test.txt", {"classes": 20}),
        ("imagenet_linear", "imagenet/train", {"images": TRAIN, "classes": 20}),
        ("inaturalist", "inaturalist/train_val2018", {"images": TRAIN + VAL}),
        ("inaturalist", "inaturalist/annotations/train2018.json",
         {"images": TRAIN, "categories": 30, "labels": TRAIN}),
    ],
)  # fmt: skip
def test_what_is_there_is_counted(toy_root, name, wanted, counts):
    assert counts.items() <= path(toy_root, name, wanted).counts.items()


def test_objects_are_counted(toy_root):
    file = toy_root / "coco/annotations/instances_val2017.json"
    objects = len(json.loads(file.read_text())["annotations"])
    counts = path(toy_root, "coco", "coco/annotations/instances_val2017.json").counts
    assert counts["objects"] == objects


def test_toy_data_are_complete_and_said_to_be_toy_or_subset(toy_root):
    found = task(toy_root, "coco")
    assert found.complete
    assert "complete, a toy or a subset of the published data" in found.summary()
    assert f"{TRAIN} images (published: 118287)" in found.as_text()


def test_the_published_number_is_not_told_where_it_is_the_same():
    found = PathReport("val2017", counts={"images": 5000}, published={"images": 5000})
    assert found.said() == "5000 images"
    assert not found.smaller


def test_more_than_published_is_no_subset():
    found = PathReport("val2017", counts={"images": 5001}, published={"images": 5000})
    assert found.said() == "5001 images (published: 5000)"
    assert not found.smaller


def test_published_sizes_are_those_of_the_protocols():
    from virtex.detectron.protocols import PROTOCOLS as DETECTION
    from virtex.probes.protocols import PROTOCOLS as PROBES

    named = {
        "coco_2017": "coco/annotations/instances_{}2017.json",
        "coco_captions": "coco/annotations/captions_{}.json",
        "lvis_v1": "lvis/lvis_v1_{}.json",
        "voc_2007": "VOC2007/ImageSets/Main/{}.txt",
        "voc_2012": "VOC2012/ImageSets/Main/{}.txt",
        "imagenet": "imagenet/{}",
        "inaturalist_2018": "inaturalist/annotations/{}2018.json",
    }
    protocols = [
        p for table in (DETECTION, PROBES) for task in table.values() for p in task.values()
    ]
    sizes = {name: size for protocol in protocols for name, size in protocol.images.items()}
    assert len(sizes) == 12
    for name, size in sizes.items():
        data_set, _, split = name.rpartition("_")
        assert HELD[named[data_set].format(split)].published["images"] == size


def test_every_needed_path_is_looked_into():
    assert set(HELD) == {need.path for layout in LAYOUTS.values() for need in layout.needs}


def test_images_are_told_by_the_suffixes_that_torchvision_reads():
    assert IMAGE_SUFFIXES == IMG_EXTENSIONS


def test_what_was_read_is_told(toy_root):
    read = check_data(toy_root, ["coco"]).read
    assert "2 annotation files" in read
    assert "no image opened" in read


# ---- what is broken


def test_images_that_are_named_and_not_there_are_counted_and_the_first_told(copy):
    root = copy("coco")
    files = sorted((root / "coco/val2017").iterdir())
    for file in files[:7]:
        file.unlink()
    found = path(root, "coco", "coco/annotations/instances_val2017.json")
    assert found.state == "broken"
    assert len(found.lacking) == 7
    first = ", ".join(f"coco/val2017/{file.name}" for file in files[:5])
    assert found.whats_wrong() == (
        f"7 that it names are not on disk ({first} and 2 more, which --json lists)"
    )


def test_lvis_images_may_be_in_both_folders_of_coco(copy):
    root = copy("coco", "lvis")

    def take_one_of_train(content):
        name = next((root / "coco/train2017").iterdir()).name
        content["images"][0]["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"

    change_json(root / "lvis/lvis_v1_val.json", take_one_of_train)
    assert task(root, "lvis").complete


def test_an_image_without_its_objects_is_broken_for_detection_alone(copy):
    root = copy("VOC2007", "VOC2012")
    stem = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    (root / f"VOC2007/Annotations/{stem}.xml").unlink()
    assert task(root, "voc07_svm").complete
    assert path(root, "voc", "VOC2007/Annotations").lacking == [f"VOC2007/Annotations/{stem}.xml"]


def test_images_of_voc2012s_test_have_no_objects(copy):
    root = copy("VOC2007", "VOC2012")
    (root / "VOC2012/ImageSets/Main/test.txt").write_text("2008_000001\n")
    assert task(root, "voc").complete


def test_a_class_of_voc07_without_labels_is_named(copy):
    root = copy("VOC2007")
    (root / "VOC2007/ImageSets/Main/cow_test.txt").unlink()
    assert "VOC2007/ImageSets/Main/cow_test.txt" in task(root, "voc07_svm").summary()


def test_a_class_folder_without_images_is_broken(copy):
    root = copy("imagenet")
    folder = sorted((root / "imagenet/train").iterdir())[0]
    for file in folder.iterdir():
        file.rename(file.with_suffix(".txt"))
    found = path(root, "imagenet", "imagenet/train")
    assert found.problem == f"1 class folders without images ({folder.name})"


def test_a_class_that_val_lacks_is_broken(copy):
    root = copy("imagenet")
    (name, *_) = sorted(folder.name for folder in (root / "imagenet/val").iterdir())
    shutil.rmtree(root / "imagenet/val" / name)
    found = path(root, "imagenet", "imagenet/val")
    assert found.problem == f"1 class folders are in one of train and val alone ({name})"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "is not valid JSON at line 1"),
        (lambda text: "[]", "it has no list of images or of annotations or of categories"),
        (lambda text: text.replace('"annotations":', '"notes":'), "it has no list of annotations"),
        (lambda text: text.replace('"images":', '"pictures":'), "it has no list of images"),
        (lambda text: text.replace('"file_name":', '"name":', 1), "1 of its images have no file"),
        (lambda text: '{"images": [], "annotations": [], "categories": []}', "it names no image"),
    ],
)
def test_annotations_that_are_not_whole_are_broken(copy, spoil, said):
    root = copy("inaturalist")
    file = root / "inaturalist/annotations/val2018.json"
    file.write_text(spoil(file.read_text()))
    found = path(root, "inaturalist", "inaturalist/annotations/val2018.json")
    assert found.state == "broken"
    assert said in found.problem


def test_a_list_that_is_no_text_is_broken(copy):
    root = copy("VOC2007")
    (root / "VOC2007/ImageSets/Main/test.txt").write_bytes(b"\xff\xfe")
    assert "restore it from VOCdevkit" in task(root, "voc07_svm").summary()


# ---- what is told besides


def test_a_missing_vocabulary_is_a_note_and_how_to_train_one(copy):
    root = copy("coco")
    found = task(root, "pretraining")
    assert found.complete
    assert f"--output {root}/vocab/coco_10k.model" in found.notes[0]
    (root / "vocab").mkdir()
    (root / "vocab/toy.model").write_text("")
    assert task(root, "pretraining").notes == []


def test_the_json_holds_all_of_it(copy):
    root = copy("coco")
    files = sorted((root / "coco/val2017").iterdir())[:7]
    for file in files:
        file.unlink()
    lost = [f"coco/val2017/{file.name}" for file in files]
    found = json.loads(json.dumps(check_data(root).as_json()))
    assert list(found["tasks"]) == list(TASKS)
    assert not found["complete"]
    captions = found["tasks"]["coco_captioning"]["paths"][1]
    assert captions["state"] == "broken"
    assert captions["counts"] == {"images": VAL, "captions": 5 * VAL}
    assert captions["published"] == {"images": 5000, "captions": 25014}
    assert captions["not_on_disk"] == lost
    assert found["tasks"]["lvis"]["source"].startswith("LVIS v1")
