"""Every block of README, CONTRIBUTING and docs runs as it stands, in order, on toy data."""

import itertools
import re
import sys

import pytest

from tests.documentation.markdown_pages import NAMES, PAGES, Block, blocks_of

FILE = re.compile(r"[\w*-]*[._/*][\w./*-]*")


def runs(page):
    return any(b.language in ("bash", "python") and not b.needs for b in blocks_of(page))


def files_listed(block):
    """The names of a listing: the first word of a line, and those after it that look like names."""
    for line in block.text.splitlines():
        first, *others = line.split() or [""]
        yield from filter(None, [first, *itertools.takewhile(FILE.fullmatch, others)])


def check_files(block, checkout):
    folder = checkout / block.marks["files"]
    missing = [name for name in files_listed(block) if not list(folder.glob(name.rstrip("/")))]
    assert not missing, f"{block.where}: {folder} does not hold {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_blocks_of_a_page_run_in_order(page, request):
    if not runs(page):
        pytest.skip("nothing on it is to be run")
    checkout, run = (request.getfixturevalue(name) for name in ("checkout", "run"))
    for block in blocks_of(page):
        if "files" in block.marks:
            check_files(block, checkout)
        elif block.language == "bash" and not block.needs:
            run(block.where, "bash", "-euo", "pipefail", "-c", block.text)
        elif block.language == "python" and not block.needs:
            run(block.where, sys.executable, "-c", block.text)


def listing(text):
    return Block("page.md:1", "text", text, {"files": "output"})


def test_a_listing_names_files_and_says_what_they_are(tmp_path):
    (tmp_path / "output" / "gallery").mkdir(parents=True)
    for name in ("result.json", "log.txt", "gallery/1.jpg", "last_checkpoint"):
        (tmp_path / "output" / name).touch()
    check_files(
        listing("result.json   scores\ngallery/*.jpg\nlog.txt  last_checkpoint\n"), tmp_path
    )


@pytest.mark.parametrize("name", ["grid.csv", "log.txt  grid.csv", "gallery/*.jpg  pictures"])
def test_a_listed_file_that_is_not_there_is_caught(tmp_path, name):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "log.txt").touch()
    with pytest.raises(AssertionError, match="does not hold"):
        check_files(listing(f"{name}\n"), tmp_path)
