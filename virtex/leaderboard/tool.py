"""What ``eval_tools/leaderboard.py`` does: read, refuse what --strict does, write, tell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from virtex import leaderboard
from virtex.errors import UserError
from virtex.leaderboard.outputs import check_outputs, write
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Table

STDOUT = Path("-")
ENDINGS = {"output": ".csv", "markdown": ".md", "html": ".html"}


def run(args: argparse.Namespace) -> int:
    """Make the leaderboard that the arguments ask for.

    Raises:
        UserError: nothing usable was found, --strict found something, or a file cannot be
            written; then none is.
    """
    outputs = [path for path in (args.output, args.markdown, args.html, args.plot) if path]
    if args.long and not args.output:
        raise UserError("--long is a form of the CSV; name its file with --output")
    if outputs.count(STDOUT) > 1:
        raise UserError("- is named for two outputs; give one of them a file")
    if args.plot:
        from virtex.leaderboard.plot import check_plot_path

        check_plot_path(args.plot)
    board = leaderboard.make(
        args.results, published=args.published, tasks=args.tasks, labels=args.label
    )
    for line in board.problems():
        print(line, file=sys.stderr)
    if args.strict and board.problems():
        raise UserError(f"--strict: {board.summary()}; fix or remove what is named above")
    check_endings(args)
    check_outputs([path for path in outputs if path != STDOUT])
    contents = render(args, board.table)
    printed = contents.pop(STDOUT, None)
    for path, content in contents.items():
        write(path, content)
    if printed is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(printed)
        sys.stdout.buffer.flush()
    elif not contents:
        ranking = board.table if args.metrics == "all" else board.table.primary()
        print(leaderboard.markdown_text(ranking))
    written = f"; wrote {', '.join(map(str, contents))}" if contents else ""
    # what reads standard output is to get a table and nothing else
    said_to = sys.stdout if printed is None else sys.stderr
    print(printable(f"{board.summary()}{written}"), file=said_to)
    return 0


def check_endings(args: argparse.Namespace) -> None:
    """An existing file is replaced by one of its own kind, so that README.md never holds a CSV.

    Raises:
        UserError: a file that is there has an ending of another kind.
    """
    for flag, ending in ENDINGS.items():
        path = getattr(args, flag)
        if path and path != STDOUT and path.is_file() and path.suffix.lower() != ending:
            raise UserError(
                f"{path} is there already, and --{flag} would replace it; name a file in {ending}"
            )


def render(args: argparse.Namespace, table: Table) -> dict[Path, bytes]:
    """The content of each file that is asked for, before any is written."""
    primary = table.primary()
    every, ranking = (
        primary if args.metrics == "primary" else table,
        table if args.metrics == "all" else primary,
    )
    title, contents = printable(args.title), {}
    if args.output:
        text = leaderboard.long_csv_text if args.long else leaderboard.csv_text
        contents[args.output] = text(every).encode()
    if args.markdown:
        contents[args.markdown] = leaderboard.markdown_text(ranking).encode()
    if args.html:
        from virtex.leaderboard.page import page_text

        page = page_text(every, title, show_all=args.metrics == "all")
        contents[args.html] = page.encode()
    if args.plot:
        from virtex.leaderboard.plot import plot_bytes

        contents[args.plot] = plot_bytes(ranking, args.plot.suffix, title)
    return contents
