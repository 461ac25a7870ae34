#!/usr/bin/env python3
"""Compare the time and results of a sweep of logistic regressions with scikit-learn.

Both fit multinomial logistic regression for many regularization strengths. scikit-learn runs as in
ssl-transfer's ``linear.py``: from the weakest to the strongest, each starting from the previous
solution (``warm_start``), in float64. With its default tolerance and number of iterations, which
ssl-transfer uses, weak regularization ends far from the optimum; for equal results, it needs
``--tol 1e-8 --max-iter 10000``.

The features are generated to resemble pooled features of a pretrained network: rectified, with a
common mean and a power law of variances, L2-normalized. Run it on an otherwise idle machine.

examples:
  python benchmarks/logistic.py
  python benchmarks/logistic.py --tol 1e-8 --max-iter 10000
  python benchmarks/logistic.py --images 3000 --dimensions 512 --classes 20 --strengths 12
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from virtex.probes.logistic_solver import fit_logistic_path
from virtex.probes.svm_solver import decision_function

Weights = dict[float, Tensor]  # strength -> (d + 1, classes)


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__, repeat=1)
    measure.add_device(parser)
    parser.add_argument("--images", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--val-images", type=int, default=5000, help="default: 5000")
    parser.add_argument("--dimensions", type=int, default=2048, help="of features (default: 2048)")
    parser.add_argument("--classes", type=int, default=100, help="default: 100")
    parser.add_argument("--strengths", type=int, default=45, help="from 1e-6 to 1e5 (default: 45)")
    parser.add_argument("--max-iter", type=int, default=100, help="of scikit-learn (default: 100)")
    parser.add_argument("--tol", type=float, default=1e-4, help="of scikit-learn (default: 1e-4)")
    return parser


def draw_features(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Generate features (n, d) and labels (n,) of training and validation images together."""
    rng = np.random.default_rng(0)
    count, d = args.images + args.val_images, args.dimensions
    labels = np.arange(count) % args.classes
    deviations = np.arange(1, d + 1) ** -0.6
    factors = rng.standard_normal((count, d)) * (deviations / np.linalg.norm(deviations))
    centers = rng.standard_normal((args.classes, d)) * deviations / np.linalg.norm(deviations)
    features = (0.7 * centers[labels] + factors) @ rng.standard_normal((d, d))
    features += 0.3 * rng.standard_normal((count, d)) + rng.standard_normal(d) - 0.3
    unit = F.normalize(torch.from_numpy(features.clip(min=0).astype(np.float32)), dim=1)
    return unit, torch.from_numpy(labels)


def fit_sklearn(
    features: Tensor, labels: Tensor, strengths: Sequence[float], max_iter: int, tol: float
) -> Weights:
    found, x = {}, features.double().numpy()
    model = LogisticRegression(warm_start=True, max_iter=max_iter, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in sorted(strengths):
            model.set_params(C=1 / strength).fit(x, labels.numpy())
            found[strength] = torch.from_numpy(np.c_[model.coef_, model.intercept_]).T
    return found


def objective(features: Tensor, labels: Tensor, weights: Tensor, strength: float) -> float:
    weights = weights.double().cpu()
    outputs = decision_function(features.double(), weights)
    losses = F.cross_entropy(outputs, labels, reduction="sum")
    return float(losses + strength / 2 * weights[:-1].square().sum())


def print_difference(
    ours: Weights, theirs: Weights, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]
) -> None:
    """Print objectives and validation accuracies of every strength."""
    print("strength   objective: scikit-learn, ours relative to it   accuracy: scikit-learn, ours")
    for strength in sorted(theirs):
        pair = [objective(*train, found[strength], strength) for found in (theirs, ours)]
        accuracies = [
            100 * float((outputs.argmax(dim=1) == val[1]).double().mean())
            for outputs in (
                decision_function(val[0].double(), found[strength].double().cpu())
                for found in (theirs, ours)
            )
        ]
        change = pair[1] / pair[0] - 1
        print(f"{strength:8.2e}   {pair[0]:12.6g} {change:+.1e}   {accuracies[0]:.2f} "
              f"{accuracies[1]:.2f}")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    sizes = {"images": 120, "val_images": 60, "dimensions": 16, "classes": 3, "strengths": 4}
    args = measure.parse(build_parser(), argv, **sizes)
    features, labels = draw_features(args)
    train = features[: args.images], labels[: args.images]
    val = features[args.images :], labels[args.images :]
    strengths = np.logspace(-6, 5, args.strengths).tolist()
    found: dict[str, Weights] = {}

    def seconds(name: str, fit: Callable[[], Weights], device: str) -> Callable[[], float]:
        return measure.timed(lambda: found.update({name: fit()}), device)

    on_device = tuple(part.to(args.device) for part in train)
    row = measure.compare(
        f"logistic regression, {args.images} images, {args.dimensions} dimensions, {args.classes} "
        f"classes, {args.strengths} strengths, {args.device}",
        seconds(
            "ours",
            lambda: dict(fit_logistic_path(*on_device, args.classes, strengths)),
            args.device,
        ),
        seconds("theirs", lambda: fit_sklearn(*train, strengths, args.max_iter, args.tol), "cpu"),
        f"scikit-learn (max_iter {args.max_iter}, tol {args.tol:g})",
        args,
        warm_up=False,
    )
    print_difference(found["ours"], found["theirs"], train, val)
    measure.write_rows([row], args)


if __name__ == "__main__":
    main()
