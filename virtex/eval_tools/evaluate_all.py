#!/usr/bin/env python3
"""Evaluate many checkpoints on many tasks: plan, run what is missing, write the leaderboard.

examples:
  # every task of the paper, one run after the other, each on all GPUs there are
  python eval_tools/evaluate_all.py --checkpoint moco_v2_800ep.pth.tar torchvision://resnet50 \\
      --data-root datasets --output-dir output/all

  # what would be run, and by which commands; writes nothing
  ... --dry-run

  # some tasks, some under another protocol; three seeds each
  ... --tasks coco:1x voc07_svm imagenet_linear:cached imagenet_knn --seeds 0 1 2

  # 8 GPUs: 8 runs at the same time, a GPU each; or 2 runs of 4 GPUs
  ... --at-once 8
  ... --at-once 2

  # a task's own flags and settings
  ... --arguments coco "SOLVER.IMS_PER_BATCH 16" --arguments voc07_svm "--ap voc11"

  # on a Slurm cluster, a job a run, requeued and resumed when it is preempted or out of time
  ... --launcher slurm --num-gpus 8 --slurm slurm_partition=gpu timeout_min=1200 mem_gb=128

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/evaluate_all.py --checkpoint 'random:resnet18?seed=0' \\
      'random:resnet18?seed=1' --tasks voc07_svm imagenet_knn imagenet_linear:toy-cached \\
      --protocol toy --data-root datasets/toy --output-dir output/toy_all --num-gpus 0

The same command again skips what is complete (its record is of this file, data, protocol,
settings and seed), resumes what is not, and tries anew what failed. A failure stops no other run.
A task that is not for a checkpoint (captioning, for a backbone alone) is named and left out.

OUTPUT_DIR then holds CHECKPOINT/TASK/seed_N/, each as the task's own tool leaves it; logs/, with
what each tool printed; leaderboard.csv, .md, .html and .png. Exit status: 0 all complete; 1 some
failed, each named on stderr with its reason and log; 2 something to fix before anything can run;
130 or 75 interrupted (by Ctrl-C, by SIGTERM), to be resumed by the same command.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from virtex.cli import (
    CHECKPOINT,
    add_checkpoint_arguments,
    non_negative_int,
    positive_int,
    run_tool,
    tool_parser,
)
from virtex.evaluate_all.tasks import DEFAULT_TASKS, TASKS


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        required=True,
        metavar="CKPT",
        help=f"each a {CHECKPOINT}",
    )
    add_checkpoint_arguments(parser)
    parser.add_argument("--data-root", default="datasets", metavar="DIR", help="default: datasets")
    parser.add_argument(
        "--output-dir", default="output/all", metavar="DIR", help="default: output/all"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=DEFAULT_TASKS,
        metavar="TASK[:PROTOCOL]",
        help=f"of {', '.join(TASKS)} (default: {' '.join(DEFAULT_TASKS)})",
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="of the tasks that name none (default: each its own)"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=non_negative_int,
        default=[0],
        metavar="N",
        help="default: 0; one is enough where the result does not depend on it (SVM, neighbors)",
    )
    parser.add_argument(
        "--arguments",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "WORDS"),
        help="more flags and KEY VALUE pairs for a task's tool, in one word; may be given again",
    )
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        metavar="N",
        help="processes that load images, for each GPU (default: the tools' own)",
    )
    parser.add_argument(
        "--published", action="store_true", help="published numbers in the leaderboard, too"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    add_machine_arguments(parser)
    return parser


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the runs are run, and how many at the same time."""
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--num-gpus",
        type=non_negative_int,
        metavar="N",
        help="of this machine, or of each job on a cluster; 0: CPU (default: all)",
    )
    machines.add_argument(
        "--at-once",
        type=positive_int,
        metavar="N",
        help="runs at the same time, which share the GPUs out evenly (default: 1; on a cluster: "
        "no limit)",
    )
    machines.add_argument(
        "--launcher",
        choices=("here", "slurm", "submitit-local"),
        default="here",
        help="this machine, a cluster, or the cluster's way on this machine (default: here)",
    )
    machines.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="what each job asks for, as submitit's executor.update_parameters takes it "
        "(default: timeout_min=1440, gpus_per_node as --num-gpus, cpus_per_task to load images)",
    )


def main(args: argparse.Namespace) -> int:
    from virtex.evaluate_all.command import evaluate_all

    return evaluate_all(args, Path(__file__).resolve().parent, Path(__file__).name)


def words_of_arguments(argv: Sequence[str]) -> list[str]:
    """``--arguments TASK --flag`` as argparse can read it: a value with a blank is no flag."""
    return [
        f" {word}" if place >= 2 and argv[place - 2] == "--arguments" else word
        for place, word in enumerate(argv)
    ]


if __name__ == "__main__":
    run_tool(main, build_parser(), words_of_arguments(sys.argv[1:]))
