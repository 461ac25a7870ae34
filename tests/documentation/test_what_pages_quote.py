"""What pages quote of the program: its messages, its files, its tests."""

import ast
import re
from functools import cache

import pytest

from tests.documentation.markdown_pages import NAMES, PAGES, ROOT

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)
HOLE = "…"
ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
TABLE = re.compile(r"^\| message \|.*\n(?:\|.*\n?)+", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:virtex|tests|benchmarks|eval_tools)/[\w/]+\.(?:py|yaml|csv))`")


@cache
def messages():
    """Every text in the package's code; what is filled in at run time is a hole."""
    found = []
    for path in sorted((ROOT / "virtex").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if text := text_of(node):
                found.append(" ".join(text.split()))
    return found


def text_of(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or HOLE for part in node.values)
    if isinstance(node, ast.BinOp):
        return (text_of(node.left) or HOLE) + (text_of(node.right) or HOLE)
    return ""


def is_said(quoted):
    """Whether the parts of a quotation stand in one of the messages, in their order."""
    parts = [part.strip() for part in quoted.split(HOLE) if part.strip(" ;:(),")]
    pattern = re.compile(".*".join(map(re.escape, parts)))
    return bool(parts) and any(pattern.search(message) for message in messages())


def quotations(page):
    tables = TABLE.findall(page.read_text(encoding="utf-8"))
    return [quoted for table in tables for quoted in ROW.findall(table)]


@every_page
def test_quoted_messages_are_said(page):
    assert [quoted for quoted in quotations(page) if not is_said(quoted)] == []


def test_messages_are_quoted_on_the_pages():
    assert sum(len(quotations(page)) for page in PAGES) > 50


def test_a_message_that_nothing_says_is_caught():
    assert is_said("the data root … lacks what task … needs")
    assert not is_said("the data root … lacks what task … wants")
    assert not is_said("… …")


@every_page
def test_tests_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for file, test in TEST.findall(text):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
    assert [file for file in FILE.findall(text) if not (ROOT / file).is_file()] == []
