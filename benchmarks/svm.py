#!/usr/bin/env python3
"""Compare the time and results of the VOC07 SVMs with liblinear.

Both run a whole VOC07 evaluation: cross-validation over the costs for each class, a final fit on
all training images with the best cost, and the average precision on the test images. Feature
extraction is excluded. With a GPU, the solver is also compared with itself on the CPU.

Without ``--features``, features are generated like the pooled ones of a pretrained network:
rectified, with a common mean and a power law of variances, L2-normalized, with the class
frequencies of VOC07, and not separable. Use a quiet machine: threads that share cores wait for each
other.

examples:
  python benchmarks/svm.py
  python benchmarks/svm.py --device cuda
  python benchmarks/svm.py --images 1000 --test-images 1000 --dimensions 512
  python benchmarks/svm.py --features features.npz  # arrays train, train_labels, test, test_labels
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from virtex.probes.average_precision import AVERAGE_PRECISIONS
from virtex.probes.svm import choose_costs, cross_validate
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.probes.svm_solver import decision_function, fit_svms

# Images with each class in VOC07's trainval set of 5011, from aeroplane to tvmonitor.
VOC07_COUNTS = [
    238, 243, 330, 181, 244, 186, 713, 337, 445, 141,
    200, 421, 287, 245, 2008, 245, 96, 229, 261, 256,
]  # fmt: skip
POSITIVE_WEIGHT = 2.0
average_precision = AVERAGE_PRECISIONS["sklearn"]


@dataclass(frozen=True)
class Images:
    """L2-normalized features (n, d) and labels (n, classes) of bool."""

    features: Tensor
    labels: Tensor

    def first(self, count: int) -> "Images":
        return Images(self.features[:count], self.labels[:count])


@dataclass(frozen=True)
class Evaluation:
    """Results of one solver; AP in percent.

    Attributes:
        fold_ap: (classes, costs), mean over the folds.
        chosen: (classes,), index of the cost.
        test_ap: (classes,), by the chosen cost.
    """

    fold_ap: np.ndarray
    chosen: np.ndarray
    test_ap: np.ndarray


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    measure.add_device(parser)
    parser.add_argument("--images", type=int, default=5011, help="for training (default: 5011)")
    parser.add_argument("--test-images", type=int, default=4952, help="default: 4952")
    parser.add_argument("--dimensions", type=int, default=2048, help="of features (default: 2048)")
    parser.add_argument("--classes", type=int, default=20, help="default: 20")
    parser.add_argument("--folds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--costs",
        nargs="+",
        type=float,
        default=[0.01, 0.1, 1, 10],
        metavar="C",
        help="default: 0.01 0.1 1 10",
    )
    parser.add_argument("--seed", type=int, default=0, help="of drawn features (default: 0)")
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE.npz",
        help="real features: arrays train, train_labels, test, test_labels",
    )
    return parser


def draw_images(args: argparse.Namespace) -> tuple[Images, Images]:
    """Generate training and test images; each class shifts features along its own pattern.

    How plain a class is to see differs from image to image, down to not at all, so that no
    classifier separates it.
    """
    rng = np.random.default_rng(args.seed)
    count, d, classes = args.images + args.test_images, args.dimensions, args.classes
    frequency = np.resize(VOC07_COUNTS, classes) / 5011
    labels = rng.random((count, classes)) < frequency
    plainness = labels * rng.random((count, classes))
    deviations = np.arange(1, d + 1) ** -0.6
    factors = rng.standard_normal((count, d)) * (deviations / np.linalg.norm(deviations))
    features = factors @ rng.standard_normal((d, d))
    features += 0.25 * plainness @ rng.standard_normal((classes, d))
    features += 0.3 * rng.standard_normal((count, d))
    features += rng.standard_normal(d) - 0.3
    features = features.clip(min=0).astype(np.float32)
    return split(features, labels, args.images)


def load_images(file: Path) -> tuple[Images, Images]:
    with np.load(file) as arrays:
        features = np.concatenate([arrays["train"], arrays["test"]]).astype(np.float32)
        labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]]) > 0
        return split(features, labels, len(arrays["train"]))


def split(features: np.ndarray, labels: np.ndarray, training: int) -> tuple[Images, Images]:
    unit = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
    shown = torch.from_numpy(labels)
    return Images(unit[:training], shown[:training]), Images(unit[training:], shown[training:])


def warm_up(fit: Callable[..., Tensor], columns: int) -> None:
    """Solve a few tiny problems, to start liblinear's processes before timing."""
    fit(torch.eye(2), torch.tensor([[-1], [1]]).expand(-1, columns), torch.ones(columns))


