"""What the pages share that are one file each and need no network: looks, and safety.

``frame.html`` is what is around a page, with a policy that lets nothing but its own script run;
``base.css`` holds colors, type and form controls, and a page's own style follows it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

# in JSON inside of a script element: what could end it, and what JavaScript takes for line ends
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page_text(package: str) -> str:
    """A page with placeholders ($title, …): ``page.html`` in ``package``, in the frame of all."""
    return part(__name__, "frame.html").replace("$body", part(package, "page.html")) + "\n"


def page_values(package: str, title: str, data: Any) -> dict[str, str]:
    """What the frame's placeholders stand for.

    Args:
        package: holds ``page.css`` and ``page.js``.
        data: what the script reads from the element ``data`` (JSON types).
    """
    script = part(package, "page.js")
    return {
        "title": escape(title),
        "style": f"{part(__name__, 'base.css')}\n{part(package, 'page.css')}",
        "script": script,
        "script_hash": content_hash(script),
        "data": script_data(data),
    }


def part(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8").rstrip("\n")


def content_hash(script: str) -> str:
    """What a page's policy allows to run: this script and no other.

    The script element holds the text between its tags, where HTML keeps line ends.
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def script_data(data: Any) -> str:
    """JSON that can stand in a script element, whatever is in it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)
