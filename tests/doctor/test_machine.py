"""Memory, cores, room on disks, servers."""

import os
import re
import shutil

import pytest

from tests.doctor.broken_modules import SECONDS, one
from virtex.doctor import machine
from virtex.doctor.findings import NOTE, OK, PROBLEM


def folder(path, needed=0, **others) -> machine.Folder:
    return machine.Folder("features", lambda: str(path), needed, "features", "move it", **others)


@pytest.mark.parametrize(
    ("value", "state"), [(None, OK), ("1", OK), ("0", NOTE), ("many", NOTE), ("99999", NOTE)]
)
def test_threads(monkeypatch, value, state):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert one(machine.threads).state == state


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has none")
def test_cores_that_may_not_be_used_are_a_note_with_a_remedy():
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("there is but one core to use")
    try:
        os.sched_setaffinity(0, {min(allowed)})
        finding = one(machine.cores)
    finally:
        os.sched_setaffinity(0, allowed)
    assert finding.state == NOTE
    assert "of which 1 may be used" in finding.found
    assert finding.remedy.startswith("give --num-workers 1")


def test_caches_are_where_the_tools_have_them(monkeypatch, tmp_path):
    from iopath.common.file_io import get_cache_dir

    from virtex.probes.feature_cache import default_folder

    monkeypatch.delenv("VIRTEX_FEATURE_CACHE", raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    assert machine.downloads_folder() == get_cache_dir()
    assert machine.features_folder() == str(default_folder())
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(tmp_path / "features"))
    assert machine.features_folder() == str(default_folder())
    monkeypatch.delenv("FVCORE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.path.expanduser(machine.downloads_folder()) == get_cache_dir()


def test_a_folder_with_little_room_is_a_note_and_is_not_made(tmp_path):
    finding = one(folder(tmp_path / "a" / "b", needed=10**9))
    assert finding.state == NOTE
    assert "of 1e+09 that features may take" in finding.found
    assert finding.remedy == "free some, or move it"
    assert not (tmp_path / "a").exists()


def test_a_folder_with_room_is_ok(tmp_path):
    assert one(folder(tmp_path)).state == OK


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "cache").write_text("")
    finding = one(folder(tmp_path / "cache" / "x"))
    assert (finding.state, finding.remedy) == (NOTE, "move it")


def test_a_folder_that_is_none_is_told():
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    finding = one(machine.Folder("temporary", nowhere, 1, "scores", "set TMPDIR", PROBLEM))
    assert finding.found == "there is none to write to (No usable temporary directory found)"
    assert (finding.state, finding.remedy) == (PROBLEM, "set TMPDIR")


def test_the_main_job_cannot_do_without_temporary_files_alone():
    needed = [each.name for each in machine.FOLDERS if each.state == PROBLEM]
    assert needed == ["temporary files"]


def test_shared_memory_is_told():
    if not machine.SHARED.is_dir():
        pytest.skip("this system has none")
    free = shutil.disk_usage(machine.SHARED).free / 2**30
    told = re.search(r"(\d+\.\d\d) GiB free", one(machine.shared_memory).found)
    assert float(told[1]) == pytest.approx(free, abs=0.5)  # others use it, too


def test_servers_that_do_not_answer_are_notes(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    found = list(machine.network(SECONDS))
    assert {finding.state for finding in found} == {NOTE}
    assert found[0].found.startswith("github.com does not answer (")
    assert len(found) > 3
