"""Can this machine and this Python run the toolkit? What is there, what is not, what to do.

    python -m virtex.doctor
    python -m virtex.doctor --json > report.json    # for a bug report
    python -m virtex.doctor --network               # also ask the servers that files come from

A line for each check: ok; note, where something optional is missing or slow; problem, where the
main job (training and scoring a detector) cannot run; and a command that fixes it. Nothing is
installed or written. Libraries are imported in processes of their own, so that one that is broken
or hangs hides no other. The home folder is told as ~; folders that are called as the user is, and
the name of the machine, are left out of what was found.

Exit status 0: no problem (notes are fine); 2: a problem.
"""

from __future__ import annotations

import argparse

from virtex.cli import above_zero, run_tool, tool_parser
from virtex.doctor.checks import CHECKS
from virtex.doctor.findings import SECONDS, report, run_checks
from virtex.doctor.machine import network


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.prog = "python -m virtex.doctor"
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--network", action="store_true", help="ask the servers that files are downloaded from"
    )
    parser.add_argument(
        "--seconds",
        type=above_zero,
        default=SECONDS,
        metavar="S",
        help=f"that a library may take to be imported (default: {SECONDS:g})",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    checks = (*CHECKS, network) if args.network else CHECKS
    report(run_checks(checks, args.seconds), in_json=args.json)


if __name__ == "__main__":
    run_tool(main, build_parser())
