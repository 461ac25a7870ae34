#!/usr/bin/env python3
"""Compare the time and results of caption scoring with pycocoevalcap.

Scores 5000 generated captions against 5 references each, the size of COCO val2017. Words follow
Zipf's law, with about ten words per sentence; each caption repeats parts of a reference. The
tokenizers, Java's and the one in Python, are timed separately.

examples:
  python benchmarks/caption_scores.py
  python benchmarks/caption_scores.py --images 500 --repeat 9
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from benchmarks.images import sentences, vocabulary
from virtex.captioning import java, metrics, ptb, scoring

REFERENCES = 5
KEPT = 0.7  # of a reference's words in the caption
SEED = 0
PAIRS = {
    "CIDEr": (metrics.cider, scoring.pycocoevalcap_cider),
    "BLEU": (metrics.bleu, scoring.pycocoevalcap_bleu),
    "ROUGE-L": (metrics.rouge_l, scoring.pycocoevalcap_rouge),
}


def changed(random: np.random.Generator, words: np.ndarray, sentence: list[str]) -> list[str]:
    """Replace some words of a sentence; the result shares n-grams with it."""
    kept = random.random(len(sentence)) < KEPT
    return np.where(kept, sentence, random.choice(words, len(sentence))).tolist()


def compare(
    name: str, ours: Callable, reference: Callable, beside: str, args: argparse.Namespace, data: Any
) -> tuple[measure.Row, Any, Any]:
    """Time two functions of ``data``; return the row and both results."""
    found: dict[Callable, Any] = {}

    def seconds(function: Callable) -> Callable[[], float]:
        def work() -> None:
            found[function] = function(*data)

        return measure.timed(work)

    row = measure.compare(name, seconds(ours), seconds(reference), beside, args)
    return row, found[ours], found[reference]


def compare_scores(captions: list, references: list, args: argparse.Namespace) -> list[measure.Row]:
    what, beside = f"of {len(captions)} images, {REFERENCES} references each", "pycocoevalcap"
    if lack := measure.not_installed("pycocoevalcap"):
        return [measure.show(measure.Row(f"scores {what}", "s", beside=beside, note=lack))]
    rows = []
    for name, functions in PAIRS.items():
        row, mine, theirs = compare(
            f"{name} {what}", *functions, beside, args, (captions, references)
        )
        apart = max(np.abs(np.subtract(a, b)).max() for a, b in zip(mine, theirs, strict=True))
        print(f"  largest difference {apart:.1e}")
        rows.append(row)
    return rows


def compare_tokenizers(captions: list[list[str]], args: argparse.Namespace) -> measure.Row:
    texts = [" ".join(words).capitalize() + "." for words in captions]
    name, beside = f"tokens of {len(texts)} captions", "Java's tokenizer"
    if lack := java.missing_java():
        return measure.show(measure.Row(name, "s", beside=beside, note=lack))
    row, mine, theirs = compare(name, tokens, java.tokenize, beside, args, (texts,))
    print(f"  of which {sum(a != b for a, b in zip(mine, theirs, strict=True))} differ")
    return row


def tokens(texts: list[str]) -> list:
    return list(map(ptb.tokenize, texts))


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__, repeat=5)
    parser.add_argument("--images", type=int, default=5000, help="default: 5000")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = measure.parse(build_parser(), argv, images=10)
    random = np.random.default_rng(SEED)
    words = vocabulary(random)
    drawn = iter(sentences(random, words, args.images * REFERENCES))
    references = [list(islice(drawn, REFERENCES)) for _ in range(args.images)]
    captions = [changed(random, words, own[0]) for own in references]
    rows = compare_scores(captions, references, args)
    rows.append(compare_tokenizers([*captions, *chain(*references)], args))
    measure.write_rows(rows, args)


if __name__ == "__main__":
    main()
