"""CIDEr-D, BLEU and ROUGE-L match examples computed by hand, and pycocoevalcap."""

import math
import random

import numpy as np
import pytest

from virtex.captioning.metrics import BETA, bleu, cider, rouge_l

SCORES = {"cider": cider, "bleu": bleu, "rouge_l": rouge_l}
NO_BREAK = "1\N{NO-BREAK SPACE}1/2"


def words(*texts):
    return [text.split(" ") if text else [] for text in texts]


def score_one(score, caption, *references):
    """Return the score of a single image."""
    _, per_image = score(words(caption), [words(*references)])
    return per_image[0]


# ---- CIDEr-D


def test_cider_weights_rare_ngrams():
    """ "a" occurs in both images and has weight 0, all other n-grams log 2."""
    _, per_image = cider(words("a dog", "cat"), [words("a dog"), words("a cat")])
    # one word and one pair of four lengths agree; then a word, and a caption a pair shorter
    np.testing.assert_allclose(
        per_image, [10 * (1 + 1) / 4, 10 * 1 / 4 * math.exp(-1 / (2 * 36))], rtol=1e-12
    )


def test_cider_clips_repeated_words():
    _, per_image = cider(words("dog dog", "cat"), [words("dog"), words("cat")])
    clipped = min(2, 1) * 1 / (2 * 1)  # without clipping, the cosine is 1
    assert per_image[0] == pytest.approx(10 * clipped / 4 * math.exp(-1 / 72), rel=1e-12)


def test_cider_averages_references_then_images():
    value, per_image = cider(words("dog", "cat"), [words("dog", "bird", "fish"), words("cat")])
    np.testing.assert_allclose(per_image, [10 / 4 / 3, 10 / 4], rtol=1e-12)
    assert value == pytest.approx(10 / 4 * (1 / 3 + 1) / 2, rel=1e-12)


def test_cider_of_one_image_is_0():
    assert cider(words("a dog"), [words("a dog")]) == (0, [0])


# ---- BLEU


def test_bleu_clips_counts():
    """The example of Papineni et al."""
    found = score_one(
        bleu, "the the the the the the the", "the cat is on the mat", "there is a cat on the mat"
    )
    assert found[0] == pytest.approx(2 / 7, rel=1e-8)
    # no pair agrees: what is left are the constants against division by zero
    assert found[1] == pytest.approx(math.sqrt(2 / 7 * 1e-15 / 6), rel=1e-8)


def test_bleu_brevity_penalty():
    assert score_one(bleu, "a b", "a b c d")[0] == pytest.approx(math.exp(1 - 4 / 2), rel=1e-8)


def test_bleu_uses_shorter_of_tied_lengths():
    assert score_one(bleu, "a b c", "a b c d", "e f")[0] == pytest.approx(1, rel=1e-8)
    assert score_one(bleu, "a b c", "a b c d", "e")[0] == pytest.approx(
        math.exp(1 - 4 / 3), rel=1e-8
    )


def test_bleu_is_geometric_mean_of_precisions():
    found = score_one(bleu, "a b c d e", "a b c d x")
    precisions = np.cumprod([4 / 5, 3 / 4, 2 / 3, 1 / 2])
    np.testing.assert_allclose(found, precisions ** (1 / np.arange(1, 5)), rtol=1e-8)


def test_corpus_bleu_sums_counts():
    value, per_image = bleu(words("a", "b c d"), [words("a"), words("b x y")])
    np.testing.assert_allclose(per_image[:, 0], [1, 1 / 3], rtol=1e-8)
    assert value[0] == pytest.approx((1 + 1) / (1 + 3), rel=1e-8)
    assert value.shape == (4,) and per_image.shape == (2, 4)


def test_bleu_splits_tokens_at_no_break_space():
    assert score_one(bleu, f"{NO_BREAK} cup", "1 1/2 cup")[0] == pytest.approx(1, rel=1e-8)


