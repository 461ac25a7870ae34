"""CIDEr-D, BLEU and ROUGE-L of tokenized captions, as COCO's caption evaluation computes them.

They equal pycocoevalcap's, which papers report, in its deviations from the papers as well; a
comment names each. n-grams are integers and counts are sparse, so that the 25 000 references of
COCO's 5000 validation images take less than a second.

``captions`` holds one tokenized caption an image, ``references`` the tokenized references of each
image. Scores are fractions: that of the corpus, and those of the images in float64. Functions
raise ValueError where there is no image, or one without a reference, or the two differ in length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import NamedTuple, TypeAlias

import numpy as np

Tokens: TypeAlias = Sequence[str]
Captions: TypeAlias = Sequence[Tokens]
References: TypeAlias = Sequence[Sequence[Tokens]]

LONGEST = 4  # words of an n-gram, in CIDEr and BLEU
SIGMA = 6.0  # of CIDEr-D's length penalty, in words
BETA = 1.2  # how much more ROUGE-L's recall weighs than its precision
# pycocoevalcap's BLEU adds these to its counts, so that nothing is divided by zero
TINY, SMALL = 1e-15, 1e-9


def cider(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """CIDEr-D (Vedantam et al., 2015), times 10 as its authors have it.

    How rare an n-gram is, is counted in the references that are given.

    Returns:
        The mean over images, and (images,).
    """
    sentences = all_sentences(captions, references)
    # pycocoevalcap takes the number of bigrams for a sentence's length
    length = np.array([max(len(words) - 1, 0) for words in sentences.words])
    gap = length - length[sentences.image]
    similarity = sum(similarities(counts, sentences) for counts in ngram_counts(sentences.words))
    similarity *= 10 / LONGEST * np.exp(-(gap**2) / (2 * SIGMA**2))
    of_image, similarity = (all_[sentences.images :] for all_ in (sentences.image, similarity))
    per_image = np.bincount(of_image, similarity) / np.bincount(of_image)
    return float(per_image.mean()), per_image


def bleu(captions: Captions, references: References) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1 to BLEU-4 (Papineni et al., 2002).

    Returns:
        (4,) of the corpus, whose counts are added up before they are divided, and (images, 4).
    """
    sentences = all_sentences(captions, references)
    lengths = iter(map(len, sentences.words))
    length = np.array(list(islice(lengths, sentences.images)))
    closest = np.array(
        [
            closest_length(of_caption, islice(lengths, len(own)))
            for of_caption, own in zip(length, references, strict=True)
        ]
    )
    given = np.maximum(length[:, None] - np.arange(LONGEST), 0)
    matched = [matches(counts, sentences) for counts in ngram_counts(sentences.words)]
    parts = np.stack(matched, axis=1), given, length, closest
    corpus = bleu_of_counts(*(part.sum(axis=0, keepdims=True) for part in parts))
    return corpus[0], bleu_of_counts(*parts)


