#!/usr/bin/env python3
"""Collect result records in one leaderboard: CSV, Markdown, a web page, a chart.

examples:
  # every result.json below the folder; one row per model, averaged over seeds
  python eval_tools/leaderboard.py output --output leaderboard.csv

  # one row per model, task, protocol and metric
  python eval_tools/leaderboard.py output --output long.csv --long

  # a table for a README; a self-contained page; a chart; with published numbers
  python eval_tools/leaderboard.py output other/output --published \\
      --markdown leaderboard.md --html leaderboard.html --plot leaderboard.svg

  # print detection results, with a shorter name for a model
  python eval_tools/leaderboard.py output --tasks coco lvis --label moco_v2_800ep.pth.tar=MoCo-v2

Numbers share a column only if task, protocol, overrides and data are the same; differences from a
task's default protocol are in brackets. Invalid records are skipped with a warning. If runs have
the same model, task, protocol and seed, only the newest is kept, with a warning. --strict turns
both into errors. Exit status: 0 success, 2 invalid input, 130 interrupted.
"""

import argparse
from pathlib import Path

from virtex.cli import add_zoo_argument, run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="result.json files, or folders with them"
    )
    outputs = parser.add_argument_group("outputs (default: print the Markdown table)")
    outputs.add_argument("--output", type=Path, metavar="FILE", help="CSV; - is standard output")
    outputs.add_argument("--long", action="store_true", help="write one row per number to the CSV")
    outputs.add_argument(
        "--markdown", type=Path, metavar="FILE", help="a table for a README; - is standard output"
    )
    outputs.add_argument("--html", type=Path, metavar="FILE", help="a self-contained page")
    outputs.add_argument("--plot", type=Path, metavar="FILE", help="a chart: .png, .svg or .pdf")
    outputs.add_argument("--title", default="Leaderboard", help="title of page and chart")
    content = parser.add_argument_group("content")
    content.add_argument(
        "--metrics",
        choices=("primary", "all"),
        help="primary metrics only, or all (default: all in the CSV, primary elsewhere; the page "
        "can show the others)",
    )
    content.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="only these tasks")
    content.add_argument("--published", action="store_true", help="add rows of published numbers")
    content.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=LABEL",
        help="show a model (its name in the records, or 8 digits of its hash) as LABEL; repeatable",
    )
    content.add_argument(
        "--strict", action="store_true", help="fail on skipped files and duplicates"
    )
    add_zoo_argument(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.leaderboard.tool import run

    return run(args)


if __name__ == "__main__":
    run_tool(main, build_parser())
