"""Linear probe on cached features: trains a grid of settings in one pass over the features."""

import csv
import io
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from virtex.data.image_sets import ImageSet, balanced_fraction
from virtex.engine.distributed import all_gather_object, broadcast_object, rank, world_size
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.files import replace_file
from virtex.probes.accuracy import Accuracy
from virtex.probes.feature_probe import FeatureProbe
from virtex.probes.features import FeatureExtractor, View, random_view

logger = logging.getLogger(__name__)

GRID = "grid.csv"
CHUNK = 8192  # rows of features read at a time
MAX_LOGITS = 2**24  # logits in memory at a time during evaluation
# Separates the random numbers of the epochs from those of the held-out part.
EPOCH_ORDER = int.from_bytes(b"epoch", "little")


class CachedLinearProbe(FeatureProbe):
    """Train a linear layer at each learning rate and weight decay of a grid simultaneously.

    A held-out part of the training images selects one setting; the validation images are
    evaluated with that setting only. Features are standardized with the mean and standard
    deviation of the training images, under which a linear classifier stays linear. The grid is
    split over the processes.
    """

    def __init__(
        self,
        train: ImageSet,
        val: ImageSet,
        settings: CfgNode,
        extractor: FeatureExtractor,
        folder: Path,
        seed: int = 0,
    ):
        """
        Args:
            settings: of a ``cached`` protocol of ``imagenet_linear``.
            folder: output folder of ``grid.csv`` and ``per_class.csv``.

        Raises:
            UserError: no image can be held out.
        """
        super().__init__(train, val, settings, extractor)
        self.folder, self.seed = folder, seed
        self.held_out = hold_out(train.labels, settings.PROBE.HELD_OUT, seed)

    def train_views(self) -> list[View]:
        data = self.settings.DATA
        return super().train_views() + [random_view(data, 1 + n) for n in range(data.AUGMENTATIONS)]

    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> dict[str, float]:
        """Return ``top1``, ``top5``, ``mean_per_class`` and ``held_out/top1`` in percent."""
        probe = self.settings.PROBE
        kept = np.setdiff1d(np.arange(len(self.train)), self.held_out)
        moments = broadcast_object(None if rank() else compute_moments(train, kept))
        grid = list(itertools.product(probe.LRS, probe.WEIGHT_DECAYS))
        own = list(range(rank(), len(grid), world_size()))
        outcomes = []
        if own:
            heads = self.fit(train, kept, moments, [grid[index] for index in own])
            held_out = self.evaluate(heads, train[0], self.held_out, self.train.labels)
            outcomes = [
                Outcome(index, accuracy.compute_local()["top1"])
                for index, accuracy in zip(own, held_out, strict=True)
            ]
            place = outcomes.index(best_of(outcomes))
            (accuracy,) = self.evaluate(
                heads, val, np.arange(len(val)), self.val.labels, slice(place, place + 1)
            )
            outcomes[place] = replace(outcomes[place], val_accuracy=accuracy)
        gathered = [outcome for part in all_gather_object(outcomes) for outcome in part]
        return self._select(grid, gathered)

    def fit(
        self,
        train: Sequence[np.ndarray],
        kept: np.ndarray,
        moments: tuple[np.ndarray, np.ndarray],
        grid: Sequence[tuple[float, float]],
    ) -> "LinearHeads":
        """Train the settings of this process.

        Args:
            train: features of each view of the training images.
            kept: indices of the images to train on.
            moments: mean and standard deviation of each feature.
        """
        probe, device = self.settings.PROBE, self.extractor.device
        rows = len(kept) * len(train)
        steps = math.ceil(rows / probe.BATCH_SIZE) * probe.NUM_EPOCHS
        heads = LinearHeads(
            train[0].shape[1], len(self.train.class_names), grid, probe.MOMENTUM, device, moments
        )
        batches = iterate_epochs(rows, probe.NUM_EPOCHS, probe.BATCH_SIZE, self.seed)
        with progress_bar(steps, "step", "grid") as bar:
            for step, chosen in enumerate(batches):
                views, places = np.divmod(chosen, len(kept))
                images = kept[places]
                features = np.concatenate([train[v][images[views == v]] for v in range(len(train))])
                labels = torch.from_numpy(self.train.labels[images]).to(device)
                multiplier = 0.5 * (1 + math.cos(math.pi * step / steps))
                heads.step(torch.from_numpy(features).to(device), labels, multiplier)
                bar.update(1)
        return heads

    def evaluate(
        self,
        heads: "LinearHeads",
        features: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        settings: slice = slice(None),
    ) -> list[Accuracy]:
        """Compute the accuracy of each of these settings on these rows, in this process."""
        device, classes = self.extractor.device, len(self.train.class_names)
        accuracies = [Accuracy(classes, device) for _ in heads.lrs[settings]]
        size = min(max(MAX_LOGITS // (len(accuracies) * classes), 1), CHUNK)
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            logits = heads.logits(torch.from_numpy(features[part]).to(device), settings)
            targets = torch.from_numpy(labels[part]).to(device)
            for index, accuracy in enumerate(accuracies):
                accuracy.update(logits[:, index], targets)
        return accuracies

    def _select(
        self, grid: Sequence[tuple[float, float]], outcomes: Sequence["Outcome"]
    ) -> dict[str, float]:
        """Select a setting, write the tables, and return its metrics."""
        best = best_of(outcomes)
        assert best.val_accuracy is not None  # the best of all is the best of its process
        lr, decay = grid[best.index]
        self.report.details["chosen"] = {
            "LR": lr,
            "WEIGHT_DECAY": decay,
            "held_out_top1": best.held_out,
        }
        self.report.notes += self.edge_notes(lr, decay)
        logger.info(
            "best on the held-out images: lr %g, weight decay %g (%.2f)", lr, decay, best.held_out
        )
        if rank() == 0:
            write_grid(self.folder / GRID, grid, outcomes)
            best.val_accuracy.write_per_class(self.folder, self.val.class_names)
        return {**best.val_accuracy.compute_local(), "held_out/top1": best.held_out}

    def edge_notes(self, lr: float, decay: float) -> list[str]:
        """Return a note for each range of the grid at whose edge the selected setting lies."""
        lrs, decays = self.settings.PROBE.LRS, self.settings.PROBE.WEIGHT_DECAYS
        at_edge = {
            "PROBE.LRS": lr in (min(lrs), max(lrs)),
            # a decay of 0 cannot be lowered
            "PROBE.WEIGHT_DECAYS": decay > 0 and decay in (min(decays), max(decays)),
        }
        return [
            f"the best setting is at the edge of {key}; a wider range may contain a better one"
            for key, is_edge in at_edge.items()
            if is_edge
        ]


@dataclass(frozen=True)
class Outcome:
    """The result of one setting of the grid.

    Attributes:
        index: in the grid.
        held_out: top-1 on the held-out images in percent.
        val_accuracy: on the validation images; None if not evaluated.
    """

    index: int
    held_out: float
    val_accuracy: Accuracy | None = None


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the best outcome on the held-out images, the first in the grid if tied."""
    return max(outcomes, key=lambda outcome: (outcome.held_out, -outcome.index))


class LinearHeads:
    """Linear layers of the same shape, one per setting, each with its own SGD.

    Each is trained as by ``torch.optim.SGD`` with cross entropy alone; together they are one
    matrix product with features that are read once.

    Attributes:
        weight: (settings * classes, features + 1), the bias in the last column.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        grid: Sequence[tuple[float, float]],
        momentum: float,
        device: torch.device | str,
        moments: tuple[np.ndarray, np.ndarray],
    ):
        """
        Args:
            grid: (learning rate, weight decay) of each setting.
            moments: mean and standard deviation of each feature.
        """
        self.classes, self.momentum = classes, momentum
        self.mean, self.std = (torch.from_numpy(v).float().to(device) for v in moments)
        self.weight = torch.zeros(len(grid) * classes, features + 1, device=device)
        self.velocity = torch.zeros_like(self.weight)
        self.lrs, self.decays = torch.tensor(grid, device=device).T
        self.row_lrs = self.lrs.repeat_interleave(classes)[:, None]
        self.row_decays = self.decays.repeat_interleave(classes)[:, None]

    def standardize(self, features: Tensor) -> Tensor:
        """Standardize (batch, features) and append a constant 1."""
        features = (features - self.mean) / self.std
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def logits(self, features: Tensor, settings: slice = slice(None)) -> Tensor:
        """Map (batch, features) to logits (batch, settings, classes)."""
        weight = self.weight.view(len(self.lrs), self.classes, -1)[settings].flatten(0, 1)
        return (self.standardize(features) @ weight.T).view(len(features), -1, self.classes)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, multiplier: float) -> None:
        """Take one SGD step.

        Args:
            features: (batch, features).
            labels: (batch,).
            multiplier: of all learning rates.
        """
        inputs = self.standardize(features)
        batch = len(inputs)
        error = (inputs @ self.weight.T).view(batch, -1, self.classes).softmax(dim=2)
        error[torch.arange(batch, device=error.device), :, labels] -= 1
        gradient = (error.view(batch, -1).T @ inputs).div_(batch)
        gradient.addcmul_(self.weight, self.row_decays)
        self.velocity.mul_(self.momentum).add_(gradient)
        self.weight.addcmul_(self.velocity, self.row_lrs, value=-multiplier)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return ascending indices of a fraction of each class.

    At least one image per class, and none of a class with a single image.

    Raises:
        UserError: no class has two images.
    """
    held = balanced_fraction(labels, fraction, seed)
    counts = np.bincount(labels)
    taken = np.bincount(labels[held], minlength=len(counts))
    held = held[(counts > taken)[labels[held]]]
    if not len(held):
        raise UserError(
            f"PROBE.HELD_OUT is {fraction}, but no class has enough training images to hold one "
            "out; lower it, or use --protocol paper",
            code="probe.no_held_out_images",
        )
    return held


def compute_moments(views: Sequence[np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over these rows of all views, (features,) float64.

    A constant feature gets a standard deviation of 1.
    """
    size = views[0].shape[1]
    count, mean, squares = 0, np.zeros(size), np.zeros(size)
    for view in views:
        for first in range(0, len(rows), CHUNK):
            part = view[rows[first : first + CHUNK]].astype(np.float64)
            # Chan et al.'s parallel update of mean and squared deviations: no cancellation
            new, delta = count + len(part), part.mean(axis=0) - mean
            squares += part.var(axis=0) * len(part) + delta**2 * count * len(part) / new
            mean += delta * len(part) / new
            count = new
    std = np.sqrt(squares / count)
    return mean, np.where(std > 1e-12, std, 1.0)


def iterate_epochs(rows: int, epochs: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield batches of row numbers, shuffled in each epoch; the last batch may be smaller."""
    for epoch in range(epochs):
        entropy = np.random.SeedSequence([EPOCH_ORDER, seed, epoch])
        order = np.random.default_rng(entropy).permutation(rows)
        for first in range(0, rows, batch_size):
            yield np.sort(order[first : first + batch_size])  # sequential reads from disk


def write_grid(
    path: Path, grid: Sequence[tuple[float, float]], outcomes: Sequence[Outcome]
) -> None:
    """Write the held-out top-1 of every setting as CSV, the best first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["learning_rate", "weight_decay", "held_out_top1"])
    for outcome in sorted(outcomes, key=lambda one: (-one.held_out, one.index)):
        table.writerow([*grid[outcome.index], f"{outcome.held_out:.4f}"])
    replace_file(path, lambda file: file.write(text.getvalue().encode()))
