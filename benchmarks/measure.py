"""Time a benchmark and its reference, and report rows.

Both do the same work in one process with the same number of threads. After a warm-up of each, they
are timed alternately, and the order within a pair alternates too. A row holds both medians and the
median of the paired ratios, so that a temporary slowdown of the machine affects both.
"""

import argparse
import gc
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        ours, reference: medians, in ``unit``; None: not measured, see ``note``.
        ratio: how many times as fast (as good) ours is; above 1 ours is better.
        beside: name of the reference.
    """

    name: str
    unit: str
    ours: float | None = None
    reference: float | None = None
    ratio: float | None = None
    higher_is_better: bool = False
    beside: str = ""
    note: str = ""


def benchmark_parser(doc: str, repeat: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file")
    parser.add_argument(
        "--repeat", type=int, default=repeat, metavar="N", help=f"pairs (default: {repeat})"
    )
    parser.add_argument(
        "--threads", type=int, default=cores, metavar="N", help="of torch (default: all cores)"
    )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, **quick: object
) -> argparse.Namespace:
    """Parse the command line; ``quick`` holds the defaults under ``--quick``."""
    if parser.parse_args(argv).quick:
        parser.set_defaults(repeat=1, **quick)
    args = parser.parse_args(argv)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(args.threads)
    if getattr(args, "device", "") is None:
        args.device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    return args


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def not_installed(*modules: str) -> str:
    """Return a note that names the modules that cannot be imported; empty if all can."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def timed(work: Callable[[], object], device: str = "cpu") -> Callable[[], float]:
    """Wrap ``work`` to return the seconds it takes, including those of the GPU."""

    def seconds() -> float:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        return time.perf_counter() - start

    return seconds


def synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def compare(
    name: str,
    ours: Callable[[], float],
    reference: Callable[[], float],
    beside: str,
    args: argparse.Namespace,
    unit: str = "s",
    higher_is_better: bool = False,
    warm_up: bool = True,
) -> Row:
    """Time both alternately ``args.repeat`` times and print the row.

    Args:
        ours, reference: do the work and return what is measured, in ``unit``.
        warm_up: run each once before.
    """
    if warm_up:
        ours()
        reference()
    pairs: list[tuple[float, float]] = []
    for turn in range(args.repeat):
        measured = {}
        for run in (reference, ours) if turn % 2 else (ours, reference):
            gc.collect()  # workers and memory of the previous run
            measured[run] = run()
        pairs.append((measured[ours], measured[reference]))
    ratios = [a / b if higher_is_better else b / a for a, b in pairs]
    medians = (statistics.median(values) for values in (*zip(*pairs, strict=True), ratios))
    return show(Row(name, unit, *medians, higher_is_better, beside))


def alone(name: str, ours: Callable[[], float], args: argparse.Namespace, unit: str = "s") -> Row:
    """Time work that has no reference."""
    if args.repeat > 1:
        ours()
    return show(Row(name, unit, statistics.median(ours() for _ in range(args.repeat))))


def show(row: Row) -> Row:
    """Print a row."""
    reference = f", {row.beside} {number(row.reference)} {row.unit}" if row.reference else ""
    ratio = f", {number(row.ratio)} x" if row.ratio else ""
    ours = f"{number(row.ours)} {row.unit}" if row.ours is not None else ""
    note = f" ({row.note})" if row.note else ""
    print(f"{row.name}: {ours}{reference}{ratio}{note}", flush=True)
    return row


def number(value: float | None) -> str:
    """Format with three significant digits and no exponent; empty for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def write_rows(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Write the rows to ``--json``."""
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
