#!/usr/bin/env python3
"""Evaluate many checkpoints on many tasks: plan, run what is missing, write the leaderboard.

examples:
  # every task of the paper, one run after the other, each on all GPUs
  python eval_tools/evaluate_all.py --checkpoint moco_v2_800ep.pth.tar torchvision://resnet50 \\
      --data-root datasets --output-dir output/all

  # print the runs and their commands; writes nothing
  ... --dry-run

  # some tasks, some under another protocol; three seeds each
  ... --tasks coco:1x voc07_svm imagenet_linear:cached imagenet_knn --seeds 0 1 2

  # 8 GPUs: 8 runs in parallel with a GPU each, or 2 runs with 4 GPUs each
  ... --max-parallel 8
  ... --max-parallel 2

  # options and config overrides of a task
  ... --arguments coco "SOLVER.IMS_PER_BATCH 16" --arguments voc07_svm "--ap voc11"

  # on a Slurm cluster, a job per run; preempted and timed out jobs are requeued and resume
  ... --launcher slurm --num-gpus 8 --slurm slurm_partition=gpu timeout_min=1200 mem_gb=128

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/evaluate_all.py --checkpoint 'random:resnet18?seed=0' \\
      'random:resnet18?seed=1' --tasks voc07_svm imagenet_knn imagenet_linear:toy-cached \\
      --protocol toy --data-root datasets/toy --output-dir output/toy_all --num-gpus 0

Run the same command again to continue: complete runs (the record is of the same checkpoint, data,
protocol, settings and seed) are skipped, partial ones resume, failed ones are run again. A failure
does not stop other runs. Tasks that do not support a checkpoint (captioning, for a backbone alone)
are skipped and listed.

OUTPUT_DIR contains CHECKPOINT/TASK/seed_N/, each as written by the task's own command; logs/, the
output of each command; leaderboard.csv, .md, .html and .png. Exit status: 0 all complete; 1 some
failed, each reported on stderr with reason and log; 2 invalid input, nothing was run; 130 or 75
interrupted (by Ctrl-C or SIGTERM; the same command resumes).
"""

import argparse
import sys
from collections.abc import Sequence

from virtex.cli import (
    CHECKPOINT,
    ToolParser,
    add_checkpoint_arguments,
    non_negative_int,
    positive_int,
    run_tool,
    tool_parser,
)
from virtex.evaluate_all.plan import evaluable_tasks
from virtex.tasks import TASKS


class Parser(ToolParser):
    def parse_known_intermixed_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Also parse ``--arguments TASK --flag``: argparse accepts no option as a value."""
        argv = sys.argv[1:] if args is None else list(args)
        for index, word in enumerate(argv[2:], 2):
            if argv[index - 2] == "--arguments":
                argv[index] = f" {word}"  # with a leading space it is not an option
        return super().parse_known_intermixed_args(argv, namespace)


def build_parser() -> argparse.ArgumentParser:
    tasks = evaluable_tasks()
    default = [name for name in tasks if TASKS[name].is_default]
    parser = tool_parser(__doc__, Parser)
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, metavar="CKPT", help=f"each a {CHECKPOINT}"
    )
    add_checkpoint_arguments(parser)
    parser.add_argument("--data-root", default="datasets", metavar="DIR", help="default: datasets")
    parser.add_argument(
        "--output-dir", default="output/all", metavar="DIR", help="default: output/all"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=default,
        metavar="TASK[:PROTOCOL]",
        help=f"choices: {', '.join(tasks)} (default: {' '.join(default)})",
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="for tasks without one (default: that of each task)"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=non_negative_int,
        default=[0],
        metavar="N",
        help="default: 0; tasks that do not depend on it (SVM, kNN) run with the first",
    )
    parser.add_argument(
        "--arguments",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "ARGS"),
        help="options and KEY VALUE pairs for a task's command, quoted; repeatable",
    )
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        metavar="N",
        help="data loading processes per GPU (default: that of each task)",
    )
    parser.add_argument(
        "--published", action="store_true", help="add published numbers to the leaderboard"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    resources = parser.add_argument_group("resources")
    resources.add_argument(
        "--num-gpus",
        type=non_negative_int,
        metavar="N",
        help="GPUs of this machine, or of each Slurm job; 0: CPU (default: all)",
    )
    resources.add_argument(
        "--max-parallel",
        type=positive_int,
        metavar="N",
        help="runs at the same time, which share the GPUs (default: 1; on Slurm: no limit)",
    )
    resources.add_argument(
        "--launcher",
        choices=("local", "slurm", "submitit-local"),
        default="local",
        help="local processes, Slurm jobs, or submitit's local jobs (default: local)",
    )
    resources.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of submitit's executor.update_parameters (default: "
        "timeout_min=1440, gpus_per_node and cpus_per_task for --num-gpus and --num-workers)",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.evaluate_all.command import evaluate_all

    return evaluate_all(args)


if __name__ == "__main__":
    run_tool(main, build_parser())
