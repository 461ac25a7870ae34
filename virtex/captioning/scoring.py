"""Scores of captions: by pycocoevalcap and Java, as papers have them, or by Python alone.

Without Java the tokens are those of ``ptb.py``; CIDEr, BLEU and ROUGE-L are those of
``scores.py``; METEOR and SPICE are left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np

import virtex
from virtex.captioning import java, scores
from virtex.captioning.java_process import java_version
from virtex.captioning.scores import Captions, References
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Id = TypeVar("Id", bound=Hashable)

SCORERS = ("auto", "java", "python")


@dataclass(frozen=True)
class CaptionScores:
    """What captions are worth.

    Attributes:
        metrics: name -> percent, of all captions: CIDEr, BLEU-1 to BLEU-4, ROUGE-L and, where they
            can be had, METEOR and SPICE, in this order. SPICE may be NaN.
        per_image: the same -> percent, (images,) in the order of the captions.
        notes: what is left out, and why.
        setup: the scorer, the tokenizer and Java, with their versions.
        timing: seconds of each part.
    """

    metrics: dict[str, float]
    per_image: dict[str, np.ndarray]
    notes: list[str]
    setup: dict[str, str]
    timing: dict[str, float]


def choose_scorer(scorer: str) -> Literal["java", "python"]:
    """What ``score`` will score with, to be known before anything is captioned.

    Args:
        scorer: one of ``SCORERS``; "auto" is "java" where that can run.

    Raises:
        UserError: "java" is asked for and cannot run.
    """
    if scorer not in SCORERS:
        raise ValueError(f"scorer {scorer!r} is none of {', '.join(SCORERS)}")
    if scorer == "python":
        return "python"
    reason = java.java_missing()
    if reason is None:
        return "java"
    if scorer == "java":
        raise UserError(f"captions cannot be scored with Java: {reason}")
    logger.warning("captions will be scored without Java: %s", reason)
    return "python"


def score(
    captions: Mapping[Id, str], references: Mapping[Id, Sequence[str]], scorer: str = "auto"
) -> CaptionScores:
    """Score one caption an image against the image's references.

    Args:
        captions, references: by image, as they were written.
        scorer: as for ``choose_scorer``.

    Raises:
        UserError: as ``choose_scorer``, or a Java program fails, or no reference has a word.
        ValueError: there is no image, or the two are of different ones, or one has no reference.
    """
    if captions.keys() != references.keys():
        raise ValueError("captions and references are of different images")
    texts, own = list(captions.values()), [references[image] for image in captions]
    scores.check(texts, own)
    chosen = choose_scorer(scorer)
    tokenize, measures, setup, notes = (with_java if chosen == "java" else in_python)()
    metrics: dict[str, float] = {}
    per_image: dict[str, np.ndarray] = {}
    timing: dict[str, float] = {}
    start = time.perf_counter()
    found, expected = tokenized(tokenize, texts, own)
    timing["tokenize_seconds"] = seconds_since(start, "tokens")
    for measure in measures:
        start = time.perf_counter()
        of_all, of_images = measure.compute(found, expected)
        columns = 100 * np.reshape(of_images, (len(texts), len(measure.names))).T
        metrics |= zip(measure.names, (100 * np.atleast_1d(of_all)).tolist(), strict=True)
        per_image |= zip(measure.names, columns, strict=True)
        timing[f"{measure.part}_seconds"] = seconds_since(start, " ".join(measure.names))
    undefined = int(np.isnan(per_image.get("SPICE", 0.0)).sum())
    if undefined:
        notes.append(f"SPICE has no mean, as {undefined} of {len(texts)} images have no SPICE")
    return CaptionScores(metrics, per_image, notes, setup, timing)


def tokenized(
    tokenize: Callable[[Sequence[str]], list[list[str]]],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> tuple[Captions, References]:
    """Tokens of both, all made at once, as a tokenizer may take long to start."""
    tokens = iter(tokenize([*captions, *chain(*references)]))
    found = list(islice(tokens, len(captions)))
    expected = [list(islice(tokens, len(own))) for own in references]
    if not any(map(any, expected)):
        raise UserError("no reference has a word to score captions against; see the annotations")
    return found, expected


def seconds_since(start: float, part: str) -> float:
    seconds = time.perf_counter() - start
    logger.info("%-28s %7.2f s", part, seconds)
    return seconds


# ---- what scores


class Measure(NamedTuple):
    """Metrics that are computed together.

    Attributes:
        part: their name in timings.
        compute: (tokenized captions, tokenized references of each) -> fractions of all captions
            and of each image: a number and (images,), or (names,) and (images, names).
    """

    names: tuple[str, ...]
    part: str
    compute: Callable[[Captions, References], tuple[float | np.ndarray, np.ndarray]]


class Scorer(NamedTuple):
    """See ``CaptionScores`` for setup and notes."""

    tokenize: Callable[[Sequence[str]], list[list[str]]]
    measures: list[Measure]
    setup: dict[str, str]
    notes: list[str]


CIDER, ROUGE_L, METEOR, SPICE = ("CIDEr",), ("ROUGE-L",), ("METEOR",), ("SPICE",)
BLEU = tuple(f"BLEU-{words}" for words in range(1, scores.LONGEST + 1))


def in_python() -> Scorer:
    from virtex.captioning.ptb import tokenize

    reason = java.java_missing()
    lack = f", which cannot run here: {reason}" if reason else ""
    return Scorer(
        lambda captions: list(map(tokenize, captions)),
        [
            Measure(CIDER, "cider", scores.cider),
            Measure(BLEU, "bleu", scores.bleu),
            Measure(ROUGE_L, "rouge_l", scores.rouge_l),
        ],
        {
            "scorer": f"virtex.captioning.scores {virtex.__version__}",
            "tokenizer": f"virtex.captioning.ptb {virtex.__version__}",
        },
        [f"METEOR and SPICE are left out: they need Java{lack}"],
    )


def with_java() -> Scorer:
    measures = [
        Measure(CIDER, "cider", pycocoevalcap_cider),
        Measure(BLEU, "bleu", pycocoevalcap_bleu),
        Measure(ROUGE_L, "rouge_l", pycocoevalcap_rouge),
        Measure(METEOR, "meteor", java.meteor),
    ]
    notes = []
    lack = java.spice_missing()
    if lack:
        notes.append(f"SPICE is left out: {lack}")
    else:
        measures.append(Measure(SPICE, "spice", java.spice))
    setup = {
        "scorer": f"pycocoevalcap {metadata.version('pycocoevalcap')}",
        "tokenizer": "PTBTokenizer of Stanford CoreNLP 3.4.1",
        "java": java_version(java.java_command(java.TOKENIZER)[0]),
    }
    return Scorer(java.tokenize, measures, setup, notes)


def pycocoevalcap_cider(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    from pycocoevalcap.cider.cider import Cider

    return Cider().compute_score(*as_pycocoevalcap_takes(captions, references))


def pycocoevalcap_bleu(captions: Captions, references: References) -> tuple[np.ndarray, np.ndarray]:
    from pycocoevalcap.bleu.bleu import Bleu

    known = as_pycocoevalcap_takes(captions, references)
    of_all, of_images = Bleu(scores.LONGEST).compute_score(*known, verbose=0)  # prints nothing
    return np.array(of_all), np.array(of_images).T


def pycocoevalcap_rouge(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    from pycocoevalcap.rouge.rouge import Rouge

    return Rouge().compute_score(*as_pycocoevalcap_takes(captions, references))


def as_pycocoevalcap_takes(
    captions: Captions, references: References
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References, then captions, by the image's number."""
    expected = {n: [" ".join(tokens) for tokens in own] for n, own in enumerate(references)}
    return expected, {n: [" ".join(tokens)] for n, tokens in enumerate(captions)}
