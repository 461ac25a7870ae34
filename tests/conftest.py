"""Shared by all tests: each worker process keeps to one core; a browser."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch at import, and by the tools the tests start


@pytest.fixture(scope="module")
def browser():
    from tests.browser import chromium

    with chromium() as started:
        yield started
