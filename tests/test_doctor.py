"""python -m virtex.doctor: its checks, their table, and its exit status."""

import configparser
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from virtex import doctor
from virtex.cli import run_tool

REPOSITORY = Path(__file__).parents[1]


def run_doctor(capsys, monkeypatch, *checks):
    monkeypatch.setattr(doctor, "all_checks", lambda: list(checks))
    monkeypatch.setattr(doctor, "collect_environment", lambda: "ENVIRONMENT")
    with pytest.raises(SystemExit) as caught:
        run_tool(doctor.main, doctor.build_parser(), [])
    return caught.value.code, *capsys.readouterr()


def fail():
    raise ImportError("broken here\nsecond line")


def test_working_environment(capsys, monkeypatch):
    status, out, _ = run_doctor(capsys, monkeypatch, doctor.Check("a", lambda: "1.2.3", "fix a"))
    assert status == 0
    assert "ENVIRONMENT" in out
    assert out.split()[-3:] == ["a", "ok", "1.2.3"]


@pytest.mark.parametrize("required", [True, False])
def test_exit_status_follows_required_checks(capsys, monkeypatch, required):
    status, out, err = run_doctor(
        capsys,
        monkeypatch,
        doctor.Check("a", fail, "fix a", required),
        doctor.Check("b", lambda: "1.0", ""),
    )
    assert status == (2 if required else 0)
    assert ("[environment.broken]" in err) is required
    assert "broken here; fix a" in out
    assert "ok       1.0" in out  # one failure hides no other check


def test_required_packages_match_the_metadata():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    names = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    building = {"pip", "setuptools", "wheel"}
    assert set(doctor.REQUIRED) == names - building


def test_import_check_names_version_and_error(monkeypatch):
    assert doctor.check_import("Pillow")[0].isdigit()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="PIL"):
        doctor.check_import("Pillow")


def test_nms_check_runs():
    assert doctor.check_nms().startswith("runs on cpu")


def test_missing_detectron2_is_reported(monkeypatch):
    monkeypatch.setattr("virtex.detectron.install.find_installed", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="detectron2"):
        doctor.check_detectron2()
