"""PASCAL VOC 2007 classification: one linear SVM a class on a frozen backbone's features."""

import logging
import time
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

from virtex.checkpoints.backbone import Backbone
from virtex.data.image_sets import ImageSet
from virtex.data.voc import read_voc07
from virtex.engine.distributed import broadcast_object, rank
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.probes.average_precision import AVERAGE_PRECISIONS
from virtex.probes.features import Extraction, center_view
from virtex.probes.low_shot import draw_low_shot
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.probes.svm_solver import decision, fit_svms
from virtex.records import Deviation

logger = logging.getLogger(__name__)

# (features (n, d), targets (n, k), costs (k,), used (n, k), positive_weight) -> weights (d + 1, k)
SOLVERS: dict[str, Callable[..., Tensor]] = {"fast": fit_svms, "liblinear": fit_svms_liblinear}


class Voc07Svm:
    """Trains on VOC2007 trainval, tests on its test images.

    A class's cost is the one with the best mean average precision (scikit-learn's) over
    stratified folds. Label 0, "difficult", is a negative in training and left out in the test.

    Attributes:
        images, report: see ``virtex.evaluator.Evaluator``.
    """

    def __init__(
        self,
        data_root: Path,
        settings: CfgNode,
        extraction: Extraction,
        solver: str = "fast",
        average_precision: str = "sklearn",
        low_shot: Sequence[int] = (),
        seed: int = 0,
    ):
        """
        Args:
            settings: of a ``voc07_svm`` protocol.
            solver: one of ``SOLVERS``.
            average_precision: one of ``AVERAGE_PRECISIONS``, for the test.
            low_shot: numbers of positive images a class; then nothing else is trained.

        Raises:
            UserError: data are missing or broken.
        """
        train, test = (read_voc07(data_root, split) for split in ("trainval", "test"))
        self.images = {train.name: train, test.name: test}
        self.settings, self.extraction, self.seed = settings, extraction, seed
        self.solver, self.low_shot = SOLVERS[solver], tuple(low_shot)
        self.average_precision = AVERAGE_PRECISIONS[average_precision]
        self.report = Report(setup={"svm_solver": solver})
        self.classes = self.usable_classes(train, test)
        self.names = [train.class_names[c] for c in self.classes]
        if not low_shot:
            fold_of_each(train.labels[:, self.classes[0]] == 1, settings.SVM.FOLDS)

    def usable_classes(self, train: ImageSet, test: ImageSet) -> list[int]:
        """Classes that can be trained and tested; the others are told of.

        Raises:
            UserError: there is none.
        """
        others = (-1,) if self.low_shot else (-1, 0)
        enough = [
            (learnt == 1).any() and np.isin(learnt, others).any() and (tested == 1).any()
            for learnt, tested in zip(train.labels.T, test.labels.T, strict=True)
        ]
        left_out = [n for n, there in zip(train.class_names, enough, strict=True) if not there]
        if not any(enough):
            raise UserError(
                f"no class of {train.root} has a positive and another image in trainval and a "
                "positive one in test; restore ImageSets/Main"
            )
        if left_out:
            self.report.notes.append(
                f"left out, for want of positive or other images: {', '.join(left_out)}"
            )
            self.report.deviations.append(
                Deviation("classes", len(enough), len(enough) - len(left_out), "data")
            )
        return [c for c, there in enumerate(enough) if there]

    def check(self, backbone: Backbone) -> None:
        """See ``virtex.evaluator.Evaluator``."""
        self.extraction.check(backbone, sum(map(len, self.images.values())))

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """``mAP`` and ``AP/<class>`` in percent; with ``low_shot`` ``<k>-shot/mAP`` and its std."""
        self.extraction.open(backbone)
        view = center_view(self.settings.DATA)
        train, test = (self.extraction.features(images, view) for images in self.images.values())
        start = time.perf_counter()
        # the main process alone: it is a matter of seconds
        metrics = broadcast_object(None if rank() else self.score(train, test))
        self.report.verification["backbone"] = self.extraction.close()
        self.report.timing |= {
            **self.extraction.timing(),
            "svm_seconds": time.perf_counter() - start,
        }
        return metrics

    def score(self, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """Metrics from the pooled features of both splits."""
        unit = [self.normalized(features) for features in (train, test)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            score = self.score_low_shot if self.low_shot else self.score_all
            metrics = score(*unit)
        self.report.notes += [
            str(warning.message)
            for warning in caught
            if issubclass(warning.category, ConvergenceWarning)
        ]
        return metrics

    def normalized(self, features: np.ndarray) -> Tensor:
        """Features of unit length, (images, features) float32, on the device."""
        return F.normalize(torch.from_numpy(np.array(features)), dim=1).to(self.extraction.device)

    def targets(self) -> Tensor:
        """(trainval images, usable classes) of -1 and 1."""
        train, _ = self.images.values()
        labels = torch.from_numpy(train.labels[:, self.classes])
        return torch.where(labels == 1, 1, -1).to(self.extraction.device)

    def score_all(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """The whole protocol: costs by cross-validation, then all of trainval."""
        svm, targets = self.settings.SVM, self.targets()
        rarer = torch.minimum((targets == 1).sum(dim=0), (targets == -1).sum(dim=0)).tolist()
        self.report.notes += fewer(
            dict(zip(self.names, rarer, strict=True)),
            svm.FOLDS,
            f"fewer positive or other images than {svm.FOLDS} folds, so that, as in scikit-learn, "
            "a fold without a positive one to test scores 0, and one without both to train on has "
            "no score",
        )
        quality = cross_validate(
            self.solver, train, targets, svm.COSTS, svm.FOLDS, svm.POSITIVE_WEIGHT
        )
        costs = [svm.COSTS[best] for best in choose(quality)]
        self.report.details["svm_costs"] = dict(zip(self.names, costs, strict=True))
        weights = self.fit(train, targets, torch.tensor(costs))
        found = self.test(decision(test, weights))
        for name, cost, value in zip(self.names, costs, found, strict=True):
            logger.info("%-12s cost %5g  AP %6.2f", name, cost, value)
        by_class = {f"AP/{name}": value for name, value in zip(self.names, found, strict=True)}
        return {"mAP": float(np.mean(found)), **by_class}

    def score_low_shot(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """mAP of a few positives a class, mean and deviation over samples of the images."""
        options, targets = self.settings.LOW_SHOT, self.targets()
        train_set, _ = self.images.values()
        labels = train_set.labels[:, self.classes]
        positives = dict(zip(self.names, (labels == 1).sum(axis=0).tolist(), strict=True))
        metrics: dict[str, float] = {}
        for shots in self.low_shot:
            self.report.notes += fewer(
                positives, shots, f"{shots}-shot: all positive images there are"
            )
            maps = []
            for sample in range(options.SAMPLES):
                used = draw_low_shot(labels, shots, (self.seed, sample))
                rows = torch.from_numpy(used.any(axis=1))
                weights = self.fit(
                    train[rows], targets[rows], torch.full((len(self.classes),), options.COST),
                    torch.from_numpy(used)[rows],
                )  # fmt: skip
                maps.append(float(np.mean(self.test(decision(test, weights)))))
            deviation = float(np.std(maps, ddof=1)) if len(maps) > 1 else float("nan")
            metrics |= {f"{shots}-shot/mAP": float(np.mean(maps)), f"{shots}-shot/std": deviation}
            logger.info("%d-shot  mAP %.2f +- %.2f", shots, np.mean(maps), deviation)
        return metrics

    def fit(
        self, features: Tensor, targets: Tensor, costs: Tensor, used: Tensor | None = None
    ) -> Tensor:
        weight, device = self.settings.SVM.POSITIVE_WEIGHT, features.device
        used = None if used is None else used.to(device)
        return self.solver(features, targets, costs.to(features), used, weight)

    def test(self, scores: Tensor) -> list[float]:
        """Average precision of each usable class in percent, difficult images left out.

        Args:
            scores: (test images, usable classes).
        """
        _, test = self.images.values()
        labels, found = test.labels[:, self.classes], scores.cpu().numpy()
        return [
            100 * self.average_precision(label[label != 0] == 1, score[label != 0])
            for label, score in zip(labels.T, found.T, strict=True)
        ]


def cross_validate(
    solver: Callable[..., Tensor],
    features: Tensor,
    targets: Tensor,
    costs: Sequence[float],
    folds: int,
    positive_weight: float,
) -> np.ndarray:
    """Mean average precision over the folds, of every class and cost, all solved together.

    Folds are cut as ``sklearn.model_selection.cross_val_score`` cuts them, and scored as it
    scores: 0 in a fold that tests no positive, and NaN where a fold leaves one class to train on.

    Args:
        features: (images, features).
        targets: (images, classes) of -1 and 1.

    Returns:
        (classes, costs), in [0, 1].

    Raises:
        UserError: there are fewer images than folds.
    """
    targets = targets.to(torch.int8)  # each is copied for every fold and cost
    tested = np.stack([fold_of_each(column, folds) for column in targets.T.cpu().numpy()], axis=1)
    classes, tried = targets.shape[1], len(costs)
    # columns: class by class, fold by fold, cost by cost
    of_class = np.arange(classes).repeat(folds * tried)
    of_fold = np.tile(np.repeat(np.arange(folds), tried), classes)
    used = tested[:, of_class] != of_fold
    positive = targets.cpu().numpy()[:, of_class] == 1
    found = np.full(len(of_class), np.nan)  # LinearSVC refuses to train on one class
    (solved,) = np.nonzero((used & positive).any(axis=0) & (used & ~positive).any(axis=0))
    weights = solver(
        features,
        targets[:, of_class[solved]],
        torch.tensor(costs).repeat(classes * folds)[solved].to(features),
        torch.from_numpy(used[:, solved]).to(features.device),
        positive_weight,
    )
    scores = decision(features, weights).cpu().numpy()
    for place, column in enumerate(solved):
        left = ~used[:, column]
        found[column] = fold_score(positive[left, column], scores[left, place])
    return found.reshape(classes, folds, tried).mean(axis=1)


def fold_of_each(targets: np.ndarray, folds: int) -> np.ndarray:
    """In which fold each image is tested, (images,)."""
    fold, splitter = np.empty(len(targets), dtype=np.int64), StratifiedKFold(folds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few positives are told by ``few_positives``
            for number, (_, tested) in enumerate(splitter.split(targets, targets)):
                fold[tested] = number
    except ValueError as error:
        raise UserError(
            f"{len(targets)} training images cannot be cut into {folds} folds; set SVM.FOLDS lower"
        ) from error
    return fold


def fold_score(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision on a fold's images; 0, as scikit-learn has it, without a positive one."""
    return AVERAGE_PRECISIONS["sklearn"](positive, scores) if positive.any() else 0.0


def choose(quality: np.ndarray) -> list[int]:
    """The cost of each class: the best, the first of equal ones, the first if none has a score.

    Args:
        quality: (classes, costs), NaN where there is none.
    """
    return np.where(np.isnan(quality), -np.inf, quality).argmax(axis=1).tolist()


def fewer(counts: dict[str, int], wanted: int, what: str) -> list[str]:
    """A sentence, or none, that names the classes with fewer images than are wanted.

    Args:
        what: what comes of it.
    """
    few = ", ".join(f"{name} {count}" for name, count in counts.items() if count < wanted)
    return [f"{what}: {few}"] if few else []
