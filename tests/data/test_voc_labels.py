"""VOC2007's image labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.errors import raises_code
from virtex.data.voc import VOC_CLASSES, read_voc07


@pytest.fixture
def spoiled(toy_root, tmp_path) -> Path:
    """Return a copy of VOC2007 that a test may change."""
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
def test_labels(toy_root, split, images):
    data = read_voc07(toy_root, split)
    assert data.labels.shape == (images, 20) and data.labels.dtype == np.int8
    for column, name in enumerate(VOC_CLASSES):
        written = [int(row.split()[1]) for row in rows(list_of(toy_root, f"{name}_{split}"))]
        assert data.labels[:, column].tolist() == written


def test_order_is_that_of_the_list(spoiled):
    listed = list_of(spoiled, "test")
    before = read_voc07(spoiled, "test")
    write(listed, rows(listed)[::-1])
    after = read_voc07(spoiled, "test")
    assert after.files == before.files[::-1]
    assert np.array_equal(after.labels, before.labels[::-1])


def test_files(toy_root):
    data = read_voc07(toy_root, "test")
    assert data.name == "voc_2007_test"
    assert data.files[0] == "JPEGImages/000051.jpg"
    assert all(data.path(index).is_file() for index in range(len(data)))


def test_missing_label_files(spoiled):
    for name in ("cat", "dog"):
        list_of(spoiled, f"{name}_test").unlink()
    with raises_code("data.missing", "2 are missing", "cat_test.txt, dog_test.txt"):
        read_voc07(spoiled, "test")
    read_voc07(spoiled, "trainval")


def test_missing_list(spoiled):
    list_of(spoiled, "test").unlink()
    with raises_code("data.missing", "Main/test.txt"):
        read_voc07(spoiled, "test")


@pytest.mark.parametrize("line", ["000053 2", "000053", "000053 yes", "000053 1 1", "000053 +1"])
def test_invalid_label_line(spoiled, line):
    path = list_of(spoiled, "cat_test")
    write(path, [*rows(path)[:2], line, *rows(path)[3:]])
    with raises_code("data.annotations", "cat_test.txt, line 3", "000053"):
        read_voc07(spoiled, "test")


def test_invalid_list_line(spoiled):
    path = list_of(spoiled, "test")
    write(path, ["000051", "000052 1", *rows(path)[2:]])
    with raises_code("data.annotations", "test.txt, line 2", "000052"):
        read_voc07(spoiled, "test")


@pytest.mark.parametrize("name", ["test", "cat_test"])
def test_duplicate_image(spoiled, name):
    path = list_of(spoiled, name)
    write(path, [*rows(path), rows(path)[0]])
    with raises_code("data.annotations", f"/{name}.txt, line 25", "000051"):
        read_voc07(spoiled, "test")


def test_labels_of_other_images(spoiled):
    path = list_of(spoiled, "sofa_test")
    write(path, ["999999 1", *rows(path)[2:]])
    with raises_code("data.annotations", "sofa_test.txt", "000051, 000052", "999999"):
        read_voc07(spoiled, "test")


def test_missing_images(spoiled):
    for number in range(51, 58):
        (spoiled / f"VOC2007/JPEGImages/{number:06d}.jpg").unlink()
    with raises_code("data.missing_images", "7 images", "test.txt", "000051.jpg"):
        read_voc07(spoiled, "test")


def test_empty_list(spoiled):
    for name in ("test", *(f"{name}_test" for name in VOC_CLASSES)):
        list_of(spoiled, name).write_text("\n")
    with raises_code("data.empty", "test.txt"):
        read_voc07(spoiled, "test")


def test_binary_file(spoiled):
    list_of(spoiled, "cat_test").write_bytes(b"\xff\xfe\x00")
    with raises_code("data.annotations", "cat_test.txt"):
        read_voc07(spoiled, "test")
