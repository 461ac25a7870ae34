"""What a check finds is told with a remedy, with an exit status, and without names."""

import json
import socket

import pytest

from virtex.doctor.findings import (
    NOTE,
    OK,
    PROBLEM,
    Finding,
    anonymous,
    report,
    run_checks,
    without_home,
    without_names,
)
from virtex.errors import UserError


@pytest.mark.parametrize("state", [NOTE, PROBLEM])
def test_what_is_not_ok_cannot_be_told_without_a_remedy(state):
    with pytest.raises(ValueError, match="no remedy is told for GPU: none"):
        Finding("GPU", state, "none")
    assert Finding("GPU", OK, "one").remedy == ""


def test_a_check_that_fails_itself_is_a_note_with_a_remedy():
    def broken(seconds):
        raise KeyError("of its own")

    (finding,) = run_checks([broken])
    assert (finding.check, finding.state) == ("broken", NOTE)
    assert "KeyError: 'of its own'" in finding.found
    assert finding.remedy.startswith("report it")


def test_notes_are_no_problem(capsys):
    report([Finding("a", OK, "there"), Finding("b", NOTE, "slow", "hurry")])
    assert capsys.readouterr().out.splitlines() == [
        "ok       a  there",
        "note     b  slow",
        "            -> hurry",
    ]


def test_problems_are_named(capsys):
    found = [Finding("a", PROBLEM, "no", "b"), Finding("c", NOTE, "slow", "d")]
    with pytest.raises(UserError, match=r"the main job cannot run: fix a$"):
        report(found, in_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == 1
    assert told["findings"][0] == {"check": "a", "state": "problem", "found": "no", "remedy": "b"}


# ---- names


@pytest.fixture
def jane(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "jane")


def test_the_home_folder_is_a_tilde(jane):
    assert without_home("/home/jane/x /home/janet /home/jane") == "~/x /home/janet ~"


def test_the_user_is_left_out_of_paths_alone(jane):
    assert without_names("/scratch/jane/x: /scratch/jane: /data/janet") == (
        "/scratch/USER/x: /scratch/USER: /data/janet"
    )
    assert without_names("jane 1.0 asks for jane.x") == "jane 1.0 asks for jane.x"


def test_the_machine_is_left_out():
    host = socket.gethostname()
    if host == "localhost":
        pytest.skip("this machine has a name that tells nothing")
    assert without_names(f"{host}: {host}.example.org") == "HOST: HOST.example.org"


def test_root_is_no_name(monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("USER", "root")
    assert without_names("--data-root /mnt/root/x") == "--data-root /mnt/root/x"


@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        ("virtex", "python -m virtex.detectron.install --sdist /data/virtex/x"),
        ("torch", "pip install --upgrade --force-reinstall torch torchvision"),
        (socket.gethostname(), f"ssh {socket.gethostname()}"),
    ],
    ids=["virtex", "torch", "host"],
)
def test_a_remedy_can_be_copied_whoever_one_is(monkeypatch, user, remedy):
    monkeypatch.setenv("USER", user)
    monkeypatch.setenv("HOME", f"/home/{user}")
    told = anonymous(Finding("a", NOTE, "no", f"{remedy} /home/{user}/x"))
    assert told.remedy == f"{remedy} ~/x"
