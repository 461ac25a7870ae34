"""Pages of documentation, and the blocks in them.

A fence names its language. A block that is not run as it stands says why in the line before it,
``<!-- needs: full data, GPUs -->``; a listing of files says of which folder they are,
``<!-- files: DIR -->``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

markdown_it = pytest.importorskip("markdown_it", reason="needs myst-parser: pip install '.[docs]'")

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if path.is_file()
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
REASONS = ("full data", "GPUs", "network", "minutes")
LANGUAGES = ("bash", "python", "yaml", "json", "text")
MARK = re.compile(r"\s*<!-- (\w+): (.+?) -->\s*")
DIRECTIVE = re.compile(r"\{[\w-]+\}")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        where: page and line, as editors take it.
        language: what its fence says; "" if nothing.
        marks: of the comment right before it: kind -> text.
    """

    where: str
    language: str
    text: str
    marks: dict[str, str]

    @property
    def needs(self) -> list[str]:
        """Why it is not run; empty if it is."""
        return [part.strip() for part in self.marks.get("needs", "").split(",") if part.strip()]

    @property
    def is_directive(self) -> bool:
        return DIRECTIVE.match(self.language) is not None


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises:
        ValueError: a comment that looks like a mark stands before no block, or a block of code
            is indented and so has no language.
    """
    name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
    blocks, marks, marked_at = [], {}, 0
    for token in markdown_it.MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.nesting == -1 or token.map is None:
            continue
        line = token.map[0] + 1
        if token.type == "code_block":
            raise ValueError(f"{name}:{line}: an indented block; give it a fence and a language")
        if marks and token.type != "fence":
            raise ValueError(f"{name}:{marked_at}: a mark before no block")
        if token.type == "html_block" and (match := MARK.fullmatch(token.content)):
            marks, marked_at = {match[1]: match[2]}, line
        elif token.type == "fence":
            language = (token.info.split() or [""])[0]
            blocks.append(Block(f"{name}:{line}", language, token.content, marks))
            marks = {}
    if marks:
        raise ValueError(f"{name}:{marked_at}: a mark before no block")
    return blocks


def blocks_in(page: Path, language: str) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == language]
