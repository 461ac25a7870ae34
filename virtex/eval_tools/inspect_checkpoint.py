"""Show the format, architecture, input and coverage of a checkpoint.

    python eval_tools/inspect_checkpoint.py torchvision://resnet50
    python eval_tools/inspect_checkpoint.py moco_v2_800ep_pretrain.pth.tar --json
    python eval_tools/inspect_checkpoint.py checkpoint.pth --format dino_student
    python eval_tools/inspect_checkpoint.py --list-formats

A checkpoint is a local path, https://…, virtex://NAME (model_zoo.py list), torchvision://NAME or
random:NAME?seed=N. Exit status: 0 complete backbone; 2 incomplete or unreadable, with the reason
on stderr.
"""

import argparse
import json

from virtex.cli import add_checkpoint_arguments, run_tool, tool_parser
from virtex.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="path or name of the checkpoint")
    add_checkpoint_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, also if incomplete")
    parser.add_argument("--list-formats", action="store_true", help="print the known formats")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.list_formats:
        from virtex.checkpoints.formats import format_table

        print(format_table())
        return
    if args.checkpoint is None:
        raise UserError(
            "the following arguments are required: checkpoint (or --list-formats)",
            "arguments.missing",
        )

    from virtex.checkpoints.loading import inspect_checkpoint

    try:
        found = inspect_checkpoint(args.checkpoint, args.format, args.trust_pickle)
    except UserError as error:
        if args.json:
            print(
                json.dumps({"complete": False, "problem": str(error), "code": error.code}, indent=2)
            )
        raise
    print(json.dumps(found.as_dict(), indent=2) if args.json else found.as_text())
    if found.error:
        raise found.error


if __name__ == "__main__":
    run_tool(main, build_parser())
