"""Average precision: each definition equals its plain form, with ties and edge cases."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from virtex.probes.average_precision import AVERAGE_PRECISIONS

DEFINITIONS = sorted(AVERAGE_PRECISIONS)


def make_images(seed, levels):
    """Return targets and scores of 40 images, with ``levels`` different scores."""
    rng = np.random.default_rng(seed)
    targets = rng.random(40) < 0.3
    targets[0] = True
    return targets, rng.integers(0, levels, 40) / 8 + 0.1 * targets


def points(targets, scores):
    """Return (hits, images) at or above each score, in descending order."""
    counted = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = [t for t, s in zip(targets, scores, strict=True) if s >= threshold]
        counted.append((sum(above), len(above)))
    return counted


def reference_eleven_points(targets, scores):
    best = []
    for tenth in range(11):
        reached = [h / m for h, m in points(targets, scores) if 10 * h >= tenth * sum(targets)]
        best.append(max(reached))
    return sum(best) / 11


def reference_interpolated(targets, scores):
    """Average the best precision at any threshold that reaches each hit."""
    counted = points(targets, scores)
    best = [max(h / m for h, m in counted if h >= hit) for hit in range(1, sum(targets) + 1)]
    return sum(best) / len(best)


REFERENCES = {
    "sklearn": average_precision_score,
    "voc11": reference_eleven_points,
    "interpolated": reference_interpolated,
}


@pytest.mark.parametrize("levels", [5, 10**6], ids=["many_ties", "few_ties"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_matches_reference(name, levels):
    for seed in range(20):
        targets, scores = make_images(seed, levels)
        value = AVERAGE_PRECISIONS[name](targets, scores)
        assert value == pytest.approx(REFERENCES[name](targets, scores), abs=1e-12)


def test_definitions_differ_on_the_same_images():
    values = [f(*make_images(4, 10**6)) for f in AVERAGE_PRECISIONS.values()]
    assert np.diff(sorted(values)).min() > 1e-4


@pytest.mark.parametrize("name", DEFINITIONS)
def test_order_of_ties_does_not_matter(name):
    targets, scores = make_images(1, 3)
    order = np.lexsort([targets, scores])
    assert len(set(scores)) < len(scores) / 4
    forward = AVERAGE_PRECISIONS[name](targets[order], scores[order])
    assert AVERAGE_PRECISIONS[name](targets[order[::-1]], scores[order[::-1]]) == forward


def test_eleven_points_reach_recall_exactly():
    """The first 3 of 10 hits give recalls of 0, 0.1, 0.2 and 0.3 precision 1."""
    targets = np.array([True] * 3 + [False] * 90 + [True] * 7)
    value = AVERAGE_PRECISIONS["voc11"](targets, -np.arange(100.0))
    assert value == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_no_positive_gives_nan(name):
    assert math.isnan(AVERAGE_PRECISIONS[name](np.zeros(3, dtype=bool), np.arange(3.0)))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_scores_are_rejected(name):
    with pytest.raises(ValueError, match="1 of 2 are NaN"):
        AVERAGE_PRECISIONS[name](np.array([True, False]), np.array([0.5, math.nan]))


@pytest.mark.parametrize("targets, scores", [([True], [1.0, 2.0]), ([], []), ([[True]], [[1.0]])])
def test_invalid_shapes_are_rejected(targets, scores):
    with pytest.raises(ValueError, match=r"both of shape \(n,\)"):
        AVERAGE_PRECISIONS["sklearn"](np.array(targets, dtype=bool), np.array(scores))
