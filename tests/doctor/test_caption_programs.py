"""What scores captions beside Python: Java, and pycocoevalcap's programs."""

import pytest

from tests.doctor.broken_modules import one, put_program
from virtex.doctor import captions
from virtex.doctor.findings import NOTE


@pytest.fixture
def only_path(tmp_path, monkeypatch):
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def test_without_java_it_is_told_what_is_left_out(only_path):
    finding = one(captions.java)
    assert finding.state == NOTE
    assert finding.found.startswith("there is none: captions are scored without METEOR")
    assert finding.remedy


def test_java_is_told_with_its_version(only_path):
    put_program(only_path, "java", "echo 'openjdk version \"21.0.2\" 2024-01-16' >&2")
    assert one(captions.java).found == f"21.0.2 at {only_path}/java"


def test_a_java_that_fails_is_a_note_that_quotes_it(only_path):
    put_program(only_path, "java", "echo 'Error: could not find libjava.so' >&2; exit 2")
    finding = one(captions.java)
    assert finding.state == NOTE
    assert "exit status 2 (Error: could not find libjava.so)" in finding.found
    assert "--resume" not in finding.found


def test_a_java_that_hangs_is_a_note(only_path):
    put_program(only_path, "java", "while :; do :; done")
    assert "did not end in 1 seconds" in one(captions.java, 1).found


def test_without_pycocoevalcap_captions_are_a_note(shadow):
    shadow("pycocoevalcap", "")  # without its programs
    finding = one(captions.caption_programs)
    assert (finding.state, finding.remedy) == (NOTE, "pip install pycocoevalcap")
