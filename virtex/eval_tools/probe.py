#!/usr/bin/env python3
"""Evaluate a backbone on a task that your own file registers (see docs/extending.md).

examples:
  # my_task.py registers a task named flowers
  VIRTEX_TASKS=my_task.py python eval_tools/probe.py --task flowers \\
      --checkpoint moco_v2_800ep.pth.tar --data-root datasets --output-dir output/flowers

  # another protocol of the task; overrides of its settings; list the feature cache
  ... --protocol toy
  ... PROBE.NUM_EPOCHS 20
  python eval_tools/probe.py --list-cache

Writes to OUTPUT_DIR: result.json (metrics, protocol, every deviation from it, the checkpoint's
hash), log.txt, metrics.json, TensorBoard events, config.yaml, and run.json for --resume.
evaluate_all.py, leaderboard.py and check_data.py support the task, too.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM (continue
with --resume).
"""

import argparse

from virtex.cli import (
    add_classifier_training_arguments,
    add_feature_arguments,
    add_probe_arguments,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--task", metavar="NAME", help="a task registered by $VIRTEX_TASKS")
    add_probe_arguments(parser, "output/probe")
    parser.add_argument("--protocol", metavar="NAME", help="default: the task's first protocol")
    add_feature_arguments(parser)
    add_classifier_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.errors import UserError
    from virtex.tasks import get_task, plan_task

    if not args.list_cache:
        if args.task is None:
            raise UserError("--task is missing; name a registered task", "arguments.missing")
        task = get_task(args.task)
        if task.command != "probe":
            raise UserError(
                f"--task {task.name} has a command of its own; run eval_tools/{task.command}.py",
                "arguments.wrong_command",
            )
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan_task)


if __name__ == "__main__":
    run_tool(main, build_parser())
