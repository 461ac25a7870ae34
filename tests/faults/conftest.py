"""A folder for what a test's runs leave, and an end for what it has started."""

import shutil

import pytest


@pytest.fixture
def out(tmp_path_factory):
    """An output folder that is not there yet; checkpoints are large, so it is deleted."""
    path = tmp_path_factory.mktemp("runs") / "out"
    yield path
    shutil.rmtree(path.parent)


@pytest.fixture
def started():
    """Takes what a test has started, to end it whatever becomes of the test."""
    runs = []
    yield lambda run: runs.append(run) or run
    for run in runs:
        run.clean_up()
