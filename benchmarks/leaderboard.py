#!/usr/bin/env python3
"""Seconds and memory of the leaderboard for growing numbers of records, and how they grow.

Writes records as the tools do (models x five tasks x two seeds, detection with 12 metrics, VOC07
with 21; some runs with deviations), then runs ``eval_tools/leaderboard.py`` on them in a process of
its own, with CSV, Markdown, page and chart, and with the CSV alone.

examples:
  python benchmarks/leaderboard.py
  python benchmarks/leaderboard.py 1000 10000
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import report
from benchmarks.scaling.records import write_models

TOOL = Path(__file__).resolve().parent.parent / "eval_tools" / "leaderboard.py"


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and the largest resident memory in MB (10^6 bytes) of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def measure_count(count: int, args: argparse.Namespace) -> list[report.Row]:
    """The rows of so many records."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # torch, which writing imports, would count as the tool's memory: a process starts
        # with its parent's
        writer = get_context("spawn").Process(target=write_models, args=(folder, count))
        writer.start()
        writer.join()
        command = [sys.executable, str(TOOL), str(folder / "results")]
        command += ["--output", str(folder / "out.csv")]
        outputs = {"--markdown": "out.md", "--html": "out.html", "--plot": "out.png"}
        more = [word for flag, file in outputs.items() for word in (flag, str(folder / file))]
        rows = []
        for what, words in (("CSV", command), ("CSV, page and chart", [*command, *more])):
            memory: list[float] = []

            def seconds(words: list[str] = words, memory: list[float] = memory) -> float:
                taken, most = measure(words)
                memory.append(most)
                return taken

            rows.append(report.alone(f"leaderboard of {count} records, {what}", seconds, args))
            print(f"  {max(memory):.0f} MB of memory", flush=True)
        print(f"  {(folder / 'out.html').stat().st_size / 1e6:.1f} MB of page", flush=True)
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = report.benchmark_parser(__doc__)
    parser.add_argument("counts", nargs="*", type=int, help="default: 2500 5000 10000 20000")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = report.parse(build_parser(), argv)
    counts = [20] if args.quick else args.counts or [2500, 5000, 10000, 20000]
    rows = [measure_count(count, args) for count in counts]
    for (fewer, (before, *_)), (more, (after, *_)) in pairwise(zip(counts, rows, strict=True)):
        grown = (after.ours - before.ours) / (more - fewer) * 1000
        print(f"{fewer} to {more} records: {grown:.3f} s per thousand")
    report.release_pages([row for found in rows for row in found], args)


if __name__ == "__main__":
    main()
