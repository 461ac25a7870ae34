"""Check the contents of a data root: missing paths, counts and missing images.

    python eval_tools/check_data.py --data-root datasets
    python eval_tools/check_data.py --data-root datasets --task coco imagenet_linear
    python eval_tools/check_data.py --data-root datasets --task voc --deep
    python eval_tools/check_data.py --data-root datasets --json

For each task, prints every path it needs, the numbers of images and annotations next to the
published ones (a toy version or a subset is not an error), and the number and first names of images
that annotations refer to but that are missing (all names with --json). Changes nothing.

By default, no image is opened; --deep decodes every image and reads the annotations as the tasks
do. Exit status: 0 the data of all selected tasks are complete; 2 data are missing or malformed,
with one line per task on stderr.
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
    parser.add_argument(
        "--deep", action="store_true", help="decode every image and read all annotations"
    )
    parser.add_argument(
        "--num-workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that decode images with --deep (default: number of cores)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    return parser


def main(args: argparse.Namespace) -> None:
    from virtex.check_data import check_data

    report = check_data(args.data_root, args.task, args.deep, args.num_workers)
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    if report.incomplete:
        raise UserError(
            "\n".join(task.summary() for task in report.incomplete), code="data.incomplete"
        )


if __name__ == "__main__":
    run_tool(main, build_parser())
