"""Top-1, top-5 and mean per-class accuracy, accumulated over batches and processes."""

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
    """Accumulate the accuracy of a classifier, with the interface of ``torchmetrics``.

    Attributes:
        counts: (num_classes, 3) float64: images, correct top-1, correct top-5.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(num_classes, 3, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (batch, num_classes); a class at minus infinity is never a prediction.
            labels: (batch,) int64.
        """
        values, classes = logits.topk(min(5, logits.shape[1]), dim=1)
        correct = (classes == labels[:, None]) & (values > -torch.inf)
        rows = torch.stack(
            [torch.ones_like(labels, dtype=torch.bool), correct[:, 0], correct.any(1)]
        )
        self.counts.index_add_(0, labels, rows.T.to(self.counts.dtype))

    def compute(self) -> dict[str, float]:
        """Sum the counts over all processes and return ``compute_local()``. Call it once."""
        self.counts = sum_over_processes(self.counts)
        return self.compute_local()

    def compute_local(self) -> dict[str, float]:
        """Return the metrics of this process in percent.

        ``top1``, ``top5`` (only with more than 5 classes) and ``mean_per_class``, the mean over
        the classes that have images.
        """
        images, top1, top5 = self.counts.sum(dim=0).tolist()
        present = self.counts[self.counts[:, 0] > 0]
        return {
            "top1": 100 * top1 / images,
            **({"top5": 100 * top5 / images} if len(self.counts) > 5 else {}),
            "mean_per_class": 100 * (present[:, 1] / present[:, 0]).mean().item(),
        }

    def write_per_class(self, folder: Path, class_names: Sequence[str]) -> None:
        """Write ``per_class.csv``, one row per class; percentages are empty without images."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = ["top1", "top5"] if len(self.counts) > 5 else ["top1"]
        table.writerow(["class", "images", *columns])
        for name, (images, *correct) in zip(class_names, self.counts.tolist(), strict=True):
            correct = correct[: len(columns)]
            shares = [f"{100 * value / images:.4f}" if images else "" for value in correct]
            table.writerow([name, int(images), *shares])
        replace_file(folder / PER_CLASS, lambda file: file.write(text.getvalue().encode()))
