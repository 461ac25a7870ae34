"""Images for pages of captions: small, of one color, with any caption and scores."""

import torch

from virtex.captioning.page import CaptionedImage, thumbnail

NAN = float("nan")
# markup, quotes, what ends scripts and lines, other scripts, templates
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><b>bold",
    "<!--",
    "a & b &amp; c",
    '" onerror="alert(1)" x="',
    "' onclick='alert(1)",
    "line\u2028and\u2029line",
    "\u0645\u0631\u062d\u0628\u0627 \u202e backwards",
    "w" * 400,
    "\U0001f415 on a \U0001f6f9",
    "{{ cards }} {% block %} %s {}",
]


def image(color=(200, 40, 40), width=64, height=48):
    """(3, height, width) uint8 RGB."""
    return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, height, width)


SMALL = thumbnail(image())


def captioned(name="a.jpg", caption="a dog", references=(), scores=None, drawn=SMALL):
    content, size = drawn
    return CaptionedImage(name, caption, tuple(references), scores or {}, content, size)
