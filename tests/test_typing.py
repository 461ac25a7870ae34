"""The package's types, which those who import it rely on."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ("virtex.checkpoints", "virtex.config", "virtex.leaderboard", "virtex.optim", "virtex.zoo")


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """mypy as ``make lint`` runs it, with the settings of pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path_factory.mktemp("cache")]

    def run(checked: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, checked], cwd=ROOT, capture_output=True, text=True)

    return run


@pytest.mark.whole  # `make lint` runs it, too
def test_package_passes_mypy(mypy):
    found = mypy("virtex")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.whole  # a minute of mypy
def test_public_names_have_types(mypy, tmp_path):
    given = {name: importlib.import_module(name).__all__ for name in PUBLIC}
    names = [f"{package}.{name}" for package in PUBLIC for name in given[package]]
    user = tmp_path / "user.py"
    lines = [f"import {package}" for package in PUBLIC]
    user.write_text("\n".join([*lines, *(f"reveal_type({name})" for name in names)]))
    found = mypy(user)
    revealed = [line for line in found.stdout.splitlines() if "Revealed type is" in line]
    assert len(revealed) == len(names), found.stdout
    shown = zip(names, revealed, strict=True)
    assert not [name for name, line in shown if line.endswith('"Any"')]
