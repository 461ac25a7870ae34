"""Weighted k nearest neighbors: how well features group the classes, without any training."""

import time

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from virtex.checkpoints.backbone import Backbone
from virtex.data.image_sets import ImageSet
from virtex.data.streams import validation_share
from virtex.engine.distributed import rank, world_size
from virtex.engine.progress import progress_bar
from virtex.evaluator import Report
from virtex.probes.accuracy import Accuracy
from virtex.probes.features import Extraction, center_view

QUERIES, TRAINING_ROWS = 512, 16384  # compared at a time


class NearestNeighbors:
    """Classifies each validation image by its nearest training images.

    Attributes:
        images, report: see ``virtex.evaluator.Evaluator``.
    """

    def __init__(self, train: ImageSet, val: ImageSet, settings: CfgNode, extraction: Extraction):
        """
        Args:
            settings: of an ``imagenet_knn`` protocol.
        """
        self.images = {train.name: train, val.name: val}
        self.train, self.val, self.settings = train, val, settings
        self.extraction, self.report = extraction, Report()

    def check(self, backbone: Backbone) -> None:
        """See ``virtex.evaluator.Evaluator``."""
        self.extraction.check(backbone, sum(map(len, self.images.values())))

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """``top1``, ``top5`` of the first number of neighbors, and ``k<number>/…`` of each."""
        self.extraction.open(backbone)
        view = center_view(self.settings.DATA)
        train, val = (self.extraction.features(images, view) for images in self.images.values())
        start = time.perf_counter()
        found = self.score(train, val)
        self.report.verification["backbone"] = self.extraction.close()
        self.report.timing |= {
            **self.extraction.timing(),
            "neighbor_seconds": time.perf_counter() - start,
        }
        return found

    def score(self, train: np.ndarray, val: np.ndarray) -> dict[str, float]:
        """Metrics from the features of both splits."""
        knn, device = self.settings.KNN, self.extraction.device
        numbers = [min(k, len(train)) for k in knn.NEIGHBORS]
        self.report.notes += [
            f"k{k}: there are {len(train)} training images, and all of them vote"
            for k in knn.NEIGHBORS
            if k > len(train)
        ]
        classes = len(self.train.class_names)
        accuracies = [Accuracy(classes, device) for _ in numbers]
        train_labels = torch.from_numpy(self.train.labels).to(device)
        share = validation_share(len(val), rank(), world_size())
        similar, rows = nearest(torch.from_numpy(val[share]).to(device), train, max(numbers))
        labels = torch.from_numpy(self.val.labels[share]).to(device)
        for part in torch.arange(len(share), device=device).split(QUERIES):
            for k, accuracy in zip(numbers, accuracies, strict=True):
                neighbors = train_labels[rows[part, :k]]
                found = votes(similar[part, :k], neighbors, classes, knn.TEMPERATURE)
                accuracy.add(found, labels[part])
        by_number = [accuracy.metrics() for accuracy in accuracies]
        return by_number[0] | {
            f"k{k}/{name}": value
            for k, metrics in zip(knn.NEIGHBORS, by_number, strict=True)
            for name, value in metrics.items()
        }


def nearest(queries: Tensor, rows: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """The k rows most similar to each query; all rows are read once, and never held together.

    Args:
        queries: (queries, features).
        rows: (rows, features) float32, perhaps mapped from disk.

    Returns:
        cosine similarities, descending, and indices of rows, both (queries, k).
    """
    parts = F.normalize(queries, dim=1).split(QUERIES)
    best = [(part.new_empty(len(part), 0), part.new_empty(len(part), 0).long()) for part in parts]
    with progress_bar(len(rows), "image", "neighbors") as bar:
        for first in range(0, len(rows), TRAINING_ROWS):
            some = torch.from_numpy(np.array(rows[first : first + TRAINING_ROWS]))
            some = F.normalize(some.to(queries.device), dim=1)
            for place, part in enumerate(parts):
                here, order = (part @ some.T).topk(min(k, len(some)), dim=1)
                similar = torch.cat([best[place][0], here], dim=1)
                found = torch.cat([best[place][1], first + order], dim=1)
                similar, order = similar.topk(min(k, similar.shape[1]), dim=1)
                best[place] = (similar, found.gather(1, order))
            bar.update(len(some))
    similarities, places = zip(*best, strict=True)
    return torch.cat(similarities), torch.cat(places)


def votes(similar: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Each class's sum of exp(similarity / temperature) over its neighbors.

    Args:
        similar, labels: (queries, k).

    Returns:
        (queries, classes), up to a factor a query; minus infinity for classes without neighbors.
    """
    # divided by the nearest one's weight, which changes no order and cannot overflow
    weights = ((similar - similar[:, :1]) / temperature).exp()
    sums = weights.new_zeros(len(similar), classes).scatter_add_(1, labels, weights)
    return sums.masked_fill_(sums == 0, -torch.inf)