# ---- ROUGE-L


def f_score(precision, recall):
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def test_rouge_uses_longest_common_subsequence():
    # a, c, d
    assert score_one(rouge_l, "a b c d", "a c x d y") == f_score(3 / 4, 3 / 5)


def test_rouge_takes_best_precision_and_recall():
    # 2 of 4 words for the precision; the recall of a reference of one word
    assert score_one(rouge_l, "a b x y", "a b c d e f", "x") == f_score(2 / 4, 1)


def test_rouge_without_common_word_is_0():
    assert score_one(rouge_l, "a b", "c", "") == 0


def test_rouge_of_empty_caption():
    assert score_one(rouge_l, "", "") == 1
    assert score_one(rouge_l, "", "a b") == 0


def test_rouge_keeps_no_break_space():
    assert score_one(rouge_l, f"{NO_BREAK} cup", "1 1/2 cup") == f_score(1 / 2, 1 / 3)


# ---- all


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_empty_caption_scores_0(score):
    value, per_image = score(words("", "a"), [words("a b"), words("b")])
    assert per_image[0] == pytest.approx(0, abs=1e-9) and np.isfinite(value).all()


@pytest.mark.parametrize("score", [cider, bleu])
def test_empty_reference_scores_0(score):
    _, per_image = score(words("a b", ""), [words(""), words("")])
    np.testing.assert_allclose(per_image, 0, atol=1e-9)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize(
    ("captions", "references"),
    [([], []), (["a"], []), (["a"], [[]])],
    ids=["no_image", "lengths", "no_reference"],
)
def test_invalid_input_is_rejected(score, captions, references):
    with pytest.raises(ValueError, match="reference"):
        score(words(*captions), [words(*own) for own in references])


# ---- pycocoevalcap


def pycocoevalcap(captions, references):
    cider_module = pytest.importorskip("pycocoevalcap.cider.cider")
    bleu_module = pytest.importorskip("pycocoevalcap.bleu.bleu")
    rouge_module = pytest.importorskip("pycocoevalcap.rouge.rouge")
    found = {n: [" ".join(tokens)] for n, tokens in enumerate(captions)}
    expected = {n: [" ".join(tokens) for tokens in own] for n, own in enumerate(references)}
    of_all, of_images = bleu_module.Bleu().compute_score(expected, found, verbose=0)
    return {
        "cider": cider_module.Cider().compute_score(expected, found),
        "bleu": (np.array(of_all), np.array(of_images).T),
        "rouge_l": rouge_module.Rouge().compute_score(expected, found),
    }


def random_captions(seed, images, references, vocabulary, longest):
    """Return random captions and references, some of them empty or equal."""
    draw = random.Random(seed)
    known = [f"w{n}" for n in range(vocabulary)] + [NO_BREAK]

    def sentence():
        return draw.choices(known, k=draw.randint(0, longest))

    captions = [sentence() for _ in range(images)]
    own = [[sentence() for _ in range(draw.randint(1, references))] for _ in range(images)]
    own[0][0] = [*own[0][0], "w0"]  # pycocoevalcap cannot do without any word
    return captions, own


@pytest.mark.parametrize("vocabulary", [1, 3, 40])
@pytest.mark.parametrize("longest", [1, 4, 12, 50])
@pytest.mark.parametrize(("images", "references"), [(1, 1), (1, 5), (2, 1), (5, 5), (30, 8)])
def test_scores_match_pycocoevalcap(images, references, vocabulary, longest):
    for seed in range(2):
        captions, own = random_captions(seed, images, references, vocabulary, longest)
        for name, (value, per_image) in pycocoevalcap(captions, own).items():
            found, of_images = SCORES[name](captions, own)
            np.testing.assert_allclose(found, value, atol=1e-9, rtol=0)
            np.testing.assert_allclose(of_images, per_image, atol=1e-9, rtol=0)
            assert of_images.dtype == np.float64
