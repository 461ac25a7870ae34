"""Compute the average precision of one class by three definitions with different results."""

from collections.abc import Callable

import numpy as np

# (targets (n,) bool, scores (n,), higher is more confident) -> value in [0, 1]
AveragePrecision = Callable[[np.ndarray, np.ndarray], float]


def step_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return the precision averaged over the steps of recall, without interpolation.

    This is scikit-learn's ``average_precision_score``, used by most papers on frozen features.
    See ``AVERAGE_PRECISIONS`` for what all definitions share.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    return float(np.diff(hits, prepend=0) @ precision / hits[-1]) if hits[-1] else float("nan")


def eleven_point_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean of the best precision at a recall of at least 0, 0.1, ..., 1.

    This is the definition of VOC2007 (Everingham et al., IJCV 2010).
    See ``AVERAGE_PRECISIONS`` for what all definitions share.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    if not hits[-1]:
        return float("nan")
    # In integers: 3 hits of 10 are a recall of 0.3, which is below 3 * 0.1 in floating point.
    reached = 10 * hits[None, :] >= np.arange(11)[:, None] * hits[-1]
    return float(np.where(reached, precision, 0).max(axis=1).mean())


def interpolated_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the interpolated precision-recall curve.

    This is the definition of VOC2010 and later, as its development kit computes it.
    See ``AVERAGE_PRECISIONS`` for what all definitions share.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.diff(hits, prepend=0) @ envelope / hits[-1]) if hits[-1] else float("nan")


# Each function takes targets (n,), true for positives, and scores (n,), and returns a value in
# [0, 1], or NaN without a positive, where recall is undefined. Tied scores pass a threshold
# together, so their order does not matter. Each raises ValueError for empty input, different
# lengths and NaN scores.
AVERAGE_PRECISIONS: dict[str, AveragePrecision] = {
    "sklearn": step_average_precision,
    "voc11": eleven_point_average_precision,
    "interpolated": interpolated_average_precision,
}


def _precision_at_thresholds(
    targets: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return true positives and precision at each distinct score, in descending order."""
    targets, scores = np.asarray(targets, dtype=bool), np.asarray(scores)
    if targets.ndim != 1 or targets.shape != scores.shape or not len(targets):
        raise ValueError(
            "expected targets and scores of one class, both of shape (n,) with n > 0, but got "
            f"{targets.shape} and {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"expected finite scores, but {np.isnan(scores).sum()} of {len(scores)} are NaN"
        )
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last_of_ties = np.append(scores[1:] != scores[:-1], True)
    hits = np.cumsum(targets[order])[last_of_ties]
    return hits, hits / (np.flatnonzero(last_of_ties) + 1)
