"""Shared by all tests: one core a worker process; how much of the long tests runs; a browser."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch at import, and by the tools the tests start

# Hostile input: the same cases in every run, none of which may take over ten seconds.
CASES = {"quick": 60, "whole": 2000}
for name, cases in CASES.items():
    settings.register_profile(
        name,
        max_examples=cases,
        derandomize=True,
        deadline=10_000,
        print_blob=False,
        # a fixture that is made once is what is wanted, and slow cases have the deadline
        suppress_health_check=list(HealthCheck),
    )


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="every fault and all hostile input")


def pytest_configure(config):
    settings.load_profile("whole" if config.getoption("--whole") else "quick")


@pytest.fixture(scope="session")
def whole(request):
    """Whether everything is asked for (``make test-all``), not a selection (``make test``)."""
    return request.config.getoption("--whole")


@pytest.fixture(scope="module")
def browser():
    from tests.browser import chromium

    with chromium() as started:
        yield started
