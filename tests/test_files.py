"""Atomic writes, listings and paths."""

import os

import pytest
import torch

from tests.errors import raises_code
from virtex.errors import UserError
from virtex.files import (
    describe_folder,
    find_missing,
    is_path_below,
    list_folder,
    read_file,
    replace_file,
)


class Interrupted:
    """A file whose writes raise, as a signal handler may anywhere."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def write(self, content):
        if len(content) > 1000:
            raise self.error
        return self.file.write(content)

    def flush(self):
        self.file.flush()


@pytest.mark.parametrize("error", [UserError("a worker was killed"), KeyboardInterrupt()])
def test_error_within_torch_save_is_passed_on(tmp_path, error):
    path = tmp_path / "model.pth"
    path.write_text("old")
    content = {"weight": torch.zeros(10_000)}
    with pytest.raises(type(error)):
        replace_file(path, lambda file: torch.save(content, Interrupted(file, error)))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("path", ["a.jpg", "a/b.jpg", "a..b/c", "ä"])
def test_path_below(path):
    assert is_path_below(path)


@pytest.mark.parametrize(
    "path",
    ["", "..", "../a", "a/../b", "/a", "a//b", "a\0", "a\n", "\ud800", "x" * 256, 5, None],
)
def test_path_not_below(path):
    assert not is_path_below(path)


def test_listing_follows_links_and_skips_broken_ones(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name, target in (("a", "folder"), ("b", "file"), ("c", "gone"), ("d", "d")):
        (tmp_path / name).symlink_to(target)
    assert list_folder(tmp_path) == ({"file", "b"}, {"folder", "a"})
    assert list_folder(tmp_path / "gone") == list_folder(tmp_path / "file") == (set(), set())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_unreadable_folder(tmp_path):
    tmp_path.chmod(0)
    with raises_code("data.unreadable", tmp_path):
        list_folder(tmp_path)


def test_describe_folder(tmp_path):
    assert describe_folder(tmp_path) == "is empty"
    assert describe_folder(tmp_path / "gone") == "does not exist"
    (tmp_path / "file").write_text("")
    assert describe_folder(tmp_path) == "contains file"
    assert describe_folder(tmp_path / "file") == "is not a folder"
    (tmp_path / "link").symlink_to("gone")
    assert describe_folder(tmp_path / "link") == "is a broken symbolic link"


def test_find_missing_keeps_order(tmp_path):
    (tmp_path / "b").write_text("")
    paths = [str(tmp_path / name) for name in ("c", "b", "a", "x/y")]
    assert find_missing(paths) == [paths[0], paths[2], paths[3]]


def test_read_file_refuses_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        read_file(tmp_path / "pipe")
