"""Average precision of one class, by three definitions that give three different numbers."""

from collections.abc import Callable

import numpy as np

# targets (n,) of bool and scores (n,), higher is surer, to a value in [0, 1]
AveragePrecision = Callable[[np.ndarray, np.ndarray], float]


def step_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the precision over the steps of recall, not interpolated.

    What scikit-learn calls ``average_precision_score``, and most papers on frozen features mean.
    See ``AVERAGE_PRECISIONS`` for what is common to all definitions.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    return float(np.diff(hits, prepend=0) @ precision / hits[-1]) if hits[-1] else float("nan")


def eleven_point_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean of the best precision at a recall of at least 0, 0.1, …, 1.

    The definition of VOC2007 (Everingham et al., IJCV 2010).
    See ``AVERAGE_PRECISIONS`` for what is common to all definitions.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    if not hits[-1]:
        return float("nan")
    # Whole numbers, because 3 hits of 10 are a recall of 0.3 and yet below 3 * 0.1 as floats.
    reached = 10 * hits[None, :] >= np.arange(11)[:, None] * hits[-1]
    return float(np.where(reached, precision, 0).max(axis=1).mean())


def interpolated_average_precision(targets: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision that is best at this recall or a higher one.

    The definition of VOC2010 and later, as its development kit computes it.
    See ``AVERAGE_PRECISIONS`` for what is common to all definitions.
    """
    hits, precision = _precision_at_thresholds(targets, scores)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.diff(hits, prepend=0) @ envelope / hits[-1]) if hits[-1] else float("nan")


# Each takes targets (n,), true where the image shows the class, and scores (n,), and returns a
# value in [0, 1], or NaN where no image shows the class, for recall is not defined then. Images
# of equal scores pass a threshold together, so their order cannot matter. Each raises ValueError
# for no images, lengths that differ, and scores that are not numbers.
AVERAGE_PRECISIONS: dict[str, AveragePrecision] = {
    "sklearn": step_average_precision,
    "voc11": eleven_point_average_precision,
    "interpolated": interpolated_average_precision,
}


def _precision_at_thresholds(
    targets: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positives found and precision at each distinct score, from the highest down."""
    targets, scores = np.asarray(targets, dtype=bool), np.asarray(scores)
    if targets.ndim != 1 or targets.shape != scores.shape or not len(targets):
        raise ValueError(
            f"average precision needs targets and scores of one class, both of shape (n,) with "
            f"n > 0, not {targets.shape} and {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN; fix the scores"
        )
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last_of_equal = np.append(scores[1:] != scores[:-1], True)
    hits = np.cumsum(targets[order])[last_of_equal]
    return hits, hits / (np.flatnonzero(last_of_equal) + 1)
