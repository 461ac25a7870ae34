"""What the pages share that are one file each and need no network: looks, and safety.

``base.css`` holds colours, type and form controls; a page's own style follows it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

# in JSON inside of a script element: what could end it, and what JavaScript takes for line ends
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page_part(package: str, name: str) -> str:
    """A file beside a page's module."""
    return (files(package) / name).read_text(encoding="utf-8").rstrip("\n")


def page_style(package: str) -> str:
    """The style of the page whose ``page.css`` is in ``package``."""
    return f"{page_part(__name__, 'base.css')}\n{page_part(package, 'page.css')}"


def content_hash(script: str) -> str:
    """What a page's policy allows to run: this script and no other.

    The script element holds the text between its tags, where HTML keeps line ends.
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def script_data(data: Any) -> str:
    """JSON that can stand in a script element, whatever is in it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)
