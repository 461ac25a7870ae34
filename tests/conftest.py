"""Shared by all tests: one core per worker process, ``--whole``, a browser."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch at import, and by the tools the tests start

# Generated input is the same in every run.
CASES = {"quick": 10, "whole": 2000}
for name, cases in CASES.items():
    settings.register_profile(
        name,
        max_examples=cases,
        derandomize=True,
        deadline=None,  # no test depends on the speed of the machine
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="run the tests marked 'whole', too")


def pytest_configure(config):
    settings.load_profile("whole" if config.getoption("--whole") else "quick")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--whole"):
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("whole")])
        items[:] = [item for item in items if not item.get_closest_marker("whole")]


@pytest.fixture(scope="session")
def whole(request):
    """Whether all tests run (``make test-all``), not the selection of ``make test``."""
    return request.config.getoption("--whole")


@pytest.fixture(scope="module")
def browser():
    from tests.browser import chromium

    with chromium() as started:
        yield started


@pytest.fixture
def out(tmp_path_factory):
    """A new output folder, deleted afterwards as checkpoints are large."""
    path = tmp_path_factory.mktemp("runs") / "out"
    yield path
    shutil.rmtree(path.parent)


@pytest.fixture
def started():
    """Register processes that end with the test."""
    processes = []
    yield lambda process: processes.append(process) or process
    for process in processes:
        process.clean_up()
