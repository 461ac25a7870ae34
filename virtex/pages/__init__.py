"""HTML pages that are one file each and need no network: shared look, escaping, content policy.

A page is ``page.html.j2`` of its package, which extends ``frame.html.j2``, with ``page.css`` and
``page.js`` beside it. The frame's policy lets nothing but that script run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# In JSON inside a script element: what could end it, and what JavaScript takes for line ends.
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


UNDEFINED = "\N{EN DASH}"


@functools.cache
def environment() -> Environment:
    """Return the environment of all templates; ``number`` formats a score or None."""
    made = Environment(
        loader=PackageLoader("virtex", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["number"] = lambda value: UNDEFINED if value is None else f"{value:.2f}"
    return made


def generate(package: str, title: str, data: Any, **values: Any) -> Iterator[str]:
    """Yield the page of ``virtex.PACKAGE`` piece by piece.

    Args:
        data: JSON types; for the template, and for the script in the element ``data``.
    """
    script = read(package, "page.js")
    digest = hashlib.sha256(script.encode()).digest()
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)
    return (
        environment()
        .get_template(f"{package}/page.html.j2")
        .generate(
            title=title,
            data=data,
            json=Markup(text),
            style=Markup(read("pages", "base.css") + read(package, "page.css")),
            script=Markup(script),
            script_hash=f"sha256-{base64.b64encode(digest).decode()}",
            **values,
        )
    )


def render(package: str, title: str, data: Any, **values: Any) -> str:
    """Return the whole page of ``virtex.PACKAGE``; see ``generate``."""
    return "".join(generate(package, title, data, **values))


def read(package: str, name: str) -> str:
    return (files("virtex") / package / name).read_text(encoding="utf-8")
