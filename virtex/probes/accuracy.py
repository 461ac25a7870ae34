"""Accuracy as sums over images, whatever batches and processes they came in."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from virtex.engine.distributed import sum_over_processes
from virtex.files import replace_file

PER_CLASS = "per_class.csv"


class Accuracy:
    """Counts images, and those whose label is among the highest or the five highest scores.

    Attributes:
        counts: (classes, 3) float64: images, right at once, right among five.
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(classes, 3, dtype=torch.float64, device=device)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """
        Args:
            scores: (batch, classes); a class of minus infinity is no guess.
            labels: (batch,) int64.
        """
        highest, best = scores.topk(min(5, scores.shape[1]), dim=1)
        right = (best == labels[:, None]) & (highest > -torch.inf)
        rows = torch.stack([torch.ones_like(labels, dtype=torch.bool), right[:, 0], right.any(1)])
        self.counts.index_add_(0, labels, rows.T.to(self.counts.dtype))

    def metrics(self) -> dict[str, float]:
        """``own_metrics`` over all processes, in each of them. Call it once."""
        self.counts = sum_over_processes(self.counts)
        return self.own_metrics()

    def own_metrics(self) -> dict[str, float]:
        """``top1``, ``top5`` (with more than 5 classes) and ``mean_per_class``, in percent."""
        images, first, five = self.counts.sum(dim=0).tolist()
        there = self.counts[self.counts[:, 0] > 0]
        return {
            "top1": 100 * first / images,
            **({"top5": 100 * five / images} if len(self.counts) > 5 else {}),
            "mean_per_class": 100 * (there[:, 1] / there[:, 0]).mean().item(),
        }

    def write_per_class(self, folder: Path, class_names: Sequence[str]) -> None:
        """``per_class.csv``: a row a class, percentages empty where it has no image."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = ["top1", "top5"] if len(self.counts) > 5 else ["top1"]
        table.writerow(["class", "images", *columns])
        for name, (images, *right) in zip(class_names, self.counts.tolist(), strict=True):
            right = right[: len(columns)]
            shares = [f"{100 * value / images:.4f}" if images else "" for value in right]
            table.writerow([name, int(images), *shares])
        replace_file(folder / PER_CLASS, lambda file: file.write(text.getvalue().encode()))
