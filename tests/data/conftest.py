"""One small set of toy data, written once for all tests that read it."""

import shutil
from pathlib import Path

import pytest

from tests.toy_data import copy_toy_data

TRAIN, VAL = 100, 24


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_toy_data(tmp_path_factory.mktemp("toy") / "data", TRAIN, VAL)


@pytest.fixture(scope="session")
def coco(toy_root) -> Path:
    return toy_root / "coco"


@pytest.fixture
def copied(coco, tmp_path) -> Path:
    """Annotations to be spoiled, beside the images."""
    root = tmp_path / "coco"
    shutil.copytree(coco / "annotations", root / "annotations")
    for split in ("train2017", "val2017"):
        shutil.copytree(coco / split, root / split)
    return root


@pytest.fixture
def copy(toy_root, tmp_path):
    """A function that copies parts of the toy data, to be spoiled."""

    def copy(*names: str) -> Path:
        for name in names:
            shutil.copytree(toy_root / name, tmp_path / name)
        return tmp_path

    return copy