def rouge_l(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """ROUGE-L (Lin, 2004), of the best precision and the best recall over the references.

    Returns:
        The mean over images, and (images,).
    """
    check(captions, references)
    per_image = np.array(list(map(rouge_l_of_image, captions, references)))
    return float(per_image.mean()), per_image


# ---- sentences and their n-grams as integers


class Sentences(NamedTuple):
    """The captions, then all references.

    Attributes:
        words: of each sentence.
        image: of each sentence, (sentences,).
        images: their number, which is that of the captions.
    """

    words: list[list[str]]
    image: np.ndarray
    images: int


class Counts(NamedTuple):
    """How often sentences hold the n-grams of one length: a row for each pair that there is.

    Attributes:
        sentence: (rows,), ascending.
        ngram: (rows,), ascending within a sentence; 0 to ``size`` - 1.
        times: (rows,).
        size: the number of different n-grams.
    """

    sentence: np.ndarray
    start: np.ndarray
    times: np.ndarray
    size: int


def check(captions: Captions, references: References) -> None:
    if len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions, but references of {len(references)} images")
    if not captions or not all(map(len, references)):
        raise ValueError("expected one image or more, and a reference or more of each")


def all_sentences(captions: Captions, references: References) -> Sentences:
    check(captions, references)
    # The tokenizer leaves a no-break space in "1 1/2". pycocoevalcap joins tokens and splits at
    # any white space, so that CIDEr and BLEU see two words.
    words = [" ".join(tokens).split() for tokens in chain(captions, *references)]
    images = np.arange(len(captions))
    image = np.concatenate([images, images.repeat([len(own) for own in references])])
    return Sentences(words, image, len(captions))


def ngram_counts(sentences: Sequence[Tokens]) -> list[Counts]:
    """Counts of the n-grams of 1, 2, 3 and 4 words."""
    numbers: dict[str, int] = {}
    words = chain.from_iterable(sentences)
    word = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    sentence = np.arange(len(sentences)).repeat([len(words) for words in sentences])
    start: np.ndarray
    start, ngram, size = np.arange(len(word)), word, len(numbers)
    found = [counted(sentence, ngram, size)]
    for longer in range(1, LONGEST):
        goes_on = start + longer < len(word)
        start, ngram = start[goes_on], ngram[goes_on]
        goes_on = sentence[start] == sentence[start + longer]
        start, ngram = start[goes_on], ngram[goes_on]
        pairs = ngram * len(numbers) + word[start + longer]
        different, ngram = np.unique(pairs, return_inverse=True)
        found.append(counted(sentence[start], ngram, len(different)))
    return found


def counted(sentence: np.ndarray, ngram: np.ndarray, size: int) -> Counts:
    pairs, count = np.unique(sentence * size + ngram, return_counts=True)
    return Counts(*np.divmod(pairs, max(size, 1)), count, size)


def looked_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is not among ``keys``, which ascend."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=values.dtype)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


# ---- what the scores are made of


def similarities(counts: Counts, sentences: Sentences) -> np.ndarray:
    """Cosine similarity of each sentence with its image's caption, by weighted n-grams.

    An n-gram counts for no more than it does in the caption, which is the "D" of CIDEr-D.

    Returns:
        (sentences,), where those of references are meant.
    """
    sentence, ngram, count, size = counts
    images, many = sentences.images, len(sentences.words)
    key = sentences.image[sentence] * size + ngram
    in_reference = sentence >= images
    # with counts np.unique sorts; alone it hashes, which takes far longer
    once, _ = np.unique(key[in_reference], return_counts=True)
    _, occurring = np.divmod(once, max(size, 1))
    frequency = np.bincount(occurring, minlength=size)
    # logarithms of one table: what every image has weighs nothing, and not some 1e-16
    logarithm = np.log(np.maximum(np.arange(images + 1), 1))
    weight = count * (logarithm[images] - logarithm[frequency[ngram]])
    in_caption = looked_up(key, key[~in_reference], weight[~in_reference])
    product = np.bincount(sentence, np.minimum(in_caption, weight) * weight, minlength=many)
    norm = np.sqrt(np.bincount(sentence, weight**2, minlength=many))
    norms = norm * norm[sentences.image]
    return np.divide(product, norms, out=np.zeros(many), where=norms != 0)


def matches(counts: Counts, sentences: Sentences) -> np.ndarray:
    """n-grams of each caption that a reference has, each as often as one has it, (images,)."""
    sentence, ngram, count, size = counts
    key = sentences.image[sentence] * size + ngram
    in_reference = sentence >= sentences.images
    known, row = np.unique(key[in_reference], return_inverse=True)
    most = np.zeros(len(known), dtype=count.dtype)
    np.maximum.at(most, row, count[in_reference])
    allowed = np.minimum(count, looked_up(key, known, most))[~in_reference]
    return np.bincount(sentence[~in_reference], allowed, minlength=sentences.images)


def closest_length(length: int, others: Iterable[int]) -> int:
    """The shorter one of two that are as close."""
    return min(others, key=lambda other: (abs(other - length), other))


def bleu_of_counts(
    matched: np.ndarray, given: np.ndarray, length: np.ndarray, closest: np.ndarray
) -> np.ndarray:
    """BLEU-1 to BLEU-4, (rows, 4).

    Args:
        matched: (rows, 4) n-grams of 1 to 4 words of a caption that are in references.
        given: (rows, 4) n-grams of the caption.
        length, closest: (rows,) words of the caption and of the reference.
    """
    product = np.cumprod((matched + TINY) / (given + SMALL), axis=1)
    ratio = (length + TINY) / (closest + SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return product ** (1 / np.arange(1, LONGEST + 1)) * brevity[:, None]


def rouge_l_of_image(caption: Tokens, references: Sequence[Tokens]) -> float:
    # split at blanks: where there is no word, pycocoevalcap sees one empty word
    caption, *references = (" ".join(tokens).split(" ") for tokens in (caption, *references))
    common = common_lengths(caption, references)
    precision = max(common) / len(caption)
    recall = max(found / len(words) for found, words in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_lengths(words: Tokens, others: Iterable[Tokens]) -> list[int]:
    """Length of the longest common subsequence of a sentence and each of others.

    A column of the table that dynamic programming fills is one integer, with a bit a word of the
    sentence (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    all_bits = (1 << len(words)) - 1
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    found = []
    for other in others:
        column = all_bits  # a bit is 0 where the subsequence becomes longer
        for word in other:
            equal = column & places.get(word, 0)
            column = (column + equal | column - equal) & all_bits
        found.append(len(words) - column.bit_count())
    return found
