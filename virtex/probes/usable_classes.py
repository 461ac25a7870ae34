"""Find the classes of a multi-label dataset that can be trained and evaluated."""

from collections.abc import Sequence

import numpy as np

from virtex.data.image_sets import ImageSet
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.records import Deviation


def find_usable_classes(
    train: ImageSet, test: ImageSet, negatives: Sequence[int], report: Report
) -> list[int]:
    """Return the classes that can be trained and evaluated; report the others.

    Args:
        train, test: with labels (images, classes) of -1, 0 and 1.
        negatives: the labels that count as negative in training.

    Raises:
        UserError: no class is usable.
    """
    usable = [
        (train_labels == 1).any()
        and np.isin(train_labels, negatives).any()
        and (test_labels == 1).any()
        for train_labels, test_labels in zip(train.labels.T, test.labels.T, strict=True)
    ]
    skipped = [name for name, ok in zip(train.class_names, usable, strict=True) if not ok]
    if not any(usable):
        raise UserError(
            f"expected at least one class with positive and negative images in {train.name} and "
            f"positive images in {test.name}, found none in {train.root}; restore ImageSets/Main",
            code="probe.no_usable_class",
        )
    if skipped:
        report.notes.append(
            "classes skipped because they have no positive or no negative images: "
            + ", ".join(skipped)
        )
        report.deviations.append(
            Deviation("classes", len(usable), len(usable) - len(skipped), "data")
        )
    return [c for c, ok in enumerate(usable) if ok]
