"""Detectron2 v0.5 is made fit for today's libraries before a test module imports it."""

import logging
import os

import pytest

import virtex.detectron  # noqa: F401

# Detectron2's console handler keeps the stream of the first test that captured its output.
logging.raiseExceptions = False


@pytest.fixture(scope="module")
def settings_folder(tmp_path_factory):
    """The folder of this process for the time."""
    folder = tmp_path_factory.mktemp("settings")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
