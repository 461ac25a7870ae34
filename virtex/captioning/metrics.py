"""CIDEr-D, BLEU and ROUGE-L of tokenized captions, as COCO's caption evaluation computes them.

They equal pycocoevalcap's numbers, which papers report, including its deviations from the original
papers, which comments mention. n-grams are integers and counts are sparse, so that the 25 000
references of COCO's 5000 validation images take less than a second.

``captions`` contains one tokenized caption per image, ``references`` the tokenized references of
each image. All functions return fractions: the score of the corpus, and float64 scores of images.
They raise ValueError for no images, an image without references, or different lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import NamedTuple, TypeAlias

import numpy as np

Tokens: TypeAlias = Sequence[str]
Captions: TypeAlias = Sequence[Tokens]
References: TypeAlias = Sequence[Sequence[Tokens]]

MAX_N = 4  # of the n-grams of CIDEr and BLEU
SIGMA = 6.0  # of CIDEr-D's length penalty, in words
BETA = 1.2  # weight of recall relative to precision in ROUGE-L
# pycocoevalcap's BLEU adds these to its counts to avoid divisions by zero
TINY, SMALL = 1e-15, 1e-9


def cider(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """Compute CIDEr-D (Vedantam et al., 2015), including its factor of 10.

    Document frequencies are those of the given references.

    Returns:
        the mean over images, and (images,).
    """
    sentences = build_sentences(captions, references)
    # pycocoevalcap uses the number of bigrams as the length of a sentence
    length = np.array([max(len(words) - 1, 0) for words in sentences.words])
    gap = length - length[sentences.image]
    similarity = sum(
        compute_similarities(counts, sentences) for counts in count_ngrams(sentences.words)
    )
    similarity *= 10 / MAX_N * np.exp(-(gap**2) / (2 * SIGMA**2))
    of_image, similarity = (all_[sentences.images :] for all_ in (sentences.image, similarity))
    per_image = np.bincount(of_image, similarity) / np.bincount(of_image)
    return float(per_image.mean()), per_image


def bleu(captions: Captions, references: References) -> tuple[np.ndarray, np.ndarray]:
    """Compute BLEU-1 to BLEU-4 (Papineni et al., 2002).

    Returns:
        (4,) of the corpus, from summed counts, and (images, 4).
    """
    sentences = build_sentences(captions, references)
    lengths = iter(map(len, sentences.words))
    length = np.array(list(islice(lengths, sentences.images)))
    closest = np.array(
        [
            closest_length(of_caption, islice(lengths, len(refs)))
            for of_caption, refs in zip(length, references, strict=True)
        ]
    )
    given = np.maximum(length[:, None] - np.arange(MAX_N), 0)
    matched = [count_matches(counts, sentences) for counts in count_ngrams(sentences.words)]
    parts = np.stack(matched, axis=1), given, length, closest
    corpus = bleu_from_counts(*(part.sum(axis=0, keepdims=True) for part in parts))
    return corpus[0], bleu_from_counts(*parts)


def rouge_l(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """Compute ROUGE-L (Lin, 2004) from the best precision and the best recall over references.

    Returns:
        the mean over images, and (images,).
    """
    validate(captions, references)
    per_image = np.array(list(map(rouge_l_of_image, captions, references)))
    return float(per_image.mean()), per_image


# ---- Sentences and their n-grams as integers


class Sentences(NamedTuple):
    """All captions, followed by all references.

    Attributes:
        words: of each sentence.
        image: index of the image of each sentence, (sentences,).
        images: number of images and captions.
    """

    words: list[list[str]]
    image: np.ndarray
    images: int


class Counts(NamedTuple):
    """Sparse counts of the n-grams of one length: a row per sentence and n-gram that occurs in it.

    Attributes:
        sentence: (rows,), ascending.
        ngram: (rows,), 0 to ``size`` - 1, ascending within a sentence.
        occurrences: (rows,).
        size: number of distinct n-grams.
    """

    sentence: np.ndarray
    ngram: np.ndarray
    occurrences: np.ndarray
    size: int


def validate(captions: Captions, references: References) -> None:
    if len(captions) != len(references):
        raise ValueError(
            f"{len(captions)} captions do not match references of {len(references)} images"
        )
    if not captions or not all(map(len, references)):
        raise ValueError("expected at least one image, and at least one reference per image")


def build_sentences(captions: Captions, references: References) -> Sentences:
    validate(captions, references)
    # The tokenizer keeps a no-break space in "1 1/2". pycocoevalcap joins tokens and splits at any
    # white space, so CIDEr and BLEU see two words.
    words = [" ".join(tokens).split() for tokens in chain(captions, *references)]
    images = np.arange(len(captions))
    image = np.concatenate([images, images.repeat([len(refs) for refs in references])])
    return Sentences(words, image, len(captions))


def count_ngrams(sentences: Sequence[Tokens]) -> list[Counts]:
    """Count the n-grams of 1, 2, 3 and 4 words."""
    numbers: dict[str, int] = {}
    words = chain.from_iterable(sentences)
    word = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    sentence = np.arange(len(sentences)).repeat([len(words) for words in sentences])
    start: np.ndarray
    start, ngram, size = np.arange(len(word)), word, len(numbers)
    found = [count_pairs(sentence, ngram, size)]
    for longer in range(1, MAX_N):
        fits = start + longer < len(word)
        start, ngram = start[fits], ngram[fits]
        fits = sentence[start] == sentence[start + longer]
        start, ngram = start[fits], ngram[fits]
        pairs = ngram * len(numbers) + word[start + longer]
        different, ngram = np.unique(pairs, return_inverse=True)
        found.append(count_pairs(sentence[start], ngram, len(different)))
    return found


def count_pairs(sentence: np.ndarray, ngram: np.ndarray, size: int) -> Counts:
    pairs, count = np.unique(sentence * size + ngram, return_counts=True)
    return Counts(*np.divmod(pairs, max(size, 1)), count, size)


def look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key, 0 if it is not in the ascending ``keys``."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=values.dtype)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


# ---- Parts of the scores


def compute_similarities(counts: Counts, sentences: Sentences) -> np.ndarray:
    """Compute the cosine similarity of each sentence with the caption of its image.

    n-grams are weighted by TF-IDF and clipped to their weight in the caption (the "D" of CIDEr-D).

    Returns:
        (sentences,); only the values of references are meaningful.
    """
    sentence, ngram, count, size = counts
    images, many = sentences.images, len(sentences.words)
    key = sentences.image[sentence] * size + ngram
    in_reference = sentence >= images
    # np.unique sorts with return_counts and hashes without, which is far slower
    once, _ = np.unique(key[in_reference], return_counts=True)
    _, occurring = np.divmod(once, max(size, 1))
    frequency = np.bincount(occurring, minlength=size)
    # both logarithms from one table, so that n-grams of every image weigh exactly 0, not 1e-16
    logarithm = np.log(np.maximum(np.arange(images + 1), 1))
    weight = count * (logarithm[images] - logarithm[frequency[ngram]])
    in_caption = look_up(key, key[~in_reference], weight[~in_reference])
    product = np.bincount(sentence, np.minimum(in_caption, weight) * weight, minlength=many)
    norm = np.sqrt(np.bincount(sentence, weight**2, minlength=many))
    norms = norm * norm[sentences.image]
    return np.divide(product, norms, out=np.zeros(many), where=norms != 0)


def count_matches(counts: Counts, sentences: Sentences) -> np.ndarray:
    """Count each caption's n-grams that occur in a reference, clipped to its count, (images,)."""
    sentence, ngram, count, size = counts
    key = sentences.image[sentence] * size + ngram
    in_reference = sentence >= sentences.images
    known, row = np.unique(key[in_reference], return_inverse=True)
    most = np.zeros(len(known), dtype=count.dtype)
    np.maximum.at(most, row, count[in_reference])
    allowed = np.minimum(count, look_up(key, known, most))[~in_reference]
    return np.bincount(sentence[~in_reference], allowed, minlength=sentences.images)


