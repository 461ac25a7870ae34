"""Multinomial logistic regression on frozen features, as in Kornblith et al., arXiv 1805.08974.

The regularization strength is selected on the validation images; the classifier is then trained
again on training and validation images, and evaluated once on the test images (Ericsson et al.,
arXiv 2011.13377; ``linear.py`` of their ssl-transfer).
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from fvcore.common.config import CfgNode
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from virtex.data.image_sets import ImageSet
from virtex.engine.distributed import broadcast_object, rank
from virtex.engine.progress import progress_bar
from virtex.probes.accuracy import Accuracy
from virtex.probes.average_precision import AVERAGE_PRECISIONS
from virtex.probes.feature_probe import FeatureProbe
from virtex.probes.features import FeatureExtractor
from virtex.probes.logistic_solver import fit_logistic_path
from virtex.probes.low_shot import PURPOSE
from virtex.probes.svm_solver import decision_function
from virtex.probes.usable_classes import find_usable_classes

logger = logging.getLogger(__name__)

Metrics = dict[str, float]


class LogisticProbe(FeatureProbe):
    """Select the regularization on ``selection``, train on both sets, evaluate on ``test``.

    Images with one label are classified by one multinomial regression, images with several labels
    by one binary regression per class.
    """

    timing_key = "logistic_seconds"

    def __init__(
        self,
        train: ImageSet,
        selection: ImageSet,
        test: ImageSet,
        settings: CfgNode,
        extractor: FeatureExtractor,
        metric: str,
    ):
        """
        Args:
            selection: the validation images.
            settings: of a ``logistic`` protocol.
            metric: ``"top1"``, ``"mean_per_class"`` or ``"mAP"``, which selects the strength.
        """
        super().__init__(train, test, settings, extractor, selection)
        self.metric = metric
        # labels of the training, validation and test images
        self.targets = [get_targets(images) for images in (train, selection, test)]
        if train.labels.ndim == 2:
            classes = find_usable_classes(train, test, (-1, 0), self.report)
            self.targets = [targets[:, classes] for targets in self.targets]

    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> Metrics:
        """Return the metrics on the test images, and ``selection/<metric>``, in percent."""
        # in one process: it takes only the time of a few products with the features
        return broadcast_object(None if rank() else self._score([*train, val]))

    def _score(self, features: Sequence[np.ndarray]) -> Metrics:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            device = self.extractor.device
            train, selection, test = (torch.from_numpy(np.array(f)).to(device) for f in features)
            metrics = self.fit(train, selection, test)
        self.report.notes += sorted(
            {str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)}
        )
        return metrics

    def fit(self, train: Tensor, selection: Tensor, test: Tensor) -> Metrics:
        """Select the strength and return the metrics; the features are (images, features)."""
        low, high = self.settings.LOGISTIC.LOG10_STRENGTHS
        strengths = np.logspace(low, high, self.settings.LOGISTIC.NUM_STRENGTHS).tolist()
        labels = self.targets
        best, best_value = strengths[0], -1.0
        outputs = fit_outputs(train, labels[0], strengths, selection)
        with progress_bar(len(strengths), "strength", "logistic regression") as bar:
            for strength, logits in outputs:
                value = compute_metrics(logits, labels[1])[self.metric]
                # in descending order, so that the smallest of equally good ones is selected, as in
                # ssl-transfer
                if value >= best_value:
                    best, best_value = strength, value
                bar.update(1)
        both = torch.cat([train, selection])
        outputs = fit_outputs(both, torch.cat(labels[:2]), [best], test)
        ((_, logits),) = outputs
        self.report.details["strength"] = best
        if best in (strengths[0], strengths[-1]):
            self.report.notes.append(
                f"the best regularization strength, {best:g}, is at the end of the searched range"
            )
        return compute_metrics(logits, labels[2]) | {f"selection/{self.metric}": best_value}


def get_targets(images: ImageSet) -> Tensor:
    """Return labels (n,) int64, or (n, classes) bool, where difficult images are negative."""
    labels = torch.from_numpy(images.labels)
    return labels if labels.ndim == 1 else labels == 1


def fit_outputs(
    features: Tensor, targets: Tensor, strengths: Sequence[float], others: Tensor
) -> Iterator[tuple[float, Tensor]]:
    """Fit a classifier for each strength and yield its logits for other features, on the CPU.

    Args:
        features: (n, d).
        targets: of ``features``, see ``get_targets``.
        others: features to classify (m, d).

    Yields:
        each strength, the largest first, and logits (m, classes).
    """
    if targets.ndim == 1:
        labels, num_classes = targets.to(features.device), int(targets.max()) + 1
        for strength, weights in fit_logistic_path(features, labels, num_classes, strengths):
            yield strength, decision_function(others, weights).cpu()
        return
    # multinomial regression with two classes, whose weights are the negatives of each other
    paths = [
        fit_logistic_path(features, column.long().to(features.device), 2, strengths)
        for column in targets.T
    ]
    for results in zip(*paths, strict=True):
        weights = torch.stack([found[:, 1] - found[:, 0] for _, found in results], dim=1)
        yield results[0][0], decision_function(others, weights).cpu()


def compute_metrics(logits: Tensor, targets: Tensor) -> Metrics:
    """Return the metrics of logits (n, classes) in percent: accuracies, or 11-point ``mAP``."""
    if targets.ndim == 1:
        accuracy = Accuracy(logits.shape[1])
        accuracy.update(logits, targets)
        return accuracy.compute_local()
    average_precision = AVERAGE_PRECISIONS["voc11"]
    values = [
        average_precision(targets[:, c].numpy(), logits[:, c].numpy())
        for c in range(logits.shape[1])
    ]
    return {"mAP": 100 * float(np.nanmean(values))}


class LowShotProbe(LogisticProbe):
    """Train on a few images of each class, several times, and evaluate on ``test``.

    The images are drawn from those of ``train`` and ``selection`` together. The strength is fixed,
    because so few images cannot select one.
    """

    timing_key = "low_shot_seconds"

    def __init__(self, *args: Any, seed: int = 0, **options: Any):
        super().__init__(*args, **options)
        self.seed = seed

    def fit(self, train: Tensor, selection: Tensor, test: Tensor) -> Metrics:
        """Return, for each number k of images per class, the mean of the metric over the samples.

        The keys are ``<k>-shot/<metric>``, and ``<k>-shot/interval95`` for half the width of its
        95 % confidence interval (Student's t).
        """
        settings = self.settings.LOW_SHOT
        features = torch.cat([train, selection])
        *known, test_targets = self.targets
        targets = torch.cat(known)
        metrics = {}
        for shots in settings.SHOTS:
            values = []
            for sample in range(settings.SAMPLES):
                rows = sample_per_class(targets.numpy(), shots, (self.seed, sample))
                outputs = fit_outputs(features[rows], targets[rows], [settings.STRENGTH], test)
                ((_, logits),) = outputs
                values.append(compute_metrics(logits, test_targets)[self.metric])
            error = scipy.stats.sem(values) if len(values) > 1 else math.nan
            metrics[f"{shots}-shot/{self.metric}"] = float(np.mean(values))
            metrics[f"{shots}-shot/interval95"] = float(
                error * scipy.stats.t.ppf(0.975, len(values) - 1)
            )
        return metrics


def sample_per_class(targets: np.ndarray, shots: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return ascending indices of ``shots`` images of every class, or all of a smaller class.

    With the same seed, the sample of fewer shots is a subset of the sample of more.

    Args:
        targets: (n,) int64, or (n, classes) bool; an image may be drawn for several classes.
    """
    classes = range(targets.max() + 1) if targets.ndim == 1 else range(targets.shape[1])
    chosen = []
    for c in classes:
        rows = np.flatnonzero(targets == c if targets.ndim == 1 else targets[:, c])
        rng = np.random.default_rng(np.random.SeedSequence([PURPOSE, *seed, c]))
        chosen.append(rng.permutation(rows)[:shots])
    return np.unique(np.concatenate(chosen))
