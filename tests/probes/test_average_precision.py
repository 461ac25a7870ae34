"""Three definitions of average precision, each beside its plain form, with ties and edge cases."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from virtex.probes.average_precision import AVERAGE_PRECISIONS

DEFINITIONS = sorted(AVERAGE_PRECISIONS)
INTERPOLATED = ["interpolated", "voc11"]


def some_images(seed, levels):
    """40 images of a class that some show, with scores of so many different values."""
    rng = np.random.default_rng(seed)
    targets = rng.random(40) < 0.3
    targets[0] = True
    return targets, rng.integers(0, levels, 40) / 8 + 0.1 * targets


def points(targets, scores):
    """(hits, images) at or above each score, from the highest down, counted one by one."""
    counted = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = [t for t, s in zip(targets, scores, strict=True) if s >= threshold]
        counted.append((sum(above), len(above)))
    return counted


def plain_eleven_points(targets, scores):
    best = []
    for tenth in range(11):
        reached = [h / m for h, m in points(targets, scores) if 10 * h >= tenth * sum(targets)]
        best.append(max(reached))
    return sum(best) / 11


def plain_interpolated(targets, scores):
    """Every hit counts the best precision at a threshold that finds it."""
    counted = points(targets, scores)
    best = [max(h / m for h, m in counted if h >= hit) for hit in range(1, sum(targets) + 1)]
    return sum(best) / len(best)


PLAIN = {
    "sklearn": average_precision_score,
    "voc11": plain_eleven_points,
    "interpolated": plain_interpolated,
}


@pytest.mark.parametrize("levels", [5, 10**6], ids=["many ties", "hardly any tie"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_agrees_with_the_plain_form(name, levels):
    for seed in range(20):
        targets, scores = some_images(seed, levels)
        value = AVERAGE_PRECISIONS[name](targets, scores)
        assert value == pytest.approx(PLAIN[name](targets, scores), abs=1e-12)


def test_definitions_differ_on_the_same_images():
    values = [f(*some_images(4, 10**6)) for f in AVERAGE_PRECISIONS.values()]
    assert np.diff(sorted(values)).min() > 1e-4


@pytest.mark.parametrize("name", DEFINITIONS)
def test_order_of_tied_images_does_not_matter(name):
    targets, scores = some_images(1, 3)
    order = np.lexsort([targets, scores])
    assert len(set(scores)) < len(scores) / 4
    forward = AVERAGE_PRECISIONS[name](targets[order], scores[order])
    assert AVERAGE_PRECISIONS[name](targets[order[::-1]], scores[order[::-1]]) == forward


@pytest.mark.parametrize("name", DEFINITIONS)
def test_all_images_tied_give_the_share_of_positives(name):
    value = AVERAGE_PRECISIONS[name](np.array([True, False, False, False]), np.zeros(4))
    assert value == pytest.approx(0.25)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_perfect_order_gives_one(name):
    value = AVERAGE_PRECISIONS[name](np.array([False, True, True]), np.array([-1.0, 3.0, 2.0]))
    assert value == pytest.approx(1)


@pytest.mark.parametrize("name", INTERPOLATED)
def test_worst_order_gives_the_share_of_positives_where_precision_is_interpolated(name):
    targets = np.arange(10) < 2
    assert AVERAGE_PRECISIONS[name](targets, np.arange(10.0)) == pytest.approx(2 / 10)


def test_worst_order_gives_the_mean_of_low_precisions_where_it_is_not():
    targets = np.arange(10) < 2
    value = AVERAGE_PRECISIONS["sklearn"](targets, np.arange(10.0))
    assert value == pytest.approx((1 / 9 + 2 / 10) / 2)


def test_recall_of_a_tenth_is_reached_exactly_for_eleven_points():
    """3 hits of 10 come first, so recalls of 0, 0.1, 0.2 and 0.3 have precision 1."""
    targets = np.array([True] * 3 + [False] * 90 + [True] * 7)
    value = AVERAGE_PRECISIONS["voc11"](targets, -np.arange(100.0))
    assert value == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_class_that_no_image_shows_has_none(name):
    assert math.isnan(AVERAGE_PRECISIONS[name](np.zeros(3, dtype=bool), np.arange(3.0)))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_scores_that_are_not_numbers_are_refused(name):
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        AVERAGE_PRECISIONS[name](np.array([True, False]), np.array([0.5, math.nan]))


@pytest.mark.parametrize("targets, scores", [([True], [1.0, 2.0]), ([], []), ([[True]], [[1.0]])])
def test_shapes_of_no_class_are_refused(targets, scores):
    with pytest.raises(ValueError, match=r"both of shape \(n,\)"):
        AVERAGE_PRECISIONS["sklearn"](np.array(targets, dtype=bool), np.array(scores))
