"""Weighted k nearest neighbours: how well features group the classes, without any training."""

import time

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from virtex.checkpoints.backbone import Backbone
from virtex.data.image_sets import ImageSet
from virtex.data.streams import validation_share
from virtex.evaluation.accuracy import Accuracy
from virtex.evaluation.features import Extraction, centre_view
from virtex.evaluation.report import Report
from virtex.training.processes import rank, world_size

QUERIES, TRAINING_ROWS = 512, 65536  # compared at a time


class NearestNeighbours:
    """Classifies each validation image by its nearest training images.

    Attributes:
        images, report: see ``virtex.evaluation.report.Evaluator``.
    """

    def __init__(self, train: ImageSet, val: ImageSet, settings: CfgNode, extraction: Extraction):
        """
        Args:
            settings: of an ``imagenet_knn`` protocol.
        """
        self.images = {train.name: train, val.name: val}
        self.train, self.val, self.settings = train, val, settings
        self.extraction, self.report = extraction, Report()

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """``top1``, ``top5`` of the first number of neighbours, and ``k<number>/…`` of each."""
        self.extraction.open(backbone)
        view = centre_view(self.settings.DATA)
        train, val = (self.extraction.features(images, view) for images in self.images.values())
        start = time.perf_counter()
        found = self.score(train, val)
        self.report.verification["backbone"] = self.extraction.close()
        self.report.timing |= {
            **self.extraction.timing(),
            "neighbour_seconds": time.perf_counter() - start,
        }
        return found

    def score(self, train: np.ndarray, val: np.ndarray) -> dict[str, float]:
        """Metrics from the features of both splits."""
        knn, device = self.settings.KNN, self.extraction.device
        numbers = [min(k, len(train)) for k in knn.NEIGHBOURS]
        self.report.notes += [
            f"k{k}: there are {len(train)} training images, and all of them vote"
            for k in knn.NEIGHBOURS
            if k > len(train)
        ]
        classes = len(self.train.class_names)
        accuracies = [Accuracy(classes, device) for _ in numbers]
        train_labels = torch.from_numpy(self.train.labels).to(device)
        share = validation_share(len(val), rank(), world_size())
        parts = [share[first : first + QUERIES] for first in range(0, len(share), QUERIES)]
        for part in tqdm(parts, desc="neighbours", unit="batch", disable=rank() > 0 or None):
            queries = torch.from_numpy(val[part]).to(device)
            similar, rows = nearest(queries, train, max(numbers))
            labels = torch.from_numpy(self.val.labels[part]).to(device)
            for k, accuracy in zip(numbers, accuracies, strict=True):
                found = votes(similar[:, :k], train_labels[rows[:, :k]], classes, knn.TEMPERATURE)
                accuracy.add(found, labels)
        by_number = [accuracy.metrics() for accuracy in accuracies]
        return by_number[0] | {
            f"k{k}/{name}": value
            for k, metrics in zip(knn.NEIGHBOURS, by_number, strict=True)
            for name, value in metrics.items()
        }


def nearest(queries: Tensor, rows: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """The k rows most similar to each query, without holding all rows in memory.

    Args:
        queries: (queries, features).
        rows: (rows, features) float32, perhaps mapped from disk.

    Returns:
        cosine similarities, descending, and indices of rows, both (queries, k).
    """
    queries = F.normalize(queries, dim=1)
    similar = queries.new_empty(len(queries), 0)
    found = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first in range(0, len(rows), TRAINING_ROWS):
        part = torch.from_numpy(np.array(rows[first : first + TRAINING_ROWS])).to(queries.device)
        here = queries @ F.normalize(part, dim=1).T
        numbers = torch.arange(first, first + len(part), device=queries.device)
        similar = torch.cat([similar, here], dim=1)
        found = torch.cat([found, numbers.expand(len(queries), -1)], dim=1)
        similar, order = similar.topk(min(k, similar.shape[1]), dim=1)
        found = found.gather(1, order)
    return similar, found


def votes(similar: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Each class's sum of exp(similarity / temperature) over its neighbours.

    Args:
        similar, labels: (queries, k).

    Returns:
        (queries, classes), up to a factor a query; minus infinity for classes without neighbours.
    """
    # divided by the nearest one's weight, which changes no order and cannot overflow
    weights = ((similar - similar[:, :1]) / temperature).exp()
    sums = weights.new_zeros(len(similar), classes).scatter_add_(1, labels, weights)
    return sums.masked_fill_(sums == 0, -torch.inf)
