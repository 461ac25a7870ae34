"""Toy data, private caches and finished runs for the tests of the tools."""

import functools
import shutil

import pytest

from tests.eval_tools.probe_runs import log_flags, run_to_end, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("probe_data") / "data")


@pytest.fixture(scope="session", autouse=True)
def private_backbone_cache(tmp_path_factory):
    """Keep random backbones out of the user's cache; each test has its own feature cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FVCORE_CACHE", str(folder))
        yield
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "features"
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(folder))
    return folder


@pytest.fixture
def out(tmp_path):
    """A new output folder, deleted after the test because checkpoints are large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """Kind -> a finished run, read-only."""
    folder = tmp_path_factory.mktemp("finished")

    @functools.cache
    def run(kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIRTEX_FEATURE_CACHE", str(folder / f"features_{kind}"))
            patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # liblinear's processes are slow to start
            return run_to_end(kind, data, folder / kind, *log_flags(kind))

    yield run
    shutil.rmtree(folder)


@pytest.fixture
def copy_of_data(data, tmp_path):
    """A copy of ImageNet, iNaturalist and VOC2007 that a test may change."""
    root = tmp_path / "data"
    for name in ("imagenet", "inaturalist", "VOC2007"):
        shutil.copytree(data / name, root / name)
    return root
