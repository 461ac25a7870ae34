"""Write images with their captions as one HTML page, readable offline and without scripts.

Cards are written one at a time to a temporary file: the position of a card is known only when all
are scored, and a set of images may be larger than memory.
"""

from __future__ import annotations

import base64
import io
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from virtex import pages
from virtex.files import replace_file

VISIBLE_REFERENCES = 2  # the others are opened by a click, so that cards have equal heights
DIGITS = 4  # after the point, of the numbers that are sorted
JPEG_QUALITY = 70


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its caption.

    Attributes:
        name: of its file, as shown.
        references: human captions; may be empty.
        scores: metric -> percent of this image alone, NaN where not defined; empty without
            references.
        thumbnail: content of a JPEG file.
        size: width and height of ``thumbnail`` in pixels.
    """

    name: str
    caption: str
    references: tuple[str, ...]
    scores: Mapping[str, float]
    thumbnail: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Card:
    """The byte range of a card's HTML, and its sort keys; ``scores`` by metric."""

    name: str
    scores: tuple[float | None, ...]
    references: int
    start: int
    length: int


def thumbnail(image: Tensor, longest: int = 320) -> tuple[bytes, tuple[int, int]]:
    """Return a small JPEG of ``image``, and its width and height; the image is never enlarged.

    Args:
        image: (3, height, width) uint8 RGB.
        longest: pixels of the longer side.
    """
    small = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return file.getvalue(), small.size


def write_page(
    path: Path,
    images: Iterable[CaptionedImage],
    metrics: Mapping[str, float],
    about: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]] = (),
    title: str = "Captions",
) -> None:
    """Replace ``path`` atomically by the page.

    Args:
        images: consumed one at a time; the disk needs temporary space for a second copy.
        metrics: scores of the whole set in percent; the first ranks and is shown on the cards.
            Empty without references: then images are sorted by name.
        about: labels and values, for the head of the page.
        skipped: names of images that could not be read, and why. It may be a list that grows
            while ``images`` are taken.

    Raises:
        OSError: the page cannot be written.
    """

    def write(file: BinaryIO) -> None:
        # an unnamed file, which is never left behind, on the same file system as the page
        with tempfile.TemporaryFile(dir=path.parent) as kept:
            cards = rank(list(write_cards(kept, images, tuple(metrics))))
            scores = [c.scores[0] for c in cards if c.scores and c.scores[0] is not None]
            parts = pages.generate(
                "captioning",
                title,
                {"metrics": tuple(metrics), "cards": card_data(cards)},
                cards=(read_card(kept, card) for card in cards),
                references=sum(card.references for card in cards),
                metrics={metric: finite(score) for metric, score in metrics.items()},
                about=about,
                skipped=skipped,
                range=bar_range(scores),
            )
            for part in parts:
                file.write(encode(part))

    replace_file(path, write)


def write_cards(
    file: BinaryIO, images: Iterable[CaptionedImage], metrics: Sequence[str]
) -> Iterator[Card]:
    template = pages.environment().get_template("captioning/card.html.j2")
    for image in images:
        scores = tuple(finite(image.scores.get(metric)) for metric in metrics)
        width, height = image.size
        count = len(image.references)
        text = template.render(
            name=image.name,
            caption=image.caption,
            jpeg=Markup(base64.b64encode(image.thumbnail).decode()),
            width=width,
            height=height,
            metric=metrics[0] if metrics and image.scores else None,
            score=scores[0] if scores else None,
            references=image.references,
            # a single line is not worth a click
            visible=count if count <= VISIBLE_REFERENCES + 1 else VISIBLE_REFERENCES,
        )
        content = encode(text)
        start = file.tell()
        file.write(content)
        yield Card(image.name, scores, count, start, len(content))


def read_card(file: BinaryIO, card: Card) -> Markup:
    file.seek(card.start)
    return Markup(file.read(card.length).decode())


def encode(text: str) -> bytes:
    """Return UTF-8; a file name may contain bytes that are not text (``os.fsdecode``)."""
    return text.encode("utf-8", "replace")


def finite(score: float | None) -> float | None:
    return round(float(score), DIGITS) if score is not None and math.isfinite(score) else None


def rank(cards: Sequence[Card]) -> list[Card]:
    """Sort by the first metric, the best first, cards without a score last, then by name."""

    def order(card: Card) -> tuple[Any, ...]:
        score = card.scores[0] if card.scores else None
        return score is None, -(score or 0), name_order(card.name)

    return sorted(cards, key=order)


def name_order(name: str) -> list[str | int]:
    """Return a sort key by which 9.jpg comes before 10.jpg."""
    # at most 18 digits: Python rejects very long integers
    parts = re.split("([0-9]{1,18})", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def bar_range(scores: Sequence[float]) -> tuple[float, float] | None:
    """Return the scores of the shortest and the longest bar; equal scores have full bars."""
    if not scores:
        return None
    worst, best = min(scores), max(scores)
    return (worst if worst < best else best - 1), best


def card_data(cards: Sequence[Card]) -> list[list[Any]]:
    """Return each card's position by name, and its scores, for the script."""
    by_name = sorted(range(len(cards)), key=lambda place: name_order(cards[place].name))
    position = {place: order for order, place in enumerate(by_name)}
    return [[position[place], *card.scores] for place, card in enumerate(cards)]
