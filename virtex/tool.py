"""What every command-line tool does the same way.

A tool reads top to bottom: ``build_parser``, then ``main(args)``, then
``run_tool(main, build_parser())``. Heavy imports belong inside ``main``, so that
``--help`` answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from virtex.errors import UserError


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the tool's docstring (``doc``), examples included."""
    summary, _, rest = doc.strip().partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format`` and ``--trust-pickle``: how a checkpoint file is to be read."""
    parser.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="checkpoint format; auto recognises it (default: auto)",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="allow the file to run code while it is unpickled; only for files you trust",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """``--resume``, ``--overwrite``, ``--skip-bad-images``, the machines, ``KEY VALUE``."""
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="continue the run in --output-dir")
    folder.add_argument("--overwrite", action="store_true", help="replace the run there")
    parser.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="train on without images that cannot be read (each is named in the log)",
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--num-gpus", type=non_negative, metavar="N", help="on this machine; 0: CPU (default: all)"
    )
    machines.add_argument("--num-machines", type=int, default=1, metavar="N")
    machines.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this one")
    machines.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="settings, written as in the config"
    )


def non_negative(text: str) -> int:
    """An argument that is a whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def run_tool(
    main: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse, run, and leave: status 0 done, 2 the user must mend something, 130 interrupted."""
    # KEY VALUE pairs may stand anywhere between the flags
    args = parser.parse_intermixed_args(argv)
    try:
        status = main(args)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 0
    sys.exit(status or 0)
