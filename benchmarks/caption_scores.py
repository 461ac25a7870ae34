#!/usr/bin/env python3
"""Seconds of caption scores beside pycocoevalcap's, how often faster, and the largest difference.

Scores 5000 captions against 5 references each, as many as COCO's val2017 has: sentences of some
ten words that are drawn from a vocabulary by Zipf's law, and captions that repeat parts of one.
Both are timed in turns. Then come the tokenizers: Java's, which pycocoevalcap uses, and ours in
Python. Needs pycocoevalcap, and for the tokenizers Java.

examples:
  python benchmarks/caption_scores.py
  python benchmarks/caption_scores.py --images 500 --repeats 9
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from virtex.captioning import java, ptb, scores, scoring

REFERENCES = 5
VOCABULARY = 10_000
WORDS, SPREAD = 10.5, 2.4  # of a caption of COCO
KEPT = 0.7  # of a reference's words in the caption
SEED = 0
PAIRS = {
    "CIDEr": (scores.cider, scoring.pycocoevalcap_cider),
    "BLEU": (scores.bleu, scoring.pycocoevalcap_bleu),
    "ROUGE-L": (scores.rouge_l, scoring.pycocoevalcap_rouge),
}


def vocabulary(random: np.random.Generator) -> np.ndarray:
    """Different words of 1 to 5 syllables, the most frequent ones first and short."""
    syllables = np.array([a + b for a in "bcdfglmnprst" for b in "aeiou"])
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        longest = 1 + min(len(words).bit_length() // 3, 4)
        words["".join(random.choice(syllables, random.integers(1, longest + 1)))] = None
    return np.array(list(words))


def sentences(random: np.random.Generator, words: np.ndarray, count: int) -> list[list[str]]:
    """Tokenised sentences; the n-th word is drawn in proportion to 1 / n."""
    frequency = 1 / np.arange(1, len(words) + 1)
    lengths = random.normal(WORDS, SPREAD, count).round().clip(3, 40).astype(int)
    drawn = random.choice(words, lengths.sum(), p=frequency / frequency.sum())
    return [part.tolist() for part in np.split(drawn, lengths.cumsum()[:-1])]


def changed(random: np.random.Generator, words: np.ndarray, sentence: list[str]) -> list[str]:
    """A sentence with other words in some places, which shares n-grams with it."""
    kept = random.random(len(sentence)) < KEPT
    return np.where(kept, sentence, random.choice(words, len(sentence))).tolist()


def in_turns(functions: Sequence[Callable], repeats: int, *arguments: Any) -> list[tuple]:
    """Median seconds of each function, and what it returned."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        found = []
        for function, taken in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            found.append(function(*arguments))
            taken.append(time.perf_counter() - start)
    return list(zip(map(statistics.median, seconds), found, strict=True))


def compare_scores(captions: list, references: list, repeats: int) -> None:
    print("score      ours   pycocoevalcap   faster   largest difference")
    for name, functions in PAIRS.items():
        (ours, mine), (theirs, expected) = in_turns(functions, repeats, captions, references)
        difference = max(
            np.abs(np.subtract(a, b)).max() for a, b in zip(mine, expected, strict=True)
        )
        print(
            f"{name:8} {ours:6.3f} s {theirs:13.3f} s {theirs / ours:7.0f} x   {difference:.1e}",
            flush=True,
        )


def compare_tokenizers(captions: list[list[str]], repeats: int) -> None:
    texts = [" ".join(words).capitalize() + "." for words in captions]
    tokenizers = {"Python": lambda texts: list(map(ptb.tokenize, texts)), "Java": java.tokenize}
    found = in_turns(list(tokenizers.values()), repeats, texts)
    (_, mine), (_, expected) = found
    other = sum(a != b for a, b in zip(mine, expected, strict=True))
    print(f"tokens of {len(texts)} captions, of which {other} differ")
    for name, (seconds, _) in zip(tokenizers, found, strict=True):
        print(f"{name:8} {seconds:6.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    random = np.random.default_rng(SEED)
    words = vocabulary(random)
    drawn = iter(sentences(random, words, args.images * REFERENCES))
    references = [list(islice(drawn, REFERENCES)) for _ in range(args.images)]
    captions = [changed(random, words, own[0]) for own in references]
    print(f"{args.images} images, {REFERENCES} references each; medians of {args.repeats}")
    compare_scores(captions, references, args.repeats)
    if lack := java.java_missing():
        print(f"tokenizers are not compared: {lack}")
    else:
        compare_tokenizers([*captions, *chain(*references)], args.repeats)


if __name__ == "__main__":
    main()
