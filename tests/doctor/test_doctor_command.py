"""python -m virtex.doctor: on this Python, and on ones that are really broken."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from tests.doctor.broken_modules import REPOSITORY, module
from virtex.doctor.checks import CHECKS
from virtex.doctor.findings import PROBLEM

# what the toolkit imports, for a Python that has none of it
HEAVY = (
    *("torch", "torchvision", "detectron2", "cv2", "PIL", "numpy", "pycocotools", "lvis"),
    *("hotcoco", "sklearn", "sentencepiece", "submitit", "pycocoevalcap", "packaging", "yaml"),
    "fvcore",
)
INSTALLED = ("packages", "torch", "torchvision", "detectron2", "OpenCV", "Pillow", "pycocotools",
             "lvis", "hotcoco", "scikit-learn", "sentencepiece")  # fmt: skip


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return module("virtex.doctor", *arguments, **environment)


def findings(done: subprocess.CompletedProcess) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


@pytest.fixture(scope="module")
def here():
    return doctor("--json", "--seconds", "500")


@pytest.mark.parametrize("name", INSTALLED)
def test_what_setup_installs_is_ok(here, name):
    assert findings(here)[name]["state"] == "ok", findings(here)[name]


def test_the_exit_status_is_that_of_the_findings(here):
    states = [finding["state"] for finding in findings(here).values()]
    assert here.returncode == (2 if PROBLEM in states else 0)
    assert json.loads(here.stdout)["problems"] == states.count(PROBLEM)


def test_what_is_here_is_told_with_its_version(here):
    import torch
    import torchvision

    found = findings(here)
    assert torch.__version__ in found["torch"]["found"]
    assert torchvision.__version__ in found["torchvision"]["found"]
    assert "the engine imports" in found["detectron2"]["found"]
    assert "decodes a JPEG" in found["OpenCV"]["found"]


def test_every_check_finds_something(here):
    assert len(findings(here)) >= len(CHECKS)


def test_no_server_is_asked_unless_told_so(here):
    assert "network" not in findings(here)


def test_neither_home_nor_machine_is_named(here):
    told = " ".join(finding["found"] for finding in findings(here).values())
    assert os.path.expanduser("~") + "/" not in told
    host = re.escape(socket.gethostname())
    assert host == "localhost" or not re.search(rf"(?<![A-Za-z0-9]){host}(?![A-Za-z0-9])", told)


def test_where_nothing_can_be_imported_each_is_told_with_its_remedy(shadow):
    for name in HEAVY:
        shadow(name, f"raise ImportError('{name} is broken here')")
    done = doctor()
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    for name in ("torch", "torchvision", "detectron2", "OpenCV", "Pillow", "pycocotools", "lvis"):
        assert name in done.stderr.partition("cannot run: fix ")[2].strip().split(", ")
    assert "ImportError: cv2 is broken here" in done.stdout
    lines = done.stdout.splitlines()
    wrong = [number for number, line in enumerate(lines) if line.startswith(("problem", "note"))]
    assert len(wrong) >= 12
    for number in wrong:
        assert lines[number + 1].lstrip().startswith("-> ")


def test_where_every_import_hangs_it_still_ends(shadow):
    for name in HEAVY:
        shadow(name, "import time; time.sleep(1000)")
    begun = time.monotonic()
    done = doctor("--seconds", "2")
    assert time.monotonic() - begun < 300  # 9 s on an idle machine; the modules sleep for 1000
    assert done.returncode == 2
    assert "it did not end in 2 seconds" in done.stdout


def test_help_answers_at_once():
    command = [sys.executable, "-X", "importtime", "-m", "virtex.doctor", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert "--network" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "virtex.doctor.machine" in imported
    assert not imported.intersection(HEAVY)


def test_a_python_that_is_too_old_is_told():
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 18)\n"
        "runpy.run_module('virtex.doctor', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "3.9, but virtex needs 3.10 or newer" in done.stdout
