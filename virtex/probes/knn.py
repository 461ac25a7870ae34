"""Weighted k-nearest-neighbor classification of frozen features, as in DINO.

Caron et al., arXiv 2104.14294, after Wu et al., arXiv 1805.01978.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from virtex.data.streams import validation_share
from virtex.engine.distributed import rank, world_size
from virtex.engine.progress import progress_bar
from virtex.probes.accuracy import Accuracy
from virtex.probes.feature_probe import FeatureProbe

QUERY_CHUNK, TRAIN_CHUNK = 512, 16384  # rows compared at a time


class NearestNeighbors(FeatureProbe):
    """Classify each validation image by its nearest training images.

    Takes the settings of an ``imagenet_knn`` protocol. The images of ``selection`` are also
    neighbors. The validation images are split over the processes.
    """

    timing_key = "neighbor_seconds"

    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> dict[str, float]:
        """Return the accuracy of the first k as ``top1``, ..., and of each as ``k<k>/top1``, ..."""
        features = train[0] if len(train) == 1 else np.concatenate(train)
        labels = np.concatenate([images.labels for images, _ in self.train_sets()])
        knn, device = self.settings.KNN, self.extractor.device
        ks = [min(k, len(features)) for k in knn.NEIGHBORS]
        self.report.notes += [
            f"k{k}: all of the only {len(features)} training images vote"
            for k in knn.NEIGHBORS
            if k > len(features)
        ]
        num_classes = len(self.train.class_names)
        accuracies = [Accuracy(num_classes, device) for _ in ks]
        train_labels = torch.from_numpy(labels).to(device)
        share = validation_share(len(val), rank(), world_size())
        queries = torch.from_numpy(val[share]).to(device)
        similarities, neighbors = find_neighbors(queries, features, max(ks))
        val_labels = torch.from_numpy(self.val.labels[share]).to(device)
        for rows in torch.arange(len(share), device=device).split(QUERY_CHUNK):
            for k, accuracy in zip(ks, accuracies, strict=True):
                neighbor_labels = train_labels[neighbors[rows, :k]]
                logits = vote(similarities[rows, :k], neighbor_labels, num_classes, knn.TEMPERATURE)
                accuracy.update(logits, val_labels[rows])
        by_k = [accuracy.compute() for accuracy in accuracies]
        return by_k[0] | {
            f"k{k}/{name}": value
            for k, metrics in zip(knn.NEIGHBORS, by_k, strict=True)
            for name, value in metrics.items()
        }


def find_neighbors(queries: Tensor, rows: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """Find the k most similar rows of each query; reads the rows once, a chunk at a time.

    Args:
        queries: (queries, features).
        rows: (rows, features) float32, may be memory-mapped.

    Returns:
        cosine similarities, descending, and row indices, both (queries, k).
    """
    chunks = F.normalize(queries, dim=1).split(QUERY_CHUNK)
    best = [
        (chunk.new_empty(len(chunk), 0), chunk.new_empty(len(chunk), 0).long()) for chunk in chunks
    ]
    with progress_bar(len(rows), "image", "neighbors") as bar:
        for first in range(0, len(rows), TRAIN_CHUNK):
            part = torch.from_numpy(np.array(rows[first : first + TRAIN_CHUNK]))
            part = F.normalize(part.to(queries.device), dim=1)
            for index, chunk in enumerate(chunks):
                values, order = (chunk @ part.T).topk(min(k, len(part)), dim=1)
                values = torch.cat([best[index][0], values], dim=1)
                found = torch.cat([best[index][1], first + order], dim=1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                best[index] = (values, found.gather(1, order))
            bar.update(len(part))
    similarities, neighbors = zip(*best, strict=True)
    return torch.cat(similarities), torch.cat(neighbors)


def vote(similarities: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Sum exp(similarity / temperature) over the neighbors of each class.

    Args:
        similarities, labels: (queries, k), of the neighbors.

    Returns:
        (queries, num_classes), up to a factor per query; minus infinity without a neighbor.
    """
    # divided by the weight of the nearest neighbor: the same order, without overflow
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    sums = weights.new_zeros(len(similarities), num_classes).scatter_add_(1, labels, weights)
    return sums.masked_fill_(sums == 0, -torch.inf)
