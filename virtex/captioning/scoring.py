"""Score captions with pycocoevalcap and Java, as in published results, or in Python alone.

Without Java, captions are tokenized by ``ptb.py``, CIDEr, BLEU and ROUGE-L are computed by
``metrics.py``, and METEOR and SPICE are omitted.
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
from virtex.captioning import java, metrics, ptb
from virtex.captioning.metrics import Captions, References
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Id = TypeVar("Id", bound=Hashable)

SCORERS = ("auto", "java", "python")


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a set of captions.

    Attributes:
        metrics: in percent, of the whole set: CIDEr, BLEU-1 to BLEU-4, ROUGE-L and, if available,
            METEOR and SPICE, in this order. SPICE may be NaN.
        per_image: metric -> percent, (images,) in the order of the captions.
        notes: which metrics are omitted, and why.
        setup: versions of the scorer, the tokenizer and Java.
        timing: seconds of each part.
    """

    metrics: dict[str, float]
    per_image: dict[str, np.ndarray]
    notes: list[str]
    setup: dict[str, str]
    timing: dict[str, float]


def choose_scorer(scorer: str) -> Literal["java", "python"]:
    """Resolve the scorer before any image is captioned.

    Args:
        scorer: one of ``SCORERS``; "auto" selects "java" if it can run.

    Raises:
        UserError: "java" is requested and cannot run.
    """
    if scorer not in SCORERS:
        raise ValueError(f"expected a scorer of {', '.join(SCORERS)}, but got {scorer!r}")
    if scorer == "python":
        return "python"
    reason = java.missing_java()
    if reason is None:
        return "java"
    if scorer == "java":
        raise UserError(
            f"--scorer java needs Java and pycocoevalcap, but {reason}; or use --scorer python",
            code="captioning.no_java",
        )
    logger.warning("scoring captions without Java: %s", reason)
    return "python"


def score(
    captions: Mapping[Id, str], references: Mapping[Id, Sequence[str]], scorer: str = "auto"
) -> CaptionScores:
    """Score one caption per image against the references of the image.

    Args:
        captions, references: by image, not tokenized.
        scorer: see ``choose_scorer``.

    Raises:
        UserError: as ``choose_scorer``, a Java program fails, or no reference contains a word.
        ValueError: the images differ, are empty, or one has no reference.
    """
    if captions.keys() != references.keys():
        raise ValueError("expected captions and references of the same images")
    texts, expected_texts = list(captions.values()), [references[image] for image in captions]
    metrics.validate(texts, expected_texts)
    build = build_java_scorer if choose_scorer(scorer) == "java" else build_python_scorer
    tokenize, measures, setup, notes = build()
    values: dict[str, float] = {}
    per_image: dict[str, np.ndarray] = {}
    timing: dict[str, float] = {}
    start = time.perf_counter()
    found, expected = _tokenize(tokenize, texts, expected_texts)
    timing["tokenize_seconds"] = _log_seconds(start, "tokens")
    for measure in measures:
        start = time.perf_counter()
        corpus, images = measure.compute(found, expected)
        columns = 100 * np.reshape(images, (len(texts), len(measure.names))).T
        values |= zip(measure.names, (100 * np.atleast_1d(corpus)).tolist(), strict=True)
        per_image |= zip(measure.names, columns, strict=True)
        timing[f"{measure.part}_seconds"] = _log_seconds(start, " ".join(measure.names))
    undefined = int(np.isnan(per_image.get("SPICE", 0.0)).sum())
    if undefined:
        notes.append(f"SPICE is NaN because it is undefined for {undefined} of {len(texts)} images")
    return CaptionScores(values, per_image, notes, setup, timing)


def _tokenize(
    tokenize: Callable[[Sequence[str]], list[list[str]]],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> tuple[Captions, References]:
    """Tokenize both in one call, because a tokenizer may be slow to start."""
    tokens = iter(tokenize([*captions, *chain(*references)]))
    found = list(islice(tokens, len(captions)))
    expected = [list(islice(tokens, len(refs))) for refs in references]
    if not any(map(any, expected)):
        raise UserError(
            "the references must contain words to score captions against, but none does; check the "
            "annotations",
            code="captioning.empty_references",
        )
    return found, expected


def _log_seconds(start: float, part: str) -> float:
    seconds = time.perf_counter() - start
    logger.info("%-28s %7.2f s", part, seconds)
    return seconds


# ---- Scorers


class Measure(NamedTuple):
    """Metrics that are computed together.

    Attributes:
        part: name in the timings.
        compute: (tokenized captions, tokenized references) -> fractions of the corpus and of each
            image: a number and (images,), or (names,) and (images, names).
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
BLEU = tuple(f"BLEU-{words}" for words in range(1, metrics.MAX_N + 1))


def build_python_scorer() -> Scorer:
    reason = java.missing_java()
    because = f": {reason}" if reason else ""
    return Scorer(
        lambda captions: list(map(ptb.tokenize, captions)),
        [
            Measure(CIDER, "cider", metrics.cider),
            Measure(BLEU, "bleu", metrics.bleu),
            Measure(ROUGE_L, "rouge_l", metrics.rouge_l),
        ],
        {
            "scorer": f"virtex.captioning.metrics {virtex.__version__}",
            "tokenizer": f"virtex.captioning.ptb {virtex.__version__}",
        },
        [f"METEOR and SPICE are omitted because they need Java{because}"],
    )


def build_java_scorer() -> Scorer:
    measures = [
        Measure(CIDER, "cider", pycocoevalcap_cider),
        Measure(BLEU, "bleu", pycocoevalcap_bleu),
        Measure(ROUGE_L, "rouge_l", pycocoevalcap_rouge),
        Measure(METEOR, "meteor", java.meteor),
    ]
    notes = []
    reason = java.missing_spice()
    if reason:
        notes.append(f"SPICE is omitted: {reason}")
    else:
        measures.append(Measure(SPICE, "spice", java.spice))
    setup = {
        "scorer": f"pycocoevalcap {metadata.version('pycocoevalcap')}",
        "tokenizer": "PTBTokenizer of Stanford CoreNLP 3.4.1",
        "java": java.java_version(java.java_command(java.TOKENIZER_JAR)[0]),
    }
    return Scorer(java.tokenize, measures, setup, notes)


def pycocoevalcap_cider(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    from pycocoevalcap.cider.cider import Cider

    return Cider().compute_score(*_to_pycocoevalcap(captions, references))


def pycocoevalcap_bleu(captions: Captions, references: References) -> tuple[np.ndarray, np.ndarray]:
    from pycocoevalcap.bleu.bleu import Bleu

    given = _to_pycocoevalcap(captions, references)
    corpus, images = Bleu(metrics.MAX_N).compute_score(*given, verbose=0)
    return np.array(corpus), np.array(images).T


def pycocoevalcap_rouge(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    from pycocoevalcap.rouge.rouge import Rouge

    return Rouge().compute_score(*_to_pycocoevalcap(captions, references))


def _to_pycocoevalcap(
    captions: Captions, references: References
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and captions by the index of the image."""
    expected = {n: [" ".join(tokens) for tokens in refs] for n, refs in enumerate(references)}
    return expected, {n: [" ".join(tokens)] for n, tokens in enumerate(captions)}