def evaluate(
    fit: Callable[..., Tensor], train: Images, test: Images, args: argparse.Namespace, device: str
) -> Evaluation:
    """Run cross-validation, choice of the cost, final fit and test with one solver."""
    features = train.features.to(device)
    targets = torch.where(train.labels, 1, -1).to(device)
    found = cross_validate(fit, features, targets, args.costs, args.folds, POSITIVE_WEIGHT)
    fold_ap = 100 * found
    chosen = np.array(choose_costs(fold_ap))
    best = torch.tensor(args.costs)[chosen].to(device)
    weights = fit(features, targets, best, positive_weight=POSITIVE_WEIGHT)
    scores = decision_function(test.features.to(device), weights).cpu()
    columns = zip(test.labels.T, scores.T, strict=True)
    test_ap = 100 * np.array([average_precision(*column) for column in columns])
    return Evaluation(fold_ap, chosen, test_ap)


def print_difference(ours: Evaluation, theirs: Evaluation, costs: list[float]) -> None:
    """Print the differences of the results and the classes with different costs."""
    test = ours.test_ap - theirs.test_ap
    print(f"mAP {theirs.test_ap.mean():.3f} by liblinear, {ours.test_ap.mean():.3f} by ours")
    print(
        f"AP of classes from {theirs.test_ap.min():.1f} to {theirs.test_ap.max():.1f}; the largest "
        f"difference of a class {abs(test).max():.4f}, of mAP {abs(test.mean()):.4f}"
    )
    folds = abs(ours.fold_ap - theirs.fold_ap).max()
    print(f"largest difference of a mean AP over the folds, at any cost: {folds:.4f}")
    differing = np.flatnonzero(ours.chosen != theirs.chosen)
    print(f"classes with another chosen cost: {len(differing)} of {len(ours.chosen)}")
    for class_ in differing:
        pair = [theirs.chosen[class_], ours.chosen[class_]]
        gap = theirs.fold_ap[class_, pair[0]] - theirs.fold_ap[class_, pair[1]]
        shift = abs(ours.fold_ap[class_, pair] - theirs.fold_ap[class_, pair]).sum()
        print(
            f"  class {class_}: {costs[pair[0]]:g} by liblinear, {costs[pair[1]]:g} by ours; their "
            f"mean fold APs lie {gap:.4f} apart, the solvers {shift:.4f}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    sizes = {"images": 90, "test_images": 90, "dimensions": 16, "classes": 2}
    args = measure.parse(build_parser(), argv, **sizes, costs=[0.1, 1.0])
    train, test = load_images(args.features) if args.features else draw_images(args)
    costs = " ".join(f"{cost:g}" for cost in args.costs)
    data = (
        f"{len(train.features)} + {len(test.features)} images, {train.features.shape[1]} "
        f"dimensions, {train.labels.shape[1]} classes, costs {costs}, {args.folds} folds"
    )
    liblinear = partial(fit_svms_liblinear, jobs=args.threads)
    warm_up(liblinear, args.threads)
    evaluate(fit_svms, *(part.first(64) for part in (train, test)), args, args.device)
    found: dict[str, Evaluation] = {}

    def seconds(name: str, fit: Callable[..., Tensor], device: str) -> Callable[[], float]:
        def work() -> None:
            found[name] = evaluate(fit, train, test, args, device)

        return measure.timed(work, device)

    references = {"liblinear": (liblinear, "cpu")}
    if args.device == "cuda":
        references["ours on the CPU"] = (fit_svms, "cpu")
    rows = [
        measure.compare(
            f"VOC07 SVM, {data}, {args.device}",
            seconds("ours", fit_svms, args.device),
            seconds(name, *reference),
            name,
            args,
            warm_up=False,
        )
        for name, reference in references.items()
    ]
    print_difference(found["ours"], found["liblinear"], args.costs)
    measure.write_rows(rows, args)


if __name__ == "__main__":
    main()
