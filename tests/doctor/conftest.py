"""A place for broken modules."""

import pytest

from tests.doctor.broken_modules import put_module


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """A function that puts a module before the installed one of its name, for other processes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, code: put_module(tmp_path, name, code)
