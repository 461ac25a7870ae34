"""Modules that stand before the installed ones, and what a check finds of them."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from virtex.doctor.findings import Finding

REPOSITORY = Path(__file__).parents[2]
SECONDS = 500.0  # a busy machine may take minutes for an import


def put_module(folder: Path, name: str, code: str) -> Path:
    """A module for processes in whose PYTHONPATH the folder is. Returns its own folder."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    return folder / name


def put_metadata(folder: Path, name: str, version: str, *requirements: str) -> None:
    """As pip leaves them: of a folder in PYTHONPATH they are found before those installed."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


def put_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def bare_python(folder: Path, code: str, versions: Mapping[str, str]) -> str:
    """What code prints in a Python that has the toolkit, and of these packages the metadata.

    A module that is there could not be made to look absent.
    """
    site, python = folder / "site", folder / "python"
    site.mkdir()
    (site / "virtex").symlink_to(REPOSITORY / "virtex")
    packaging = importlib.metadata.distribution("packaging").locate_file("packaging")
    (site / "packaging").symlink_to(str(packaging))
    for name, version in versions.items():
        put_metadata(site, name, version)
    put_metadata(site, "virtex", "2.0.0", *importlib.metadata.requires("virtex") or ())
    put_program(folder, "python", f'exec "{os.path.realpath(sys.executable)}" -S "$@"')
    done = subprocess.run(
        [python, "-c", f"import sys; sys.executable = {str(python)!r}\n{code}"],
        cwd=folder,
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def module(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """``python -m`` of it, as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def one(check, seconds: float = SECONDS) -> Finding:
    """The only finding of a check."""
    (finding,) = check(seconds)
    return finding
