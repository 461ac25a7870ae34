"""Detectron2 v0.5 is made fit for today's libraries before a test module imports it."""

import logging

import pytest

import virtex.detectron  # noqa: F401
from tests.toy_data import copy_toy_data

TRAIN_IMAGES, VAL_IMAGES = 24, 8


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A data root with the built-in toy data."""
    return copy_toy_data(tmp_path_factory.mktemp("toy") / "data", TRAIN_IMAGES, VAL_IMAGES)


# Detectron2's console handler keeps the stream of the first test that captured its output.
logging.raiseExceptions = False
