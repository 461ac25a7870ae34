"""The command ``eval_tools/leaderboard.py``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from virtex import leaderboard
from virtex.errors import UserError
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Table

STDOUT = Path("-")
SUFFIXES = {"output": ".csv", "markdown": ".md", "html": ".html"}


def run(args: argparse.Namespace) -> int:
    """Write the outputs that the arguments request.

    Raises:
        UserError: no valid record was found, --strict found a problem, or a file cannot be
            written. In that case, nothing is written.
    """
    outputs = [path for path in (args.output, args.markdown, args.html, args.plot) if path]
    if args.long and not args.output:
        raise UserError("--long needs --output FILE, the CSV to write", "leaderboard.arguments")
    if outputs.count(STDOUT) > 1:
        raise UserError(
            "- is given for two outputs; specify a file for one", "leaderboard.arguments"
        )
    if args.plot:
        from virtex.leaderboard.plot import check_plot_path

        check_plot_path(args.plot)
    board = leaderboard.make(
        args.results, published=args.published, tasks=args.tasks, labels=args.label
    )
    for line in board.problems():
        print(line, file=sys.stderr)
    if args.strict and board.problems():
        raise UserError(
            f"--strict: {board.summary()}; fix or remove the files above", "leaderboard.strict"
        )
    check_suffixes(args)
    leaderboard.check_outputs([path for path in outputs if path != STDOUT])
    contents = render(args, board.table)
    printed = contents.pop(STDOUT, None)
    for path, content in contents.items():
        leaderboard.write_file(path, content)
    if printed is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(printed)
        sys.stdout.buffer.flush()
    elif not contents:
        ranking = board.table if args.metrics == "all" else board.table.primary()
        print(leaderboard.markdown_text(ranking))
    written = f"; wrote {', '.join(map(str, contents))}" if contents else ""
    # Standard output contains only the table, for programs that read it.
    stream = sys.stdout if printed is None else sys.stderr
    print(printable(f"{board.summary()}{written}"), file=stream)
    return 0


def check_suffixes(args: argparse.Namespace) -> None:
    """Replace existing files only by the same kind, so that README.md never becomes a CSV.

    Raises:
        UserError: an existing file has another suffix.
    """
    for flag, suffix in SUFFIXES.items():
        path = getattr(args, flag)
        if path and path != STDOUT and path.is_file() and path.suffix.lower() != suffix:
            raise UserError(
                f"--{flag} would replace the existing {path}; specify a file that ends in {suffix}",
                "leaderboard.output",
            )


def render(args: argparse.Namespace, table: Table) -> dict[Path, bytes]:
    """Return the content of each requested file, before any is written."""
    primary = table.primary()
    every = primary if args.metrics == "primary" else table
    ranking = table if args.metrics == "all" else primary
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
