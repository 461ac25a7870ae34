"""VOC2007's classification labels: read in the list's order, and what does not agree is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from virtex.data.voc import VOC_CLASSES, read_voc07
from virtex.errors import UserError


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """A copy of VOC2007 to be spoiled."""
    for folder in ("ImageSets", "JPEGImages"):
        shutil.copytree(toy_root / "VOC2007" / folder, tmp_path / "VOC2007" / folder)
    return tmp_path


def list_of(root: Path, name: str) -> Path:
    return root / "VOC2007/ImageSets/Main" / f"{name}.txt"


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(("split", "images"), [("trainval", 50), ("test", 24)])
def test_labels_are_those_of_the_class_files(toy_root, split, images):
    data = read_voc07(toy_root, split)
    assert data.labels.shape == (images, 20) and data.labels.dtype == np.int8
    for column, name in enumerate(VOC_CLASSES):
        written = [int(row.split()[1]) for row in rows(list_of(toy_root, f"{name}_{split}"))]
        assert data.labels[:, column].tolist() == written


def test_all_three_labels_occur(toy_root):
    assert set(np.unique(read_voc07(toy_root, "trainval").labels)) == {-1, 0, 1}


def test_images_come_in_the_order_of_the_split(spoiled):
    listed = list_of(spoiled, "test")
    before = read_voc07(spoiled, "test")
    write(listed, rows(listed)[::-1])
    after = read_voc07(spoiled, "test")
    assert after.files == before.files[::-1]
    assert np.array_equal(after.labels, before.labels[::-1])


def test_files_are_the_jpegs_of_voc2007(toy_root):
    data = read_voc07(toy_root, "test")
    assert data.name == "voc_2007_test"
    assert data.files[0] == "JPEGImages/000051.jpg"
    assert all(data.path(index).is_file() for index in range(len(data)))


def test_missing_class_files_are_counted_and_named(spoiled):
    for name in ("cat", "dog"):
        list_of(spoiled, f"{name}_test").unlink()
    with pytest.raises(UserError, match=r"lacks 2 of the 20 files .*: cat_test\.txt, dog_test"):
        read_voc07(spoiled, "test")
    read_voc07(spoiled, "trainval")


def test_a_missing_list_of_images_is_named(spoiled):
    list_of(spoiled, "test").unlink()
    with pytest.raises(UserError, match=r"test\.txt cannot be read \(No such file"):
        read_voc07(spoiled, "test")


@pytest.mark.parametrize("line", ["000053 2", "000053", "000053 yes", "000053 1 1", "000053 +1"])
def test_a_line_that_is_no_label_is_named(spoiled, line):
    path = list_of(spoiled, "cat_test")
    write(path, [*rows(path)[:2], line, *rows(path)[3:]])
    with pytest.raises(UserError, match=r"cat_test\.txt, line 3: '000053.*-1, 0 or 1"):
        read_voc07(spoiled, "test")


def test_a_line_of_the_list_that_is_no_image_is_named(spoiled):
    path = list_of(spoiled, "test")
    write(path, ["000051", "000052 1", *rows(path)[2:]])
    with pytest.raises(UserError, match=r"test\.txt, line 2: '000052 1'"):
        read_voc07(spoiled, "test")


@pytest.mark.parametrize("name", ["test", "cat_test"])
def test_an_image_listed_twice_is_named(spoiled, name):
    path = list_of(spoiled, name)
    write(path, [*rows(path), rows(path)[0]])
    with pytest.raises(UserError, match=rf"/{name}\.txt, line 25: .*000051 is listed twice"):
        read_voc07(spoiled, "test")


def test_a_class_file_of_other_images_than_the_list_is_named(spoiled):
    path = list_of(spoiled, "sofa_test")
    write(path, ["999999 1", *rows(path)[2:]])
    with pytest.raises(UserError) as raised:
        read_voc07(spoiled, "test")
    assert "sofa_test.txt does not have the images of test.txt" in str(raised.value)
    assert "lacks 2 images (000051, 000052) and has 1 others (999999)" in str(raised.value)


def test_missing_images_are_counted_and_the_first_are_named(spoiled):
    for number in range(51, 58):
        (spoiled / f"VOC2007/JPEGImages/{number:06d}.jpg").unlink()
    with pytest.raises(UserError, match=r"7 images of .*test\.txt are missing: .*51\.jpg, .*, …"):
        read_voc07(spoiled, "test")


def test_a_list_without_an_image_is_refused(spoiled):
    for name in ("test", *(f"{name}_test" for name in VOC_CLASSES)):
        list_of(spoiled, name).write_text("\n")
    with pytest.raises(UserError, match=r"test\.txt lists no image"):
        read_voc07(spoiled, "test")


def test_a_file_that_is_no_text_is_named(spoiled):
    list_of(spoiled, "cat_test").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cat_test\.txt is not text"):
        read_voc07(spoiled, "test")
