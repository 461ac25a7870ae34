"""Pictures with their captions as one HTML page that needs no network, and no script to be read.

``page.html``, ``page.css`` and ``page.js`` beside this file are put into one. A card is written
once, before it is known where it stands: cards wait in a file, and only what ranks them is kept.
"""

from __future__ import annotations

import base64
import io
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from virtex import pages
from virtex.files import replace_file

REFERENCES_AT_ONCE = 2  # more are opened by a click, so that cards are of one height
DIGITS = 4  # after the point, of the numbers that are sorted
UNDEFINED = "\N{EN DASH}"
JPEG_QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """A picture and what was said of it.

    Attributes:
        name: its file's, as shown.
        references: what people said; none where nobody did.
        scores: metric -> percent of this picture alone, NaN where it is not defined; none
            without references.
        thumbnail: a JPEG file.
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
    """Where a card's HTML is kept, in bytes, and what ranks it; ``scores`` as the metrics are."""

    name: str
    scores: tuple[float | None, ...]
    references: int
    start: int
    length: int


def thumbnail(image: Tensor, longest: int = 320) -> tuple[bytes, tuple[int, int]]:
    """A small JPEG of ``image``, and its width and height; never larger than the image is.

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
    pictures: Iterable[Picture],
    metrics: Mapping[str, float],
    about: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]] = (),
    title: str = "Captions",
) -> None:
    """Put the page in the place of ``path``, whole or not at all.

    Args:
        pictures: are taken one at a time and not kept; the disk has to hold them twice meanwhile.
        metrics: scores of the whole set in percent; the first ranks and is shown on the cards.
            None of them: there were no references, and names give the order.
        about: labels and values, for the head of the page.
        skipped: names of pictures that could not be read, and why. It may be a list that grows
            while ``pictures`` are taken.

    Raises:
        OSError: it cannot be written.
    """

    def write(file: BinaryIO) -> None:
        # beside the page, where there is room for it; it has no name that could be left behind
        with tempfile.TemporaryFile(dir=path.parent) as kept:
            cards = ranked([keep(kept, picture, tuple(metrics)) for picture in pictures])
            head, tail = frame(cards, metrics, about, skipped, title)
            file.write(head)
            for card in cards:
                kept.seek(card.start)
                file.write(kept.read(card.length))
            file.write(tail)

    replace_file(path, write)


def keep(file: BinaryIO, picture: Picture, metrics: Sequence[str]) -> Card:
    scores = tuple(finite(picture.scores.get(metric)) for metric in metrics)
    content = encode(card_html(picture, metrics[:1], scores) + "\n")
    start = file.tell()
    file.write(content)
    return Card(picture.name, scores, len(picture.references), start, len(content))


def encode(text: str) -> bytes:
    """UTF-8; a file name may hold what is no character (``os.fsdecode``)."""
    return text.encode("utf-8", "replace")


def finite(score: float | None) -> float | None:
    return round(float(score), DIGITS) if score is not None and math.isfinite(score) else None


def number(score: float | None) -> str:
    return UNDEFINED if score is None else f"{score:.2f}"


# ---- order


def ranked(cards: Sequence[Card]) -> list[Card]:
    """The best by the first metric first, those without a score last, equal ones by name."""

    def rank(card: Card) -> tuple[Any, ...]:
        score = card.scores[0] if card.scores else None
        return score is None, -(score or 0), name_order(card.name)

    return sorted(cards, key=rank)


def name_order(name: str) -> list[str | int]:
    """Numbers in names count as numbers: 9.jpg comes before 10.jpg."""
    # 18 digits at most: Python refuses to read endless ones
    parts = re.split("([0-9]{1,18})", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


# ---- the page around the cards


def frame(
    cards: Sequence[Card],
    metrics: Mapping[str, float],
    about: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]],
    title: str,
) -> tuple[bytes, bytes]:
    """What comes before the cards, and after them."""
    parts = pages.page_values(__package__, title, data(cards, tuple(metrics))) | {
        "counts": counts(cards),
        "figures": figures_html(metrics),
        "about": list_html("about", "About these captions", about),
        "skipped": list_html("skipped", f"Could not be read: {len(skipped)}", skipped),
        "range": range_style([card.scores[0] for card in cards if card.scores]),
        "empty": "" if cards else "<p>There are no pictures.</p>",
        "unscored": "" if metrics else " hidden",
    }
    head, tail = pages.page_text(__package__).split("$cards\n")
    return encode(Template(head).substitute(parts)), encode(Template(tail).substitute(parts))


def counts(cards: Sequence[Card]) -> str:
    references = sum(card.references for card in cards)
    parts = [f"{len(cards)} picture{'s' * (len(cards) != 1)}"]
    if references:
        parts.append(f"{references} reference{'s' * (references != 1)}")
    return ", ".join(parts)


def range_style(scores: Iterable[float | None]) -> str:
    """Between which scores the bars are, for the style sheet, which computes how long they are."""
    there = [score for score in scores if score is not None]
    if not there:
        return ""
    worst, best = min(there), max(there)
    # of equal scores all are the best
    return f' style="--worst: {worst if worst < best else best - 1}; --best: {best};"'


def data(cards: Sequence[Card], metrics: Sequence[str]) -> dict[str, Any]:
    """What the script knows of the cards: which is which by name, and their scores."""
    by_name = sorted(range(len(cards)), key=lambda place: name_order(cards[place].name))
    place_of = {place: order for order, place in enumerate(by_name)}
    rows = [[place_of[place], *card.scores] for place, card in enumerate(cards)]
    return {"metrics": metrics, "cards": rows}


def figures_html(metrics: Mapping[str, float]) -> str:
    figures = "".join(
        f"<div><dt>{escape(metric)}</dt><dd>{number(finite(score))}</dd></div>"
        for metric, score in metrics.items()
    )
    return f'<dl class="figures" aria-label="Scores of the whole set">{figures}</dl>' * bool(
        metrics
    )


def list_html(name: str, summary: str, pairs: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<div><dt dir="auto">{escape(label)}</dt><dd dir="auto">{escape(value)}</dd></div>'
        for label, value in pairs
    )
    start = f'<details class="pairs" id="{name}"><summary>{summary}</summary>'
    return f"{start}<dl>{items}</dl></details>" * bool(pairs)


# ---- cards


def card_html(picture: Picture, metrics: Sequence[str], scores: Sequence[float | None]) -> str:
    """A card; of ``metrics`` it shows the first, where there is one and the picture was scored."""
    image = base64.b64encode(picture.thumbnail).decode()
    width, height = picture.size
    caption = escape(picture.caption)
    shown = metrics and picture.scores
    return (
        '<li class="card"><button type="button" class="picture" aria-haspopup="dialog" disabled>'
        f'<img src="data:image/jpeg;base64,{image}" width="{width}" height="{height}" '
        f'loading="lazy" decoding="async" alt="{caption}"></button>'
        f'<p class="caption" dir="auto">{caption}</p>'
        f"{score_html(metrics[0], scores[0]) if shown else ''}"
        f"{references_html(picture.references)}"
        f'<p class="name"><bdi>{escape(picture.name)}</bdi></p></li>'
    )


def score_html(metric: str, score: float | None) -> str:
    style = "" if score is None else f' style="--score: {score};"'
    return f'<p class="score"{style}><span>{escape(metric)}</span> <b>{number(score)}</b></p>'


def references_html(references: Sequence[str]) -> str:
    items = [f'<li dir="auto">{escape(reference)}</li>' for reference in references]
    # a click is not worth one more line
    first = items if len(items) <= REFERENCES_AT_ONCE + 1 else items[:REFERENCES_AT_ONCE]
    more = items[len(first) :]
    rest = (
        f"<details><summary>{len(more)} more references</summary><ul>{''.join(more)}</ul></details>"
    )
    lists = f"<ul>{''.join(first)}</ul>{rest * bool(more)}"
    return f'<div class="references">{lists}</div>' * bool(items)
