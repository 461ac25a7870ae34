"""SVMs against the number of images and of classes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.scaling.measuring import Part, Subject

DIMENSIONS = 512
CLASSES, IMAGES = 20, 5000  # of the sweep of the other
COSTS, FOLDS, POSITIVE_WEIGHT = (0.01, 0.1, 1, 10), 3, 2.0


def prepare(images: int | None, classes: int | None, folder: Path, size: int) -> None:
    """Features of length 1 that classes move along patterns of their own; one image in ten."""
    import numpy as np

    rng = np.random.default_rng(0)
    images, classes = images or size, classes or size
    labels = rng.random((images, classes)) < 0.1
    features = rng.standard_normal((images, DIMENSIONS), dtype=np.float32)
    shown = (labels * rng.random((images, classes))).astype(np.float32)
    features += 0.5 * shown @ rng.standard_normal((classes, DIMENSIONS), dtype=np.float32)
    features = features.clip(min=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.savez(folder / "features.npz", features=features, labels=labels)


def evaluate(folder: Path, size: int) -> Callable[[], object]:
    """Cross-validation over costs and folds, then the last fit, as VOC07's evaluation does it."""
    import numpy as np
    import torch

    from virtex.probes.svm import choose_costs, cross_validate
    from virtex.probes.svm_solver import fit_svms

    with np.load(folder / "features.npz") as arrays:
        features = torch.from_numpy(arrays["features"])
        targets = torch.where(torch.from_numpy(arrays["labels"]), 1, -1)

    def work() -> None:
        quality = cross_validate(fit_svms, features, targets, COSTS, FOLDS, POSITIVE_WEIGHT)
        costs = torch.tensor(COSTS)[choose_costs(quality)]
        fit_svms(features, targets, costs, positive_weight=POSITIVE_WEIGHT)

    return work


SUBJECTS = {
    "svm-images": Subject(
        f"VOC07's SVMs, {CLASSES} classes, {len(COSTS)} costs, {FOLDS} folds, {DIMENSIONS} "
        "features, against the number of training images.",
        "images",
        (2500, 5000, 10_000, 20_000, 40_000),
        (60, 90),
        partial(prepare, None, CLASSES),
        {"costs and fit": Part(evaluate)},
    ),
    "svm-classes": Subject(
        f"The same with {IMAGES} images, against the number of classes.",
        "classes",
        (20, 40, 80, 160, 320),
        (2, 4),
        partial(prepare, IMAGES, None),
        {"costs and fit": Part(evaluate)},
    ),
}
