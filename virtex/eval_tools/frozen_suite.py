#!/usr/bin/env python3
"""Evaluate the frozen features of a backbone on many datasets.

examples:
  # logistic regression on every dataset of the suite
  python eval_tools/frozen_suite.py --checkpoint moco_v2_800ep.pth.tar \\
      --data-root datasets --output-dir output/moco_v2/suite

  # list what is missing and where to get it; evaluate only the datasets found
  ... --dry-run
  ... --skip-missing

  # some datasets; also k-NN and 1 to 16 images per class, on the same features
  ... --tasks food101 dtd pets --protocols logistic knn low-shot

  # resume: finished datasets are skipped
  ... --resume

Writes a folder per dataset and protocol to OUTPUT_DIR with result.json (metrics on the test images,
the selected regularization strength, every deviation from the protocol, the checkpoint's hash),
config.yaml and log.txt. Features are extracted once and cached.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM (continue
with --resume).
"""

import argparse

from virtex.cli import add_feature_arguments, add_probe_arguments, run_tool, tool_parser
from virtex.tasks.suite import SUITE_TASKS

PROTOCOLS = tuple(dict.fromkeys(name for task in SUITE_TASKS.values() for name in task.protocols))


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/frozen_suite")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=tuple(SUITE_TASKS),
        default=tuple(SUITE_TASKS),
        metavar="NAME",
        help=f"default: all, {', '.join(SUITE_TASKS)}",
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=PROTOCOLS,
        default=("logistic",),
        metavar="NAME",
        help=f"some of {', '.join(PROTOCOLS)}; default: logistic",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="skip datasets not found in the data root"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the datasets and what is missing, and exit"
    )
    add_feature_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.suite import list_suite, plan_suite, select_tasks

    if args.dry_run:
        print(list_suite(args))
        return 0
    if args.skip_missing and not args.list_cache:
        args.tasks = select_tasks(args)
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan_suite)


if __name__ == "__main__":
    run_tool(main, build_parser())
