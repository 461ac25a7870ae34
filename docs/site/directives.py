"""Directives that put the generated tables into pages, and the badges of commands' needs."""

import re
from collections.abc import Callable

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs.site import tables

NEEDS = re.compile(r"\s*<!-- needs: (.+) -->\s*")
SEVERAL_NAMES = re.compile(r"^:(ivar|param) ((?:\w+, )+\w+):")
NOT_FOR_READERS = re.compile(r"\s*<!-- (files|errors).* -->\s*")

GENERATED: dict[str, Callable[..., str]] = {
    "formats-table": tables.formats_table,
    "zoo-table": tables.zoo_table,
    "protocols-table": tables.protocols_table,
    "detection-settings": tables.detection_settings,
    "pretraining-table": tables.pretraining_table,
    "published-table": tables.published_table,
    "layout": tables.layout_list,
    "tool-help": tables.tool_help,
}


class Generated(SphinxDirective):
    """Markdown that a function of ``tables`` gives for the directive's arguments."""

    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # what it is made from is no page, whose changes Sphinx would see
        text = GENERATED[self.name](*self.arguments)
        return [nodes.container("", *self.parse_text_to_nodes(text), classes=["generated"])]


def in_words(needs: str) -> str:
    """``full data, minutes`` -> ``needs full data; takes minutes``."""
    parts = [part.strip() for part in needs.split(",")]
    said = ["needs " + " and ".join(part for part in parts if part != "minutes")]
    return "; ".join(said * (parts != ["minutes"]) + ["takes minutes"] * ("minutes" in parts))


def show_needs(app: Sphinx, doctree: nodes.document) -> None:
    """``<!-- needs: … -->`` before a block becomes a line that readers see."""
    for node in list(doctree.findall(nodes.raw)):
        if match := NEEDS.fullmatch(node.astext()):
            node.replace_self(nodes.paragraph("", in_words(match[1]), classes=["needs"]))
        elif NOT_FOR_READERS.fullmatch(node.astext()):
            node.parent.remove(node)


def adapt_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Docstrings as Sphinx understands them.

    A tool's is what its ``--help`` prints, and its lines stay as they are. Of names that share a
    description, as in ``mean, std: …``, the first would be taken for the type of the last.
    """
    if what == "module" and hasattr(obj, "build_parser"):
        lines[:] = ["::", "", *("    " + line if line else "" for line in lines), ""]
    for number, line in enumerate(lines):
        lines[number] = SEVERAL_NAMES.sub(lambda m: f":{m[1]} {m[2].replace(' ', '')}:", line)


def skip_tuple_fields(app: Sphinx, what: str, name: str, obj: object, *rest: object) -> bool | None:
    """Python writes a docstring for each field of a named tuple; its class's says what it is."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    for name in GENERATED:
        app.add_directive(name, Generated)
    app.connect("doctree-read", show_needs)
    app.connect("autodoc-process-docstring", adapt_docstring)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
