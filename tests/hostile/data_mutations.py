"""Files that lie: real content, changed in a few places, and then perhaps broken as bytes."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
THOUSANDS_OF_DIGITS = "\x01digits\x01"  # Python itself refuses to write such a number

# What stands where something else is expected.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.0, -0.5, 1.0, 1e-308, 1e308, float("nan"), float("inf")),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**70, -(2**70), 10**400, THOUSANDS_OF_DIGITS),
    *("", "0", "1", "x", " ", "x" * 10_000, "\0", "a\0b.jpg", "\r\n", "\x1b[31mred", "\u202e"),
    *("..", "../../../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "~/x", "file:///etc/passwd"),
    *("\ud800", "\udc80.jpg", "na\u00efve.jpg", "{0}", "%s%n", "$(id)", "`id`", "'; rm -r x"),
    *("=cmd|' /C calc'!A0", "+1", "@SUM(1)", "<script>alert(1)</script>", "</script>", "a|b](c)"),
    *([], [[]], [None], [0], ["x"], [1, 2, 3, 4], [[1, 2]], [[1, 2, 3, 4, 5, "x"]], [DEEP], DEEP),
    *({}, {"": None}, {"id": 1}, {"size": [1, 1], "counts": [1]}, {"size": [2, 2], "counts": "04"}),
]


def places(content: Any, above: tuple = ()) -> list[tuple]:
    """The keys that lead to every part."""
    found = [above]
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, inner in items:
        found += places(inner, (*above, key))
    return found


def put(content: Any, place: tuple, change: Any) -> Any:
    """``content`` with one part changed by ``change(holder, key)``."""
    top = [content]
    holder, key = top, 0
    for step in place:
        holder, key = holder[key], step
    change(holder, key)
    return top[0] if top else None


def delete(holder: Any, key: Any) -> None:
    del holder[key]


def twice(holder: Any, key: Any) -> None:
    """An item of a list stands there again; a key has a twin."""
    if isinstance(holder, list):
        holder.insert(0, copy.deepcopy(holder[key]))
    else:
        holder[f"{key} "] = copy.deepcopy(holder[key])


def as_text(holder: Any, key: Any) -> None:
    holder[key] = str(holder[key])


def as_float(holder: Any, key: Any) -> None:
    if isinstance(holder[key], int) and abs(holder[key]) < 2**100:
        holder[key] = float(holder[key])


def negated(holder: Any, key: Any) -> None:
    if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = -holder[key]


def emptied(holder: Any, key: Any) -> None:
    holder[key] = type(holder[key])() if isinstance(holder[key], list | dict | str) else 0


def wrapped(holder: Any, key: Any) -> None:
    holder[key] = [holder[key]]


STRUCTURE = (delete, twice, as_text, as_float, negated, emptied, wrapped)


@st.composite
def mutated(draw: st.DrawFn, original: Any, values: tuple = (), most: int = 3) -> Any:
    """``original`` with one to ``most`` parts changed; the original stays as it is.

    Args:
        values: further ones to put anywhere.
    """
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, most))):
        there = places(content)
        place = there[draw(st.integers(0, len(there) - 1))]
        if draw(st.booleans()):
            value = copy.deepcopy(draw(st.sampled_from([*VALUES, *values])))
            content = put(
                content, place, lambda holder, key, value=value: replace(holder, key, value)
            )
        else:
            content = put(content, place, draw(st.sampled_from(STRUCTURE)))
    return content


def replace(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value


def as_json(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=True)
    return text.replace(json.dumps(THOUSANDS_OF_DIGITS), "9" * 5000)


@st.composite
def file_of(draw: st.DrawFn, original: Any, values: tuple = (), most: int = 3) -> bytes:
    """A mutated JSON file; one of eight is broken as bytes too."""
    text = as_json(draw(mutated(original, values, most)))
    return draw(broken(text)) if draw(st.integers(0, 7)) == 0 else text.encode()


@st.composite
def broken(draw: st.DrawFn, text: str) -> bytes:
    """Text as bytes that are cut, encoded otherwise, or changed in one place."""
    kind = draw(st.integers(0, 5))
    if kind < 2:
        return text.encode(("utf-16", "utf-8-sig")[kind])
    data = text.encode("utf-8", "surrogatepass")
    if not data:
        return b"\xff"
    at = draw(st.integers(0, len(data) - 1))
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at + 1 :]
    if kind == 4:
        return data[:at] + b'{"id": 1, "id": 2, "images": []},' + data[at:]
    return data[:at] + b"[" * 3000 + data[at:]
