"""Text from files and users as part of a message: printable, on one line, cut to length."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

URL = re.compile(r"://[^\s\"<>]*[^\s\"<>:;,.)\]}']")  # without its scheme
USERINFO = re.compile(r"(?<=//)[^/?#]*@")
PARAMETER = re.compile(r"([?&#])(?:([^=&#]*)=)?([^&#]*)")
# Parameters of URLs that are not secret; any other may be a token or a signature.
PUBLIC = ("confirm", "dl", "download", "export", "id", "raw", "seed", "version", "weights")


def printable(text: str) -> str:
    """Replace what a terminal cannot show or would obey, except line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def redact(text: str) -> str:
    """Replace user names, passwords and parameters of URLs, which may be secret, with "…"."""

    def hide(parameter: re.Match[str]) -> str:
        mark, key, value = parameter.groups()
        if not value or (value if key is None else key) in PUBLIC:
            return parameter[0]
        return f"{mark}…" if key is None else f"{mark}{key}=…"

    return URL.sub(lambda url: PARAMETER.sub(hide, USERINFO.sub("…@", url[0])), text)


def escape(text: str, limit: int = 100) -> str:
    """Truncate to ``limit`` characters and escape what is not printable, line breaks included."""
    text = truncate(text, limit)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def truncate(text: str, limit: int) -> str:
    """Return at most ``limit`` characters, the last one an ellipsis if the text is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: object) -> str:
    """Replace every run of white space, line breaks included, with one space."""
    return " ".join(str(text).split())


def join_first(names: Sequence[str], count: int = 5) -> str:
    """Join the first ``count`` names with commas, followed by an ellipsis if there are more."""
    return ", ".join(names[:count]) + (", …" if names[count:] else "")


def short_repr(value: Any) -> str:
    """Return the ``repr`` of any value on one line, long or deep parts cut out."""
    try:
        return one_line(reprlib.repr(value))
    except ValueError:  # Python refuses to print integers of thousands of digits
        return f"{type(value).__name__} with a number too large to be shown"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: which of ``known`` is nearest to ``name``."""
    # difflib takes minutes for a name of a million characters
    near = difflib.get_close_matches(name[:100], sorted(known), n=1, cutoff=0.0)
    return f"did you mean {near[0]}?"


def is_encodable(text: str) -> bool:
    """Return whether the text can be written as UTF-8: JSON and YAML may hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
