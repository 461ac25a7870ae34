"""A folder like a fresh checkout for each page, in which its commands are run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.documentation.markdown_pages import ROOT

TINY = ("datasets/tiny", "--train-images", "96", "--val-images", "24")
NOT_LINKED = ("output", "datasets", "build", "dist")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """The toy data that most pages begin with, made once for all of them."""
    shared = tmp_path_factory.getbasetemp().parent  # of all of xdist's processes
    folder = shared / TINY[0]
    with FileLock(shared / "tiny.lock"):
        if not (shared / "made").exists():
            tool = ROOT / "eval_tools" / "make_toy_data.py"
            subprocess.run([sys.executable, str(tool), *TINY], cwd=shared, check=True, timeout=300)
            (shared / "made").touch()
    return folder


@pytest.fixture
def checkout(tmp_path, tiny_data):
    """A folder in which everything of the repository is reached and nothing of it is written.

    ``datasets`` and ``output`` are its own; the toy data lie there already, so that a page that
    writes them with the same arguments finds them.
    """
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in NOT_LINKED:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(tiny_data, tmp_path / TINY[0], copy_function=os.link)
    return tmp_path


@pytest.fixture
def run(checkout):
    """Runs a program in the checkout; gives what it printed, or fails with it."""
    programs = Path(sys.prefix) / "bin"
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "FVCORE_CACHE": str(checkout / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def run_one(where, *command):
        done = subprocess.run(
            command,
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=540,
        )
        assert done.returncode == 0, f"{where}: status {done.returncode}\n{done.stdout[-6000:]}"
        return done.stdout

    return run_one
