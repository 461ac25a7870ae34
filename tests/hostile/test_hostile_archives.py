"""Archives that would unpack beside their folder; the one that is unpacked has a known hash."""

import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import raises_code
from tests.hostile.checkpoint_runs import nothing_happens
from tests.hostile.data_runs import run
from virtex.detectron import install

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

NAMES = (
    *(
        "../outside",
        "/outside",
        "a/../../outside",
        "detectron2/setup.py",
        "a",
        "",
        ".",
        "..",
        "~/x",
    ),
    *("\x1b[31mred", "a\nb", "x" * 5000, "C:\\outside", "link/inside", "link"),
)
KINDS = (
    *(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"z"),
)
MEMBERS = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(KINDS), st.sampled_from(NAMES), st.integers(0, 999)
)


def archive(members, mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, kind, target, size in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = size if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(bytes(size)))
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    (folder / "inside").mkdir()
    return folder


@given(
    st.one_of(
        st.builds(archive, st.lists(MEMBERS, max_size=4), st.sampled_from(["w", "w:gz", "w:bz2"])),
        st.binary(max_size=99),
    )
)
def test_unknown_archive_is_not_unpacked(folder, data):
    sdist = folder / "sdist.tar.gz"
    sdist.write_bytes(data)
    with nothing_happens(), raises_code("environment.sdist", sdist):
        install.unpack_sdist(sdist, folder / "inside")
    assert sorted(os.listdir(folder)) == ["inside", "sdist.tar.gz"]
    assert os.listdir(folder / "inside") == []


@pytest.mark.parametrize("path", ["absent.tar.gz", ".", "/dev/null"])
def test_missing_archive_is_reported(path, folder):
    with raises_code("environment.sdist", folder / path):
        install.unpack_sdist(folder / path, folder / "inside")


def test_the_tool_says_what_is_there_before_it_reads_any_file(folder):
    (folder / "sdist.tar.gz").write_bytes(b"x")
    assert run(install, "--sdist", folder / "sdist.tar.gz")[0] == 0  # one is installed already
