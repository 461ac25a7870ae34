"""Can this machine and this Python run the toolkit? What is there, what is not, what to do.

    python -m virtex.doctor
    python -m virtex.doctor --json > report.json    # for a bug report
    python -m virtex.doctor --network               # also ask the servers that files come from

A line for each check: ok; note, where something optional is missing or slow; problem, where the
main job (training and scoring a detector) cannot run; and a command that mends it. Nothing is
installed or written. Libraries are imported in processes of their own, so that one that is broken
or hangs hides no other. Names of the user and of the machine are left out; the home folder is ~.

Exit status 0: no problem (notes are fine); 2: a problem.
"""

from __future__ import annotations

import argparse
import json

from virtex.doctor.captions import caption_programs, java
from virtex.doctor.findings import PROBLEM, Check, Limits, as_json, as_text, run_checks
from virtex.doctor.gpus import torch_and_gpus
from virtex.doctor.libraries import (
    LIBRARIES,
    detectron2,
    requirements,
    this_python,
    this_toolkit,
    torchvision,
)
from virtex.doctor.machine import cores, folders, memory, network, shared_memory, threads
from virtex.errors import UserError
from virtex.tool import above_zero, run_tool, tool_parser


def all_checks() -> tuple[Check, ...]:
    """In the order in which they are told."""
    return (
        this_toolkit,
        this_python,
        requirements,
        torch_and_gpus,
        torchvision,
        detectron2,
        *LIBRARIES,
        java,
        caption_programs,
        memory,
        cores,
        threads,
        shared_memory,
        *folders(),
        network,
    )


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
        default=Limits.seconds,
        metavar="S",
        help=f"that a library may take to be imported (default: {Limits.seconds})",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    findings = run_checks(all_checks(), Limits(args.seconds, args.network))
    print(json.dumps(as_json(findings), indent=2) if args.json else as_text(findings))
    problems = [finding.check for finding in findings if finding.state == PROBLEM]
    if problems:
        raise UserError(f"the main job cannot run: mend {', '.join(problems)}")


if __name__ == "__main__":
    run_tool(main, build_parser())
