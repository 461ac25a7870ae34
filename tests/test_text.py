"""Text in messages."""

import pytest

from virtex import text


def test_printable_keeps_line_breaks_only():
    assert text.printable("a\x1b[2Jb\nc\ud800") == "a�[2Jb\nc�"


@pytest.mark.parametrize(
    ("raw", "escaped"), [("naïve", "naïve"), ("a\nb", "a\\nb"), ("\ud800", "\\ud800")]
)
def test_escape(raw, escaped):
    assert text.escape(raw) == escaped
    assert len(text.escape("x" * 1000, 20)) == 20


def test_truncate_and_join_first():
    assert (text.truncate("12345", 5), text.truncate("123456", 5)) == ("12345", "1234…")
    assert text.join_first(["a", "b"], 2) == "a, b"
    assert text.join_first(["a", "b", "c"], 2) == "a, b, …"


def test_short_repr_takes_any_value():
    assert len(text.short_repr(["x" * 10_000] * 100)) < 400
    assert "too large" in text.short_repr([10**6000])


def test_nearest_is_fast_for_long_names():
    assert text.nearest("cooc", ["voc", "coco"]) == "the nearest is coco"
    assert text.nearest("x" * 10**6, ["coco"])
