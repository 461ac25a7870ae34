#!/usr/bin/env python3
"""Compare the time of the cached linear probe's grid with one training run per setting.

Each reference run uses ``nn.Linear``, cross entropy and ``torch.optim.SGD`` on the same batches,
read from the same file. Features are random numbers around a center for each class. Prints the
largest difference of the weights.

examples:
  python benchmarks/linear_probe.py
  python benchmarks/linear_probe.py --images 20000 --classes 1000 --epochs 1 --repeat 1
"""

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from virtex.probes.cached_probe import LinearHeads, compute_moments, iterate_epochs

LRS, DECAYS = [0.0003, 0.001, 0.003, 0.01, 0.03], [0.0, 0.00001, 0.0001, 0.001]
MOMENTUM = 0.9


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    measure.add_device(parser)
    parser.add_argument("--images", type=int, default=20000, help="default: 20000")
    parser.add_argument("--dimensions", type=int, default=2048, help="default: 2048")
    parser.add_argument("--classes", type=int, default=100, help="default: 100")
    parser.add_argument("--batch", type=int, default=1024, help="images a step (default: 1024)")
    parser.add_argument("--epochs", type=int, default=2, help="default: 2")
    return parser


def write_features(folder: str, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return memory-mapped features, as the cache returns them, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(args.classes, size=args.images)
    centers = rng.standard_normal((args.classes, args.dimensions), dtype=np.float32)
    path = Path(folder, "features.npy")
    shape = (args.images, args.dimensions)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for first in range(0, args.images, 4096):
        part = centers[labels[first : first + 4096]]
        rows[first : first + 4096] = part + 4 * rng.standard_normal(part.shape, dtype=np.float32)
    rows.flush()
    return np.load(path, mmap_mode="r"), labels


def batches(features: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> Iterator[tuple]:
    """Yield features, labels and the learning rate factor of every step."""
    steps = math.ceil(args.images / args.batch) * args.epochs
    for step, rows in enumerate(iterate_epochs(args.images, args.epochs, args.batch, seed=0)):
        inputs = torch.from_numpy(features[rows]).to(args.device)
        truth = torch.from_numpy(labels[rows]).to(args.device)
        yield inputs, truth, 0.5 * (1 + math.cos(math.pi * step / steps))


def together(data: tuple, standard: tuple, args: argparse.Namespace) -> Tensor:
    """Train all settings in one pass; return weights (settings, classes, features + 1)."""
    grid = list(itertools.product(LRS, DECAYS))
    heads = LinearHeads(args.dimensions, args.classes, grid, MOMENTUM, args.device, standard)
    for inputs, labels, rate in batches(*data, args):
        heads.step(inputs, labels, rate)
    return heads.weight.view(len(grid), args.classes, -1).cpu()


def one_by_one(data: tuple, standard: tuple, args: argparse.Namespace) -> Tensor:
    """Train each setting in its own run; return the same weights."""
    mean, deviation = (torch.from_numpy(v).float().to(args.device) for v in standard)
    found = []
    for lr, decay in itertools.product(LRS, DECAYS):
        layer = nn.Linear(args.dimensions, args.classes).to(args.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr, MOMENTUM, weight_decay=decay)
        for inputs, labels, rate in batches(*data, args):
            optimizer.param_groups[0]["lr"] = lr * rate
            optimizer.zero_grad()
            F.cross_entropy(layer((inputs - mean) / deviation), labels).backward()
            optimizer.step()
        found.append(torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().cpu())
    return torch.stack(found)


def main(argv: Sequence[str] | None = None) -> None:
    sizes = {"images": 60, "dimensions": 8, "classes": 3, "batch": 20, "epochs": 1}
    args = measure.parse(build_parser(), argv, **sizes)
    ends: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = write_features(folder, args)
        standard = compute_moments([data[0]], np.arange(args.images))

        def seconds(way: Callable[..., Tensor]) -> Callable[[], float]:
            def work() -> None:
                ends[way.__name__] = way(data, standard, args)

            return measure.timed(work, args.device)

        row = measure.compare(
            f"probe on cached features, {len(LRS) * len(DECAYS)} settings, {args.images} images x "
            f"{args.dimensions}, {args.classes} classes, {args.epochs} epochs, batches of "
            f"{args.batch}, {args.device}",
            seconds(together),
            seconds(one_by_one),
            "torch, a run a setting",
            args,
        )
    ours, theirs = ends["together"], ends["one_by_one"]
    apart = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"largest difference of a weight {apart:.1e} of the largest weight")
    measure.write_rows([row], args)


if __name__ == "__main__":
    main()
