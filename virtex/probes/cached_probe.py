"""The linear probe on cached features: a whole grid of settings trained in one pass over them."""

import csv
import io
import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from virtex.checkpoints.backbone import Backbone
from virtex.data.image_sets import ImageSet, balanced_fraction
from virtex.engine.distributed import all_gather_object, broadcast_object, rank, world_size
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.files import replace_file
from virtex.probes.accuracy import Accuracy
from virtex.probes.features import Extraction, center_view, random_view

logger = logging.getLogger(__name__)

GRID = "grid.csv"
ROWS = 8192  # of features that are read at a time for their mean
SCORES = 2**24  # numbers that are held at a time where all images are scored
EPOCH_ORDER = int.from_bytes(b"epoch", "little")  # other draws than those of the held-out part


class CachedLinearProbe:
    """Trains a linear layer at each learning rate and weight decay of a grid, all at once.

    A held-out part of the training images chooses one of them; the validation images are looked
    at with that one alone. Features are standardized by the training images' mean and deviation,
    which leaves a linear classifier linear. Several processes share the grid.

    Attributes:
        images, report: see ``virtex.evaluator.Evaluator``.
    """

    def __init__(
        self,
        train: ImageSet,
        val: ImageSet,
        settings: CfgNode,
        extraction: Extraction,
        folder: Path,
        seed: int = 0,
    ):
        """
        Args:
            settings: of a ``cached`` protocol of ``imagenet_linear``.
            folder: exists once this is called; takes ``grid.csv`` and ``per_class.csv``.

        Raises:
            UserError: no image can be held out.
        """
        self.images = {train.name: train, val.name: val}
        self.train, self.val, self.settings = train, val, settings
        self.extraction, self.folder, self.seed = extraction, folder, seed
        self.report = Report()
        self.held_out = hold_out(train.labels, settings.PROBE.HELD_OUT, seed)

    def check(self, backbone: Backbone) -> None:
        """See ``virtex.evaluator.Evaluator``."""
        views = 1 + self.settings.DATA.AUGMENTATIONS
        self.extraction.check(backbone, len(self.train) * views + len(self.val))

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """``top1``, ``top5``, ``mean_per_class`` on the validation images, in percent.

        ``held_out/top1`` is what the chosen setting was chosen for.
        """
        data, extraction = self.settings.DATA, self.extraction
        extraction.open(backbone)
        views = [
            center_view(data),
            *(random_view(data, 1 + n) for n in range(data.AUGMENTATIONS)),
        ]
        train = [extraction.features(self.train, view) for view in views]
        val = extraction.features(self.val, views[0])
        start = time.perf_counter()
        metrics = self.score(train, val)
        self.report.verification["backbone"] = extraction.close()
        self.report.timing |= {
            **extraction.timing(),
            "probe_seconds": time.perf_counter() - start,
        }
        return metrics

    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> dict[str, float]:
        """Metrics from the features of both splits.

        Args:
            train: an array for each view of the training images.
        """
        probe = self.settings.PROBE
        kept = np.setdiff1d(np.arange(len(self.train)), self.held_out)
        mean, deviation = broadcast_object(None if rank() else moments(train, kept))
        grid = list(itertools.product(probe.LRS, probe.WEIGHT_DECAYS))
        own = list(range(rank(), len(grid), world_size()))
        outcomes = []
        if own:
            heads = self.fit(train, kept, (mean, deviation), [grid[number] for number in own])
            held = self.accuracies(heads, train[0], self.held_out, self.train.labels)
            outcomes = [
                Outcome(number, accuracy.own_metrics()["top1"])
                for number, accuracy in zip(own, held, strict=True)
            ]
            place = outcomes.index(best_of(outcomes))
            (on_val,) = self.accuracies(
                heads, val, np.arange(len(val)), self.val.labels, slice(place, place + 1)
            )
            outcomes[place] = replace(outcomes[place], on_val=on_val)
        everything = [outcome for found in all_gather_object(outcomes) for outcome in found]
        return self.conclude(grid, everything)

    def fit(
        self,
        train: Sequence[np.ndarray],
        kept: np.ndarray,
        standard: tuple[np.ndarray, np.ndarray],
        grid: Sequence[tuple[float, float]],
    ) -> "LinearHeads":
        """Train this process's settings."""
        probe, device = self.settings.PROBE, self.extraction.device
        epoch = math.ceil(len(kept) * len(train) / probe.BATCH_SIZE)
        heads = LinearHeads(
            train[0].shape[1], len(self.train.class_names), grid, probe.MOMENTUM, device, standard
        )
        steps = epoch * probe.NUM_EPOCHS
        order = epochs(len(kept) * len(train), probe.NUM_EPOCHS, probe.BATCH_SIZE, self.seed)
        with progress_bar(steps, "step", "grid") as bar:
            for step, chosen in enumerate(order):
                views, places = np.divmod(chosen, len(kept))
                rows = kept[places]
                features = np.concatenate([train[v][rows[views == v]] for v in range(len(train))])
                labels = torch.from_numpy(self.train.labels[rows]).to(device)
                rate = 0.5 * (1 + math.cos(math.pi * step / steps))
                heads.step(torch.from_numpy(features).to(device), labels, rate)
                bar.update(1)
        return heads

    def accuracies(
        self,
        heads: "LinearHeads",
        features: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        settings: slice = slice(None),
    ) -> list[Accuracy]:
        """What each of these settings gets right of these rows, in this process."""
        device, classes = self.extraction.device, len(self.train.class_names)
        found = [Accuracy(classes, device) for _ in heads.rates[settings]]
        size = min(max(SCORES // (len(found) * classes), 1), ROWS)
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            scores = heads.scores(torch.from_numpy(features[part]).to(device), settings)
            truth = torch.from_numpy(labels[part]).to(device)
            for number, accuracy in enumerate(found):
                accuracy.add(scores[:, number], truth)
        return found

    def conclude(
        self, grid: Sequence[tuple[float, float]], outcomes: Sequence["Outcome"]
    ) -> dict[str, float]:
        """Choose a setting, write the tables, and give its metrics.

        Args:
            outcomes: of all settings; the best of each process has been scored on val.
        """
        best = best_of(outcomes)
        assert best.on_val is not None  # the best of all is the best of its process
        lr, decay = grid[best.number]
        chosen = {"LR": lr, "WEIGHT_DECAY": decay, "held_out_top1": best.held_out}
        self.report.details["chosen"] = chosen
        self.report.notes += self.at_the_edge(lr, decay)
        logger.info(
            "best on the held-out images: lr %g, weight decay %g (%.2f)", lr, decay, best.held_out
        )
        if rank() == 0:
            write_grid(self.folder / GRID, grid, outcomes)
            best.on_val.write_per_class(self.folder, self.val.class_names)
        return {**best.on_val.own_metrics(), "held_out/top1": best.held_out}

    def at_the_edge(self, lr: float, decay: float) -> list[str]:
        """A sentence if a wider range of learning rates or decays may have a better setting."""
        rates, decays = self.settings.PROBE.LRS, self.settings.PROBE.WEIGHT_DECAYS
        outer = {
            "PROBE.LRS": lr in (min(rates), max(rates)),
            # a decay of 0 has none below it
            "PROBE.WEIGHT_DECAYS": decay > 0 and decay in (min(decays), max(decays)),
        }
        return [
            f"the best setting lies at the edge of {key}; a wider range may have a better one"
            for key, at_edge in outer.items()
            if at_edge
        ]


@dataclass(frozen=True)
class Outcome:
    """What a setting of the grid came to.

    Attributes:
        held_out: top-1 on the held-out images in percent.
        on_val: what it gets right of the validation images; None where nobody looked.
    """

    number: int
    held_out: float
    on_val: Accuracy | None = None


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The best on the held-out images, the first in the grid of equal ones."""
    return max(outcomes, key=lambda outcome: (outcome.held_out, -outcome.number))


class LinearHeads:
    """Linear layers of the same shape, one a setting, each trained by SGD of its own.

    What each learns is what ``torch.optim.SGD`` with cross entropy would teach it alone; together
    they are one matrix product over features that are read once.

    Attributes:
        weight: (settings · classes, features + 1), setting by setting, biases last.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        grid: Sequence[tuple[float, float]],
        momentum: float,
        device: torch.device | str,
        standard: tuple[np.ndarray, np.ndarray],
    ):
        """
        Args:
            grid: (learning rate, weight decay) of each setting.
            standard: mean and deviation of each feature.
        """
        rows = len(grid) * classes
        self.classes, self.momentum = classes, momentum
        self.mean, self.deviation = (torch.from_numpy(v).float().to(device) for v in standard)
        self.weight = torch.zeros(rows, features + 1, device=device)  # the bias comes last
        self.velocity = torch.zeros_like(self.weight)
        self.rates, self.decays = torch.tensor(grid, device=device).T
        self.row_rates = self.rates.repeat_interleave(classes)[:, None]
        self.row_decays = self.decays.repeat_interleave(classes)[:, None]

    def standardized(self, features: Tensor) -> Tensor:
        """(batch, features) to (batch, features + 1), ending in a 1."""
        features = (features - self.mean) / self.deviation
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def scores(self, features: Tensor, settings: slice = slice(None)) -> Tensor:
        """(batch, features) to logits (batch, settings, classes)."""
        weight = self.weight.view(len(self.rates), self.classes, -1)[settings].flatten(0, 1)
        return (self.standardized(features) @ weight.T).view(len(features), -1, self.classes)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, rate: float) -> None:
        """One step of SGD.

        Args:
            features: (batch, features).
            labels: (batch,).
            rate: what all learning rates are multiplied by.
        """
        inputs = self.standardized(features)
        batch = len(inputs)
        error = (inputs @ self.weight.T).view(batch, -1, self.classes).softmax(dim=2)
        error[torch.arange(batch, device=error.device), :, labels] -= 1
        gradient = (error.view(batch, -1).T @ inputs).div_(batch)
        gradient.addcmul_(self.weight, self.row_decays)
        self.velocity.mul_(self.momentum).add_(gradient)
        self.weight.addcmul_(self.velocity, self.row_rates, value=-rate)


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Ascending indices of a share of each class, one at least, none of a class with one image.

    Raises:
        UserError: no class has two images.
    """
    held = balanced_fraction(labels, share, seed)
    counts = np.bincount(labels)
    taken = np.bincount(labels[held], minlength=len(counts))
    held = held[(counts > taken)[labels[held]]]
    if not len(held):
        raise UserError(
            "no class has a training image to spare for choosing among the settings; lower "
            "PROBE.HELD_OUT, or use --protocol paper"
        )
    return held


def moments(views: Sequence[np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature over these rows of all views, (features,) float64 both.

    A feature that never changes has deviation 1, so that it stays what it is, 0.
    """
    size = views[0].shape[1]
    count, mean, spread = 0, np.zeros(size), np.zeros(size)
    for view in views:
        for first in range(0, len(rows), ROWS):
            part = view[rows[first : first + ROWS]].astype(np.float64)
            # two parts' means and squared deviations put together: no cancellation
            new, moved = count + len(part), part.mean(axis=0) - mean
            spread += part.var(axis=0) * len(part) + moved**2 * count * len(part) / new
            mean += moved * len(part) / new
            count = new
    deviation = np.sqrt(spread / count)
    return mean, np.where(deviation > 1e-12, deviation, 1.0)


def epochs(rows: int, number: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of row numbers, each epoch in an order of its own, the last batch as it comes."""
    for epoch in range(number):
        entropy = np.random.SeedSequence([EPOCH_ORDER, seed, epoch])
        order = np.random.default_rng(entropy).permutation(rows)
        for first in range(0, rows, batch_size):
            yield np.sort(order[first : first + batch_size])  # read from disk in one direction


def write_grid(
    path: Path, grid: Sequence[tuple[float, float]], outcomes: Sequence[Outcome]
) -> None:
    """``grid.csv``: held-out top-1 of every setting, the best first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["learning_rate", "weight_decay", "held_out_top1"])
    for outcome in sorted(outcomes, key=lambda one: (-one.held_out, one.number)):
        table.writerow([*grid[outcome.number], f"{outcome.held_out:.4f}"])
    replace_file(path, lambda file: file.write(text.getvalue().encode()))
