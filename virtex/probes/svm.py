"""PASCAL VOC 2007 classification: one linear SVM per class on frozen features."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional as F

from virtex.data.voc import read_voc07
from virtex.engine.distributed import broadcast_object, rank
from virtex.errors import UserError
from virtex.probes.average_precision import AVERAGE_PRECISIONS
from virtex.probes.feature_probe import FeatureProbe
from virtex.probes.features import FeatureExtractor
from virtex.probes.low_shot import sample_low_shot
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.probes.svm_solver import decision_function, fit_svms
from virtex.probes.usable_classes import find_usable_classes

logger = logging.getLogger(__name__)

# (features (n, d), targets (n, k), costs (k,), used (n, k), positive_weight) -> weights (d + 1, k)
SOLVERS: dict[str, Callable[..., Tensor]] = {"fast": fit_svms, "liblinear": fit_svms_liblinear}


class Voc07Svm(FeatureProbe):
    """Train on VOC2007 trainval, evaluate on test.

    The cost of each class is the one with the highest average precision (scikit-learn's) in
    stratified cross-validation. Images with label 0 ("difficult") are negatives in training and
    ignored in the evaluation.
    """

    timing_key = "svm_seconds"

    def __init__(
        self,
        data_root: Path,
        settings: CfgNode,
        extractor: FeatureExtractor,
        solver: str = "fast",
        average_precision: str = "sklearn",
        low_shot: Sequence[int] = (),
        seed: int = 0,
    ):
        """
        Args:
            settings: settings of a ``voc07_svm`` protocol.
            solver: a key of ``SOLVERS``.
            average_precision: a key of ``AVERAGE_PRECISIONS``, for the evaluation.
            low_shot: numbers of positive images per class to train on; empty for all images.

        Raises:
            UserError: the data is missing or invalid.
        """
        train, test = (read_voc07(data_root, split) for split in ("trainval", "test"))
        super().__init__(train, test, settings, extractor)
        self.seed, self.low_shot, self.solver = seed, tuple(low_shot), SOLVERS[solver]
        self.average_precision = AVERAGE_PRECISIONS[average_precision]
        self.report.setup["svm_solver"] = solver
        negatives = (-1,) if low_shot else (-1, 0)
        self.classes = find_usable_classes(train, test, negatives, self.report)
        self.names = [train.class_names[c] for c in self.classes]
        if not low_shot:
            assign_folds(train.labels[:, self.classes[0]] == 1, settings.SVM.FOLDS)

    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> dict[str, float]:
        """Return ``mAP`` and ``AP/<class>``; with ``low_shot``, ``<k>-shot/mAP`` and ``/std``."""
        # this takes seconds, so only the main process does it
        return broadcast_object(None if rank() else self._score(train[0], val))

    def _score(self, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
        normalized = [
            F.normalize(torch.from_numpy(np.array(features)), dim=1).to(self.extractor.device)
            for features in (train, test)
        ]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            metrics = (self._evaluate_low_shot if self.low_shot else self._evaluate_full)(
                *normalized
            )
        self.report.notes += [
            str(warning.message)
            for warning in caught
            if issubclass(warning.category, ConvergenceWarning)
        ]
        return metrics

    def _evaluate_full(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Choose the costs by cross-validation, then train on all of trainval."""
        svm, targets = self.settings.SVM, self.targets()
        rarer = torch.minimum((targets == 1).sum(dim=0), (targets == -1).sum(dim=0)).tolist()
        self.report.notes += _note_small_classes(
            f"classes with fewer than {svm.FOLDS} positive or negative images, too few for "
            f"{svm.FOLDS}-fold cross-validation (as in scikit-learn, a fold without positive "
            "images scores 0)",
            dict(zip(self.names, rarer, strict=True)),
            svm.FOLDS,
        )
        mean_ap = cross_validate(
            self.solver, train, targets, svm.COSTS, svm.FOLDS, svm.POSITIVE_WEIGHT
        )
        costs = [svm.COSTS[best] for best in choose_costs(mean_ap)]
        self.report.details["svm_costs"] = dict(zip(self.names, costs, strict=True))
        weights = self._fit(train, targets, torch.tensor(costs))
        values = self.evaluate(decision_function(test, weights))
        for name, cost, value in zip(self.names, costs, values, strict=True):
            logger.info("%-12s cost %5g  AP %6.2f", name, cost, value)
        by_class = {f"AP/{name}": value for name, value in zip(self.names, values, strict=True)}
        return {"mAP": float(np.mean(values)), **by_class}

    def _evaluate_low_shot(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Train on few positives per class; return mean and std of mAP over random samples."""
        options, targets = self.settings.LOW_SHOT, self.targets()
        labels = self.train.labels[:, self.classes]
        positives = dict(zip(self.names, (labels == 1).sum(axis=0).tolist(), strict=True))
        metrics: dict[str, float] = {}
        for shots in self.low_shot:
            self.report.notes += _note_small_classes(
                f"{shots}-shot: all positive images are used of", positives, shots
            )
            maps = []
            for sample in range(options.SAMPLES):
                used = sample_low_shot(labels, shots, (self.seed, sample))
                rows = torch.from_numpy(used.any(axis=1))
                costs = torch.full((len(self.classes),), options.COST)
                weights = self._fit(train[rows], targets[rows], costs, torch.from_numpy(used)[rows])
                maps.append(float(np.mean(self.evaluate(decision_function(test, weights)))))
            std = float(np.std(maps, ddof=1)) if len(maps) > 1 else float("nan")
            metrics |= {f"{shots}-shot/mAP": float(np.mean(maps)), f"{shots}-shot/std": std}
            logger.info("%d-shot  mAP %.2f +- %.2f", shots, np.mean(maps), std)
        return metrics

    def targets(self) -> Tensor:
        """Return the training targets, (trainval images, usable classes) of -1 and 1."""
        labels = torch.from_numpy(self.train.labels[:, self.classes])
        return torch.where(labels == 1, 1, -1).to(self.extractor.device)

    def _fit(
        self, features: Tensor, targets: Tensor, costs: Tensor, used: Tensor | None = None
    ) -> Tensor:
        weight, device = self.settings.SVM.POSITIVE_WEIGHT, features.device
        used = None if used is None else used.to(device)
        return self.solver(features, targets, costs.to(features), used, weight)

    def evaluate(self, logits: Tensor) -> list[float]:
        """Compute the average precision of each usable class in percent.

        Args:
            logits: (test images, usable classes).
        """
        labels, scores = self.val.labels[:, self.classes], logits.cpu().numpy()
        return [
            100 * self.average_precision(label[label != 0] == 1, score[label != 0])
            for label, score in zip(labels.T, scores.T, strict=True)
        ]


def cross_validate(
    solver: Callable[..., Tensor],
    features: Tensor,
    targets: Tensor,
    costs: Sequence[float],
    folds: int,
    positive_weight: float,
) -> np.ndarray:
    """Compute the mean average precision over the folds of each class and cost.

    The binary problems of all classes, folds and costs are solved in one batch. Folds are split and
    scored as in ``sklearn.model_selection.cross_val_score``: 0 for a fold without positive test
    images, NaN for one whose training images are all positive or all negative.

    Args:
        features: (images, dimensions).
        targets: (images, classes) of -1 and 1.

    Returns:
        (classes, costs), in [0, 1].

    Raises:
        UserError: there are fewer images than folds.
    """
    targets = targets.to(torch.int8)  # saves memory: columns are repeated per fold and cost
    fold_of = np.stack([assign_folds(column, folds) for column in targets.T.cpu().numpy()], axis=1)
    classes, num_costs = targets.shape[1], len(costs)
    # columns: class by class, fold by fold, cost by cost
    column_class = np.arange(classes).repeat(folds * num_costs)
    column_fold = np.tile(np.repeat(np.arange(folds), num_costs), classes)
    used = fold_of[:, column_class] != column_fold
    positive = targets.cpu().numpy()[:, column_class] == 1
    ap = np.full(len(column_class), np.nan)
    # a linear SVM cannot be trained on a single class
    (solvable,) = np.nonzero((used & positive).any(axis=0) & (used & ~positive).any(axis=0))
    weights = solver(
        features,
        targets[:, column_class[solvable]],
        torch.tensor(costs).repeat(classes * folds)[solvable].to(features),
        torch.from_numpy(used[:, solvable]).to(features.device),
        positive_weight,
    )
    scores = decision_function(features, weights).cpu().numpy()
    for index, column in enumerate(solvable):
        held_out = ~used[:, column]
        truth = positive[held_out, column]
        ap[column] = (
            AVERAGE_PRECISIONS["sklearn"](truth, scores[held_out, index]) if truth.any() else 0.0
        )
    return ap.reshape(classes, folds, num_costs).mean(axis=1)


def assign_folds(targets: np.ndarray, folds: int) -> np.ndarray:
    """Return the test fold of each image, (images,).

    Raises:
        UserError: there are fewer images than folds.
    """
    fold, splitter = np.empty(len(targets), dtype=np.int64), StratifiedKFold(folds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few positives, which are noted in the record
            for number, (_, tested) in enumerate(splitter.split(targets, targets)):
                fold[tested] = number
    except ValueError as error:
        raise UserError(
            f"SVM.FOLDS must be at most {len(targets)}, the number of training images, not "
            f"{folds}; lower it",
            code="probe.too_few_images",
        ) from error
    return fold


def choose_costs(mean_ap: np.ndarray) -> list[int]:
    """Return the index of the best cost of each class; the first in a tie, or if all are NaN.

    Args:
        mean_ap: (classes, costs), may be NaN.
    """
    return np.where(np.isnan(mean_ap), -np.inf, mean_ap).argmax(axis=1).tolist()


def _note_small_classes(message: str, counts: dict[str, int], minimum: int) -> list[str]:
    """Return a note that lists the classes with fewer than ``minimum`` images, if any."""
    few = ", ".join(f"{name} {count}" for name, count in counts.items() if count < minimum)
    return [f"{message}: {few}"] if few else []
