"""Detectron2 v0.5 is made fit for today's libraries before a test module imports it."""

import logging

import pytest

import virtex.detectron  # noqa: F401
from virtex.data.toy import write_toy_data

TRAIN_IMAGES, VAL_IMAGES = 24, 8


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A data root with the built-in toy data."""
    root = tmp_path_factory.mktemp("toy")
    write_toy_data(root, seed=0, train_images=TRAIN_IMAGES, val_images=VAL_IMAGES)
    return root


# Detectron2's console handler keeps the stream of the first test that captured its output.
logging.raiseExceptions = False
