"""How every benchmark here is measured, and the rows it hands over.

Ours and the reference do the same work in one process, with the same threads, one after the
other: each warms up once, then they take turns, and who begins alternates. What is told is the
median of each and the median of the ratios of the pairs, so that a machine that slows down for a
while slows down both.
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

REPEAT = 3  # pairs


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        ours, reference: medians, in ``unit``; None: not measured, as ``note`` says.
        ratio: how many times as fast (as good) ours is; above 1 ours is better.
        beside: what the reference is.
    """

    name: str
    unit: str
    ours: float | None = None
    reference: float | None = None
    ratio: float | None = None
    higher_is_better: bool = False
    beside: str = ""
    note: str = ""


# The command line ------------------------------------------------------------------------------


def benchmark_parser(doc: str, repeat: int = REPEAT) -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the benchmark's docstring, with what all of them take.

    Args:
        repeat: pairs, where ``--repeat`` is not given.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="hand the rows over in a file")
    parser.add_argument(
        "--repeat",
        type=int,
        default=repeat,
        metavar="N",
        help=f"pairs of measurements (default: {repeat})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=int(os.environ.get("OMP_NUM_THREADS") or usable_cores()),
        metavar="N",
        help="of torch, for ours and the reference (default: $OMP_NUM_THREADS, or all cores)",
    )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: cpu or cuda; by default the GPU where there is one."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is")


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, **quick: object
) -> argparse.Namespace:
    """The command line (or ``argv``); with ``--quick`` the defaults are those given here.

    torch gets its threads, and ``--device`` its default.
    """
    if parser.parse_args(argv).quick:
        parser.set_defaults(repeat=1, **quick)
    args = parser.parse_args(argv)
    torch = sys.modules.get("torch")
    if torch is None:  # a benchmark without it shall not carry its memory
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    else:
        torch.set_num_threads(args.threads)
    if getattr(args, "device", "") is None:
        args.device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    return args


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def not_installed(*modules: str) -> str:
    """Why there is no reference: which of these cannot be imported; empty if all can."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


# Measuring -------------------------------------------------------------------------------------


def seconds_of(work: Callable[[], object], device: str = "cpu") -> Callable[[], float]:
    """``work`` as something that returns the seconds it takes, those of the GPU included."""

    def timed() -> float:
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        return time.perf_counter() - start

    return timed


def wait_for(device: str) -> None:
    """Until all that was sent to the device is done."""
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
    """Measure both by turns, ``args.repeat`` times, and print the row.

    Args:
        ours, reference: do the work and return what is measured, in ``unit``.
        warm_up: do each once before; not needed by what warms up itself.
    """
    if warm_up:
        ours()
        reference()
    pairs: list[tuple[float, float]] = []
    for turn in range(args.repeat):
        taken = {}
        for run in (reference, ours) if turn % 2 else (ours, reference):
            gc.collect()  # workers and memory of what ran before
            taken[run] = run()
        pairs.append((taken[ours], taken[reference]))
    return say(
        Row(
            name,
            unit,
            statistics.median(a for a, _ in pairs),
            statistics.median(b for _, b in pairs),
            statistics.median(a / b if higher_is_better else b / a for a, b in pairs),
            higher_is_better,
            beside,
        )
    )


def alone(name: str, ours: Callable[[], float], args: argparse.Namespace, unit: str = "s") -> Row:
    """Measure what has no reference."""
    if args.repeat > 1:
        ours()
    return say(Row(name, unit, statistics.median(ours() for _ in range(args.repeat))))


# Handing over ----------------------------------------------------------------------------------


def say(row: Row) -> Row:
    """Print a row for people."""
    beside = f", {row.beside} {number(row.reference)} {row.unit}" if row.reference else ""
    ratio = f", {number(row.ratio)} x" if row.ratio else ""
    ours = f"{number(row.ours)} {row.unit}" if row.ours is not None else ""
    note = f" ({row.note})" if row.note else ""
    print(f"{row.name}: {ours}{beside}{ratio}{note}", flush=True)
    return row


def number(value: float | None) -> str:
    """Three digits that count, without an exponent; empty for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def release_pages(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Write the rows where ``--json`` asks for them."""
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
