"""Packages that are absent or of another version: which of them the main job cannot run without."""

import importlib.metadata
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.doctor.broken_modules import bare_python, one, put_metadata
from virtex.doctor.findings import NOTE, OK, PROBLEM
from virtex.doctor.packages import NEEDED, requirements

ASKED = {
    one.name: one
    for one in map(Requirement, importlib.metadata.requires("virtex"))
    if one.marker is None or one.marker.evaluate({"extra": ""})
}
FINDING = (
    "from virtex.doctor.packages import requirements\n"
    "(finding,) = requirements(500)\n"
    "print(finding.state, finding.found, finding.remedy, sep=' | ')"
)


def found_without(folder, *absent: str, **others: str) -> list[str]:
    """State, what was found and remedy where all other packages are there, as they are here."""
    versions = {name: importlib.metadata.version(name) for name in ASKED if name not in absent}
    return bare_python(folder, FINDING, versions | others).split(" | ")


def test_where_all_are_there_it_is_ok(tmp_path):
    assert found_without(tmp_path)[:2] == [
        OK,
        f"all {len(ASKED)} that are asked for, in versions that fit",
    ]


def test_without_one_that_is_needed_it_is_a_problem(tmp_path):
    assert found_without(tmp_path, "fvcore") == [
        PROBLEM,
        "fvcore is not installed, which is needed for configuration, checkpoints, PreciseBN",
        f"pip install '{ASKED['fvcore']}'",
    ]


def test_without_what_only_other_tasks_need_it_is_a_note(tmp_path):
    absent = ("hotcoco", "scikit-learn", "sentencepiece")
    state, found, remedy = found_without(tmp_path, *absent)
    assert state == NOTE
    assert found == "; ".join(f"{name} is not installed" for name in absent)
    assert remedy == "pip install " + " ".join(f"'{ASKED[name]}'" for name in absent)


@pytest.mark.parametrize("name", ["opencv-python-headless", "opencv-contrib-python"])
def test_another_opencv_stands_in(tmp_path, name):
    assert found_without(tmp_path, "opencv-python", **{name: "5.0.0"})[0] == OK


def test_another_opencv_that_is_too_old_is_told_by_its_own_name(tmp_path):
    old = {"opencv-python-headless": "3.4.18"}
    state, found, remedy = found_without(tmp_path, "opencv-python", **old)
    assert (state, found) == (NOTE, "opencv-python-headless is 3.4.18, and >=4.8 is asked for")
    assert remedy == "pip install 'opencv-python-headless>=4.8'"


@pytest.mark.parametrize(("name", "version"), [("tqdm", "4.1.0"), ("matplotlib", "3.7.5")])
def test_another_version_is_a_note_with_the_command(monkeypatch, tmp_path, name, version):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    put_metadata(tmp_path, name, version)
    finding = one(requirements)
    assert finding.state == NOTE
    assert f"{name} is {version}, and >=" in finding.found
    assert finding.remedy.startswith(f"pip install '{name}>=")


def test_what_is_needed_is_asked_for():
    assert set(NEEDED) <= set(ASKED)


def test_what_the_main_job_imports_is_needed():
    code = (
        "import sys, virtex.detectron.transfer, virtex.detectron.gallery\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    modules = importlib.metadata.packages_distributions()
    # a name with a _ before it is loaded by Python's site, before there is a job
    imported = {
        package
        for name in done.stdout.split()
        for package in modules.get(name, ())
        if not name.startswith("_")
    }
    assert {"torch", "fvcore"} <= imported, done.stderr
    names = {name.lower(): name for name in ASKED}
    asked = {names[package.lower()] for package in imported if package.lower() in names}
    assert asked <= set(NEEDED)
