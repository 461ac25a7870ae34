"""Label maps of semantic segmentation on disk."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.errors import raises_code
from tests.toy_data import copy_toy_data
from virtex.check_data import check_data
from virtex.data.detection_sets import DETECTION_SETS
from virtex.data.segmentation import IGNORED, find_pairs, read_labels, require_pairs
from virtex.data.toy.world import BACKGROUNDS
from virtex.tasks import TASKS

TASKS_WITH_MAPS = ("ade20k", "voc_seg")
ADE = "ADEChallengeData2016"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return copy_toy_data(tmp_path_factory.mktemp("toy") / "data", 24, 8)


@pytest.fixture
def copied(toy, tmp_path):
    for name in (ADE, "VOC2012"):
        shutil.copytree(toy / name, tmp_path / name)
    return tmp_path


def write(path, values, mode="L"):
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)
    return str(path)


def test_labels_are_indices_not_colors(tmp_path):
    values = np.array([[0, 1, 20], [255, 3, 4]])
    path = tmp_path / "palette.png"
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(np.arange(768)[::-1].astype(np.uint8).tobytes())
    image.save(path)
    np.testing.assert_array_equal(read_labels(str(path), "voc_seg"), values)
    gray = write(tmp_path / "gray.png", values)
    np.testing.assert_array_equal(read_labels(gray, "voc_seg"), values)


def test_ade20k_labels_begin_at_one(tmp_path):
    path = write(tmp_path / "map.png", [[0, 1, 150]])
    np.testing.assert_array_equal(read_labels(path, "ade20k"), [[IGNORED, 0, 149]])


@pytest.mark.parametrize(
    ("kind", "value"),
    [("ade20k", 151), ("ade20k", 255), ("voc_seg", 21), ("cityscapes_seg", 19)],
)
def test_other_values_are_invalid(tmp_path, kind, value):
    path = write(tmp_path / "map.png", [[1, value]])
    with raises_code("data.annotation", path, value):
        read_labels(path, kind)


@pytest.mark.parametrize("mode", ["RGB", "1", "I;16"])
def test_other_pixels_are_invalid(tmp_path, mode):
    path = tmp_path / "map.png"
    Image.new(mode, (3, 2)).save(path)
    with raises_code("data.image", path):
        read_labels(str(path), "voc_seg")


def test_toy_label_maps(toy):
    """Every pixel of ADE20K has a class; only the borders of VOC's objects are ignored."""
    for name in ("ade20k_sem_seg_train", "voc_2012_sem_seg_val"):
        entry = DETECTION_SETS[name]
        for image, labels in require_pairs(entry, toy):
            found = read_labels(labels, entry.kind)
            assert found.shape[::-1] == Image.open(image).size
            present = set(np.unique(found))
            if entry.kind == "ade20k":
                assert IGNORED not in present
                assert len(present & set(range(len(BACKGROUNDS)))) == 1
            else:
                assert {0, IGNORED} < present
                assert (found == IGNORED).mean() < 0.2


def lose_image(root):
    path = sorted((root / ADE / "images/validation").iterdir())[0]
    path.unlink()
    return "ade20k", path


def lose_labels(root):
    path = sorted((root / ADE / "annotations/training").iterdir())[-1]
    path.unlink()
    return "ade20k", path


def lose_listed(root):
    stem = (root / "VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[0]
    path = root / f"VOC2012/SegmentationClass/{stem}.png"
    path.unlink()
    return "voc_seg", path


@pytest.mark.parametrize("lose", [lose_image, lose_labels, lose_listed])
def test_missing_file_of_a_pair(copied, lose):
    task, path = lose(copied)
    with raises_code("data.missing", path):
        TASKS[task].read_data(copied)
    report = check_data(copied, [task])
    assert not report.tasks[0].is_complete
    assert str(path.relative_to(copied)) in report.tasks[0].summary()


def test_check_data(copied):
    report = check_data(copied, TASKS_WITH_MAPS, deep=True)
    assert all(task.is_complete and task.is_subset for task in report.tasks)
    path = next((copied / ADE / "annotations/training").iterdir())
    write(path, [[200]])
    report = check_data(copied, TASKS_WITH_MAPS, deep=True)
    assert [task.is_complete for task in report.tasks] == [False, True]
    assert str(path) in report.tasks[0].error


def test_empty_folder(tmp_path):
    entry = DETECTION_SETS["ade20k_sem_seg_val"]
    for folder in (entry.images, entry.annotations):
        os.makedirs(tmp_path / folder)
    with raises_code("data.empty", entry.annotations):
        require_pairs(entry, tmp_path)


def test_cityscapes_pairs(tmp_path):
    entry = DETECTION_SETS["cityscapes_fine_sem_seg_val"]
    names = ("leftImg8bit", "gtFine_labelTrainIds", "gtFine_labelIds", "gtFine_color")
    for name in names:
        folder = tmp_path / "cityscapes" / name.partition("_")[0] / "val/frankfurt"
        folder.mkdir(parents=True, exist_ok=True)
        for frame in (0, 1):
            write(folder / f"frankfurt_{frame:06d}_000019_{name}.png", [[frame]])
    pairs = find_pairs(entry, tmp_path)
    assert [[os.path.basename(path) for path in pair] for pair in pairs] == [
        [f"frankfurt_{frame:06d}_000019_{name}.png" for name in names[:2]] for frame in (0, 1)
    ]
    os.unlink(pairs[1][1])
    with raises_code("data.missing", pairs[1][1], "csCreateTrainIdLabelImgs"):
        require_pairs(entry, tmp_path)


def test_training_list_with_sbd(copied):
    entry = DETECTION_SETS["voc_2012_sem_seg_train_aug"]
    with raises_code("data.missing", "trainaug.txt"):
        require_pairs(entry, copied)
    lists = copied / "VOC2012/ImageSets/Segmentation"
    shutil.copy(lists / "trainval.txt", lists / "trainaug.txt")
    shutil.copytree(copied / "VOC2012/SegmentationClass", copied / "VOC2012/SegmentationClassAug")
    pairs = require_pairs(entry, copied)
    assert len(pairs) == 12
    assert all("SegmentationClassAug" in labels for _, labels in pairs)
