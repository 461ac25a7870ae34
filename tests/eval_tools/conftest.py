"""Toy data, caches of their own and finished runs for the tools' tests."""

import functools
import shutil

import pytest

from tests.eval_tools.probe_runs import ended_well, often, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("probe_data") / "data")


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory):
    """Random backbones are kept here; features in a folder that each test has for itself."""
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
    """An output folder that is not there yet; deleted after the test, for checkpoints are large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """Kind -> a finished run, to look at and never to change."""
    folder = tmp_path_factory.mktemp("finished")

    @functools.cache
    def run(kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIRTEX_FEATURE_CACHE", str(folder / f"features of {kind}"))
            patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # liblinear's processes take long to start
            return ended_well(kind, data, folder / kind, *often(kind))

    yield run
    shutil.rmtree(folder)


@pytest.fixture
def copy_of_data(data, tmp_path):
    """ImageNet and iNaturalist to be spoiled, and VOC2007."""
    root = tmp_path / "data"
    for name in ("imagenet", "inaturalist", "VOC2007"):
        shutil.copytree(data / name, root / name)
    return root
