"""Blocks of README, CONTRIBUTING and docs that need no more than toy data run as they stand."""

import itertools
import re
import subprocess
import sys
from operator import itemgetter

import pytest

from tests.documentation.markdown_pages import NAMES, PAGES, Block, blocks_of

FILE = re.compile(r"[\w*-]*[._/*][\w./*-]*")


def to_do(page):
    """The blocks of a page that are run or looked at, each with what it is."""
    for block in blocks_of(page):
        if "files" in block.marks:
            yield "files", block
        elif block.language in ("bash", "python") and not block.needs:
            yield block.language, block


def in_one_process(blocks):
    """Python blocks that follow one another: torch is imported once, names are each one's own."""
    return "\n".join(
        f"exec(compile({block.text!r}, {block.where!r}, 'exec'), {{'__name__': '__main__'}})"
        for block in blocks
    )


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
    blocks = list(to_do(page))
    if not blocks:
        pytest.skip("nothing on it is to be run")
    checkout, run = (request.getfixturevalue(name) for name in ("checkout", "run"))
    for kind, group in itertools.groupby(blocks, key=itemgetter(0)):
        following = [block for _, block in group]
        if kind == "python":
            run(following[0].where, sys.executable, "-c", in_one_process(following))
            continue
        for block in following:
            if kind == "files":
                check_files(block, checkout)
            else:
                run(block.where, "bash", "-euo", "pipefail", "-c", block.text)


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


def test_a_python_block_that_fails_is_named_and_sees_no_names_of_another():
    texts = ("found = 1\n", "print(found)\n")
    blocks = [Block(f"page.md:{n}", "python", text, {}) for n, text in enumerate(texts, 1)]
    command = [sys.executable, "-c", in_one_process(blocks)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'File "page.md:2", line 1' in done.stderr
    assert "NameError" in done.stderr
