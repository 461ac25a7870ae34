"""Toy data, checkpoints, private caches, and one finished evaluation."""

import os
import shutil

import pytest

from tests.eval_tools.probe_runs import write_data
from tests.evaluate_all.evaluations import Evaluation, evaluate, write_checkpoint
from virtex.evaluate_all.naming import checkpoint_folders


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """Keep tests out of the user's caches."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FVCORE_CACHE", str(folder / "checkpoints"))
        patch.setenv("VIRTEX_FEATURE_CACHE", str(folder / "features"))
        yield
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("evaluate_all_data") / "data")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Three networks, and a text file."""
    folder = tmp_path_factory.mktemp("evaluate_all_checkpoints")
    write_checkpoint(folder / "first.pth", 0)
    write_checkpoint(folder / "second.pth", 1)
    write_checkpoint(folder / "broken.pth", 2)
    (folder / "text.pth").write_text("no network")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mixed(data, checkpoints, tmp_path_factory):
    """Three networks on VOC07, two runs in parallel; tests must not change it.

    The run of the first fails: a file has the name of its folder.
    """
    out = tmp_path_factory.mktemp("mixed") / "out"
    names = [str(checkpoints / f"{name}.pth") for name in ("broken", "first", "second")]
    place = out / checkpoint_folders(names)[names[0]] / "voc07_svm_toy" / "seed_0"
    place.parent.mkdir(parents=True)
    place.touch()
    yield evaluate(Evaluation(names, data, out), "--max-parallel", "2")
    shutil.rmtree(out)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    assert not os.listdir()
    return tmp_path
