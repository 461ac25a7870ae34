"""Low-shot subsets of VOC2007 (Goyal et al., arXiv 1905.01235, section 6.3)."""

import numpy as np

# Separates these random numbers from those of other purposes with the same seed.
PURPOSE = int.from_bytes(b"low-shot", "little")


def sample_low_shot(labels: np.ndarray, shots: int, seed: tuple[int, ...]) -> np.ndarray:
    """Sample ``shots`` positive images per class and (classes - 1) times as many negatives.

    Difficult images (label 0) are never sampled. A class with fewer images contributes all of
    them. With the same seed, the sample of fewer shots is a subset of the sample of more.

    Args:
        labels: (images, classes) of -1, 0 and 1.

    Returns:
        (images, classes) bool.
    """
    classes = labels.shape[1]
    used = np.zeros(labels.shape, dtype=bool)
    for column in range(classes):
        rng = np.random.default_rng(np.random.SeedSequence([PURPOSE, *seed, column]))
        order = rng.permutation(len(labels))
        for label, wanted in ((1, shots), (-1, (classes - 1) * shots)):
            candidates = order[labels[order, column] == label]
            used[candidates[:wanted], column] = True
    return used
