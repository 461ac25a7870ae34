"""Blocks, links and file names of the documentation are valid."""

import ast
import re

import pytest

from tests.documentation.command_lines import InvalidCommand, check_shell
from tests.documentation.markdown_pages import (
    DIRECTIVE,
    LANGUAGES,
    NAMES,
    PAGES,
    REASONS,
    ROOT,
    blocks_in,
    blocks_of,
)

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"`((?:virtex|tests|benchmarks|eval_tools|detectron_configs)/[\w/]*(?:\.\w+)?)`")


@every_page
def test_blocks_have_a_language_and_a_reason_not_to_run(page):
    for block in blocks_of(page):
        known = block.language in LANGUAGES or DIRECTIVE.fullmatch(block.language)
        assert known, f"{block.where}: {block.language!r} is not one of {', '.join(LANGUAGES)}"
        assert set(block.marks) <= {"needs", "files"}, f"{block.where}: {block.marks}"
        assert set(block.needs) <= set(REASONS), f"{block.where}: {block.needs}"


@every_page
def test_commands_are_valid(page):
    for block in blocks_in(page, "bash"):
        try:
            check_shell(block.text)
        except InvalidCommand as error:
            pytest.fail(f"{block.where}: {error}")


@every_page
def test_python_imports_exist(page):
    for block in blocks_in(page, "python"):
        tree = ast.parse(block.text, block.where)
        if block.needs:
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), block.where, "exec"), {})


def text_of(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(page):
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@every_page
def test_links_and_file_names_exist(page):
    for target, heading in LINK.findall(text_of(page)):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        assert not heading or heading in anchors_of(found), f"{page.name}: {target}#{heading}"
    assert [name for name in FILE.findall(text_of(page)) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python eval_tools/voc07_svm.py --chekpoint FILE", "--chekpoint"),
        ("python eval_tools/evaluate_al.py --checkpoint FILE", "does not exist"),
        (".venv/bin/python eval_tools/inspect_checkpoint.py virtex://moco/v9", "moco/v9"),
        ("torchrun --nproc-per-node 8 -m virtex.pretrain --confg X", "--confg"),
        ("for t in voc07_svm nothing; do python eval_tools/$t.py --checkpoint A; done", "nothing"),
        ("X=1 python benchmarks/svm.py --imges 3", "--imges"),
        ("make tset", "tset"),
    ],
)
def test_invalid_command_is_found(command, reason):
    with pytest.raises(InvalidCommand, match=re.escape(reason)):
        check_shell(command)


def test_table_of_backbones_is_that_of_the_registry():
    """To update it, paste what ``docs.site.tables.backbones_table`` returns."""
    from docs.site.tables import backbones_table

    assert backbones_table() in (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")


@every_page
def test_pages_have_no_conflict_markers(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if re.match(r"(<<<<<<<|>>>>>>>) ", line)]
