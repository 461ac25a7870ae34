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


@pytest.mark.parametrize(
    ("raw", "redacted"),
    [
        ("https://me:pa:ss@a.org/m.pth", "https://…@a.org/m.pth"),
        ("HTTP://me@a.org:81/m?token=x/y", "HTTP://…@a.org:81/m?token=…"),
        (
            "https://a.org/m?dl=1&X-Amz-Signature=a%2Fb#key",
            "https://a.org/m?dl=1&X-Amz-Signature=…#…",
        ),
        (
            "could not load 'https://a.org/m?secret': 404;",
            "could not load 'https://a.org/m?…': 404;",
        ),
        ('["https://u:p@a.org","s3://k:s@b/m?sig=1"]', '["https://…@a.org","s3://…@b/m?sig=…"]'),
        ("https://a.org/#download",) * 2,
        ("https://a.org/m.pth?dl=1, me@b.org", "https://a.org/m.pth?dl=1, me@b.org"),
        ("torchvision://resnet50?weights=V2 random:resnet50?seed=1",) * 2,
    ],
)
def test_redact(raw, redacted):
    assert text.redact(raw) == text.redact(redacted) == redacted


def test_truncate_and_join_first():
    assert (text.truncate("12345", 5), text.truncate("123456", 5)) == ("12345", "1234…")
    assert text.join_first(["a", "b"], 2) == "a, b"
    assert text.join_first(["a", "b", "c"], 2) == "a, b, …"


def test_short_repr_takes_any_value():
    assert len(text.short_repr(["x" * 10_000] * 100)) < 400
    assert "too large" in text.short_repr([10**6000])


def test_nearest_is_fast_for_long_names():
    assert text.nearest("cooc", ["voc", "coco"]) == "did you mean coco?"
    assert text.nearest("x" * 10**6, ["coco"])


@pytest.mark.parametrize("part", ["n", "://", "://;", "://a@", "://?a", "?=&", "://a:"])
def test_redact_is_linear(part):
    assert text.redact(part * 300_000)
