"""What a deep check finds: images that cannot be decoded, annotations that make no sense."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from virtex.data.check import TASKS, check_data
from virtex.data.check.deep import READERS
from virtex.data.layouts import LAYOUTS


def summary(root: Path, task: str) -> str:
    (found,) = check_data(root, [task], deep=True).tasks
    return found.summary()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def test_every_layout_has_a_reader():
    assert set(READERS) == set(LAYOUTS)


def test_whole_data_are_complete(toy_root):
    found = check_data(toy_root, deep=True, processes=2)
    assert [report.summary() for report in found.incomplete] == []
    assert found.read.endswith("every image")


@pytest.mark.parametrize(
    ("task", "pattern", "where"),
    [
        ("coco", "coco/val2017/*.jpg", "coco/annotations/instances_val2017.json"),
        ("lvis", "coco/val2017/*.jpg", "lvis/lvis_v1_val.json"),
        ("voc07_svm", "VOC2007/JPEGImages/*.jpg", "VOC2007/ImageSets/Main/"),
        ("imagenet_knn", "imagenet/val/*/*.JPEG", "imagenet/val"),
        ("inaturalist", "inaturalist/train_val2018/*/*/*.jpg", "inaturalist/annotations/"),
    ],
)
def test_an_image_that_is_cut_short_is_named(copy, task, pattern, where):
    root = copy("coco", "lvis", "VOC2007", "imagenet", "inaturalist")
    file = next(iter(sorted(root.glob(pattern))))
    cut_short(file)
    assert check_data(root, [task]).incomplete == []
    (found,) = check_data(root, [task], deep=True).tasks
    (broken,) = [path for path in found.paths if path.undecodable]
    assert broken.path.startswith(f"{root}/{where}")
    assert str(file) in found.as_text()
    assert "1 images cannot be decoded" in found.summary()


def test_images_that_nothing_names_are_not_opened(copy):
    root = copy("coco")
    (root / "coco/val2017/thumbs.jpg").write_bytes(b"")
    assert check_data(root, ["coco"], deep=True).incomplete == []


def test_an_image_that_is_not_there_is_only_told_to_be_missing(copy):
    root = copy("coco")
    next((root / "coco/val2017").iterdir()).unlink()
    (found,) = check_data(root, ["coco"], deep=True).tasks
    assert [len(path.lacking) for path in found.paths] == [0, 0, 0, 1]
    assert not any(path.undecodable for path in found.paths)


def change_first(file: Path, key: str, field: str, value) -> None:
    content = json.loads(file.read_text())
    content[key][0][field] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("task", "file", "key", "field", "value", "said"),
    [
        ("coco", "coco/annotations/instances_train2017.json", "annotations", "bbox", [0, 0, -1, 5],
         "bbox must be 4 finite numbers"),
        ("lvis", "lvis/lvis_v1_val.json", "images", "neg_category_ids", [9999],
         "names category 9999"),
        ("coco_captioning", "coco/annotations/captions_val2017.json", "annotations", "caption", 7,
         "has the caption 7"),
        ("pretraining", "coco/annotations/captions_train2017.json", "annotations", "image_id", -1,
         "a caption of image -1"),
        ("multilabel_pretraining", "coco/annotations/instances_val2017.json", "annotations",
         "category_id", 9999, "category_id 9999 is not in categories"),
        ("inaturalist", "inaturalist/annotations/val2018.json", "annotations", "category_id", 9999,
         "category_id 9999 is not in categories"),
    ],
)  # fmt: skip
def test_annotations_that_make_no_sense_are_told_as_the_tools_do(
    copy, task, file, key, field, value, said
):
    root = copy("coco", "lvis", "inaturalist")
    change_first(root / file, key, field, value)
    assert check_data(root, [task]).incomplete == []
    assert f"{root}/{file}" in summary(root, task)
    assert said in summary(root, task)


def test_a_broken_file_of_objects_is_told(copy):
    root = copy("VOC2007", "VOC2012")
    file = sorted((root / "VOC2012/Annotations").iterdir())[0]
    file.write_text(file.read_text().replace("</annotation>", ""))
    assert f"{file} is not a VOC annotation" in summary(root, "voc")


def test_a_label_that_is_none_is_told(copy):
    root = copy("VOC2007")
    file = root / "VOC2007/ImageSets/Main/dog_test.txt"
    file.write_text(file.read_text().replace("-1", " 3", 1))
    assert f"{file}, line" in summary(root, "voc07_svm")


def test_a_detectron2_that_cannot_be_imported_is_told(toy_root, tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text(
        "import os\nraise eval(os.environ['FAILURE'])\n"
    )
    failures = {
        "ImportError('undefined symbol')": "cannot be imported (ImportError: undefined symbol)",
        "AttributeError('no LINEAR')": "cannot be imported (AttributeError: no LINEAR)",
        "OSError('libGL.so.1')": "cannot be imported (OSError: libGL.so.1); python -m",
        "ModuleNotFoundError('x', name='cv2')": "cannot be imported (ModuleNotFoundError: x)",
        "ModuleNotFoundError('x', name='detectron2')": "is not installed; install it: python -m",
    }
    code = (
        "import os, sys; from pathlib import Path\n"
        "from virtex.data.check.deep import whats_unreadable\n"
        "for os.environ['FAILURE'] in sys.argv[2:]:\n"
        "    print(whats_unreadable(Path(sys.argv[1]), 'voc'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, toy_root, *failures],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line, said in zip(done.stdout.splitlines(), failures.values(), strict=True):
        assert f"cannot be read without Detectron2, which {said}" in line


def test_a_link_into_itself_leaves_all_images_decoded_once(copy):
    root = copy("imagenet")
    (root / "imagenet/train/again").symlink_to(root / "imagenet/train")
    cut_short(next((root / "imagenet/train").glob("n9*/*.JPEG")))
    (found,) = check_data(root, ["imagenet_linear"], deep=True).tasks
    assert len(found.paths[0].undecodable) == 1
    assert "imagenet/train/again is a link into itself" in found.paths[0].problem


def test_what_is_missing_is_told_and_the_rest_decoded(copy):
    root = copy("imagenet")
    shutil.rmtree(root / "imagenet/val")
    cut_short(next((root / "imagenet/train").glob("*/*.JPEG")))
    (found,) = check_data(root, ["imagenet_linear"], deep=True).tasks
    assert [path.state for path in found.paths] == ["broken", "missing"]


def test_nothing_at_all_is_told_as_in_a_quick_check(tmp_path):
    assert len(check_data(tmp_path, deep=True).incomplete) == len(set(TASKS.values()))
