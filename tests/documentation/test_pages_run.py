"""Run the blocks of README, CONTRIBUTING and docs that need toy data only."""

import itertools
import re
import sys
from operator import itemgetter

import pytest

from tests.documentation.markdown_pages import NAMES, PAGES, blocks_of

QUICK = ("docs/checkpoints.md",)
FILE = re.compile(r"[\w*-]*[._/*][\w./*-]*")


def runnable(page):
    """Yield the kind and the block, of all that are run or checked."""
    for block in blocks_of(page):
        if "files" in block.marks:
            yield "files", block
        elif block.language in ("bash", "python") and not block.needs:
            yield block.language, block


def in_one_process(blocks):
    """Return a script of consecutive Python blocks, each with a namespace of its own."""
    return "\n".join(
        f"exec(compile({block.text!r}, {block.where!r}, 'exec'), {{'__name__': '__main__'}})"
        for block in blocks
    )


def files_listed(block):
    """Yield the names of a listing: the first word of a line, and what follows if it is a name."""
    for line in block.text.splitlines():
        first, *others = line.split() or [""]
        yield from filter(None, [first, *itertools.takewhile(FILE.fullmatch, others)])


def check_files(block, checkout):
    folder = checkout / block.marks["files"]
    missing = [name for name in files_listed(block) if not list(folder.glob(name.rstrip("/")))]
    assert not missing, f"{block.where}: {folder} does not hold {', '.join(missing)}"


def selected_pages():
    """Return the pages with runnable blocks; the slow ones run with ``--whole`` only."""
    for page, name in zip(PAGES, NAMES, strict=True):
        if list(runnable(page)):
            yield pytest.param(page, id=name, marks=[pytest.mark.whole] * (name not in QUICK))


@pytest.mark.parametrize("page", selected_pages())
def test_blocks_run_in_order(page, request):
    blocks = list(runnable(page))
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
