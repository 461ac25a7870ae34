"""Which few images a class is trained on (Goyal et al., arXiv 1905.01235, section 6.3)."""

import numpy as np

PURPOSE = int.from_bytes(b"low-shot", "little")  # other draws than those of the folds or samples


def draw_low_shot(labels: np.ndarray, shots: int, seed: tuple[int, ...]) -> np.ndarray:
    """For each class ``shots`` positive images, and (classes - 1) times as many negative ones.

    Images where a class is difficult (label 0) are neither. A class with fewer than that gives all
    it has. With the same seed, the images of fewer shots are part of those of more.

    Args:
        labels: (images, classes) of -1, 0 and 1.

    Returns:
        (images, classes) of bool.
    """
    classes = labels.shape[1]
    used = np.zeros(labels.shape, dtype=bool)
    for column in range(classes):
        rng = np.random.default_rng(np.random.SeedSequence([PURPOSE, *seed, column]))
        order = rng.permutation(len(labels))
        for label, wanted in ((1, shots), (-1, (classes - 1) * shots)):
            found = order[labels[order, column] == label]
            used[found[:wanted], column] = True
    return used
