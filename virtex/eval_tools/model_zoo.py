#!/usr/bin/env python3
"""List and download the models of the zoo, and print the configs they were trained with.

examples:
  # all models: architecture, contents of the file, license, published numbers
  python eval_tools/model_zoo.py list
  python eval_tools/model_zoo.py list moco 'swav/*800ep' --json

  # the YAML that reproduces a model: every setting of its pretraining
  python eval_tools/model_zoo.py config width_ablations/bicaptioning_R_50_L1_H2048 -o virtex.yaml
  python -m virtex.pretrain --config virtex.yaml --data-root datasets --output-dir output/virtex

  # download verified weights into the cache; also copy them to a folder
  python eval_tools/model_zoo.py download moco/v2_800ep
  python eval_tools/model_zoo.py download torchvision/resnet50 hub/resnet50 --output-dir models

  # use a name as the checkpoint of any tool; it is downloaded once
  python eval_tools/voc07_svm.py --checkpoint virtex://moco/v2_800ep ...

  # add your own models (same format as model_zoo.yaml), or set $VIRTEX_ZOO to files separated
  # by ":"
  python eval_tools/model_zoo.py list --zoo my_zoo.yaml
  python eval_tools/inspect_checkpoint.py virtex://my/model --zoo my_zoo.yaml

The last part of a name is sufficient if it is unique. Downloads are resumed, retried, continued
from the next mirror, and verified; the sha256 is pinned at the first use. Files are stored in
iopath's cache ($FVCORE_CACHE). Exit status: 0 success, 2 invalid input, 130 interrupted.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from virtex.cli import add_zoo_argument, run_tool, tool_parser
from virtex.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list all models")
    listing.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="show only names that contain or match it: 'moco*'",
    )
    listing.add_argument("--json", action="store_true", help="print all fields as JSON")

    config = commands.add_parser("config", help="print the YAML that reproduces a model")
    config.add_argument("name", help="name of a model")
    config.add_argument("-o", "--output", metavar="FILE", help="write to a new file")

    download = commands.add_parser("download", help="download files and print their paths")
    download.add_argument("names", nargs="+", metavar="NAME")
    download.add_argument("-o", "--output-dir", metavar="DIR", help="also copy the files there")

    for command in (listing, config, download):
        add_zoo_argument(command)
    return parser


def main(args: argparse.Namespace) -> None:
    {"list": show, "config": write_config, "download": download}[args.command](args)


def show(args: argparse.Namespace) -> None:
    from virtex import zoo
    from virtex.zoo.listing import as_json, as_table

    found = [entry for name, entry in zoo.entries().items() if matches(name, args.patterns)]
    if not found:
        wanted = " or ".join(map(repr, args.patterns))
        raise UserError(
            f"no model matches {wanted}; run list without patterns to show all", "zoo.no_match"
        )
    print(json.dumps(as_json(found), indent=2) if args.json else as_table(found))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name contains or matches a pattern, ignoring case; no patterns match all."""
    name, wanted = name.lower(), [pattern.lower() for pattern in patterns]
    return not wanted or any(part in name or fnmatchcase(name, part) for part in wanted)


def write_config(args: argparse.Namespace) -> None:
    from virtex import zoo
    from virtex.files import replace_file

    text = zoo.config_yaml(args.name)
    if not args.output:
        print(text, end="")
        return
    path = Path(args.output)
    if path.is_file() and path.read_bytes() != text.encode():
        raise UserError(f"--output {path} already exists; name a new file", "zoo.output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(
            f"--output {path} cannot be written: {error.strerror}; name another file", "zoo.output"
        ) from error
    print(path)


def download(args: argparse.Namespace) -> None:
    from virtex import zoo

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("virtex.download").setLevel(logging.INFO)
    for name in args.names:
        zoo.find(name)  # a misspelled name is reported before anything is downloaded
    failed = []
    for name in args.names:
        try:
            print(zoo.download(name, args.output_dir), flush=True)
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("; ".join(failed), "zoo.download")


if __name__ == "__main__":
    run_tool(main, build_parser())