def closest_length(length: int, others: Iterable[int]) -> int:
    """Return the closest of the other lengths, the shorter one if tied."""
    return min(others, key=lambda other: (abs(other - length), other))


def bleu_from_counts(
    matched: np.ndarray, given: np.ndarray, length: np.ndarray, closest: np.ndarray
) -> np.ndarray:
    """Compute BLEU-1 to BLEU-4, (rows, 4).

    Args:
        matched: (rows, 4), n-grams of 1 to 4 words of the caption that occur in references.
        given: (rows, 4), all n-grams of the caption.
        length, closest: (rows,), words of the caption and of the closest reference.
    """
    product = np.cumprod((matched + TINY) / (given + SMALL), axis=1)
    ratio = (length + TINY) / (closest + SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return product ** (1 / np.arange(1, MAX_N + 1)) * brevity[:, None]


def rouge_l_of_image(caption: Tokens, references: Sequence[Tokens]) -> float:
    # split at blanks like pycocoevalcap, for which an empty sentence has one empty word
    caption, *references = (" ".join(tokens).split(" ") for tokens in (caption, *references))
    common = lcs_lengths(caption, references)
    precision = max(common) / len(caption)
    recall = max(found / len(words) for found, words in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def lcs_lengths(words: Tokens, others: Iterable[Tokens]) -> list[int]:
    """Compute the length of the longest common subsequence with each of the others.

    A column of the dynamic programming table is an integer with one bit per word of the sentence
    (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    all_bits = (1 << len(words)) - 1
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    found = []
    for other in others:
        column = all_bits  # a 0 bit marks where the subsequence grows
        for word in other:
            equal = column & places.get(word, 0)
            column = (column + equal | column - equal) & all_bits
        found.append(len(words) - column.bit_count())
    return found
