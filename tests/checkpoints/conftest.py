"""Backbones with random weights, and files that are removed after the test."""

import pytest
from checkpoint_writers import randomized

from tests.checkpoints.fault_server import start_server
from virtex.checkpoints import http_download


@pytest.fixture(scope="session")
def resnet18():
    return randomized("resnet18")


@pytest.fixture(scope="session")
def resnet50():
    return randomized("resnet50")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, emptied of its large files afterwards; iopath caches in it too."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.stat().st_size > 1_000_000:
            file.unlink()


@pytest.fixture
def server(here, monkeypatch):
    """A ``FaultServer``, retried without a long wait."""
    monkeypatch.setattr(http_download, "BACK_OFF", 0.01)
    faults, running = start_server()
    yield faults
    running.shutdown()
    running.server_close()


@pytest.fixture
def registered():
    """Remove formats and families that a test registers."""
    from virtex.backbones.registry import FAMILIES
    from virtex.checkpoints.formats import FORMATS

    before = dict(FORMATS), dict(FAMILIES)
    yield
    for table, rows in zip((FORMATS, FAMILIES), before, strict=True):
        table.clear()
        table.update(rows)
