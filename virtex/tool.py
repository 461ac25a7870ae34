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
