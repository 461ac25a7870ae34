"""Toy data and a captioning checkpoint for all tests here."""

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
    """A captioning model; to look at and never to change."""
    return write_checkpoint(tmp_path_factory.mktemp("captioner") / "run", vocabulary)


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory):
    """Random backbones are kept here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FVCORE_CACHE", str(folder))
        yield
    shutil.rmtree(folder)
