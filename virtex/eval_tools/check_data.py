"""Check what a data root holds: what is missing, how much there is, and what fixes it.

    python eval_tools/check_data.py --data-root datasets
    python eval_tools/check_data.py --data-root datasets --task coco imagenet_linear
    python eval_tools/check_data.py --data-root datasets --task voc --deep
    python eval_tools/check_data.py --data-root datasets --json

For each task: every path it needs, the number of images and of what is said of them beside the
published numbers (a toy or a subset is no error), and images that annotations name and that are not
on disk: how many and the first of them, with --json all. Data that lie elsewhere, under another
name or still packed are recognized, and the command is printed that brings them into place. Nothing
is changed.

It is quick: folders are listed, annotation files are read, no image is opened. --deep decodes every
image and reads the annotations as the tools do. Exit status 0: all tasks that are asked for are
complete; 2: something is missing or broken, a sentence a task on stderr.
"""

import argparse
import json
import os

from virtex.cli import positive_int, run_tool, tool_parser
from virtex.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--data-root", default="datasets", metavar="DIR", help="default: datasets")
    parser.add_argument(
        "--task",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK",
        help="names as in evaluate_all.py, or pretraining, multilabel_pretraining (default: all)",
    )
    parser.add_argument("--deep", action="store_true", help="open every image and annotation")
    parser.add_argument(
        "--num-workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that decode images with --deep (default: the number of cores)",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    return parser


def main(args: argparse.Namespace) -> None:
    from virtex.data.check import check_data

    report = check_data(args.data_root, args.task, args.deep, args.num_workers)
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    if report.incomplete:
        raise UserError("\n".join(task.summary() for task in report.incomplete))


if __name__ == "__main__":
    run_tool(main, build_parser())
