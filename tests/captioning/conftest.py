"""Toy data and a captioning checkpoint for the tests of this folder."""

import shutil

import pytest

from tests.captioning.small_captioners import write_checkpoint
from tests.pretraining_runs import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("captioning_data") / "data")


@pytest.fixture(scope="session")
def vocabulary(data):
    return data / "vocab/toy.model"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, vocabulary):
    """A captioning model; do not modify."""
    return write_checkpoint(tmp_path_factory.mktemp("captioner") / "run", vocabulary)


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory):
    """Cache random backbones in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FVCORE_CACHE", str(folder))
        yield
    shutil.rmtree(folder)
