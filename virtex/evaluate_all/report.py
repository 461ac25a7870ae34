"""What people are told: the plan, the end, and the leaderboard's files."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from virtex.evaluate_all.plan import FAILED, Entry
from virtex.evaluate_all.running import score_of


def print_plan(entries: Sequence[Entry], at_once: str) -> None:
    """A table of the runs, then the command line of each that is to be run."""
    print(tabulate([(e.run.name, e.status) for e in entries], headers=["run", "status"]))
    commands = [shlex.join(e.run.command) for e in entries if e.is_open]
    print(f"\n{len(commands)} to run, {at_once}:")
    print("\n".join(commands), flush=True)


def print_summary(entries: Sequence[Entry]) -> None:
    """A table of what has become of the runs."""
    from virtex.training.progress import duration

    rows = [
        (
            e.run.name,
            e.status,
            "" if e.seconds is None else duration(e.seconds),
            "" if e.record is None else score_of(e.record),
        )
        for e in entries
    ]
    print("\n" + tabulate(rows, headers=["run", "status", "time", "result"]), flush=True)


def print_failures(entries: Sequence[Entry], prog: str) -> None:
    """Each reason once, on stderr, with the runs it stopped and their logs."""
    reasons: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.status == FAILED:
            reasons.setdefault(entry.reason, []).append(entry)
    for reason, failed in reasons.items():
        names = ", ".join(e.run.name for e in failed)
        logs = ", ".join(str(e.run.log) for e in failed if e.seconds is not None)
        print(
            f"{prog}: failed: {names}: {reason}" + (f" (log: {logs})" if logs else ""),
            file=sys.stderr,
            flush=True,
        )


def write_leaderboard(out: Path) -> None:
    """CSV, Markdown, page and plot of every record below ``out``, of this command or not.

    Raises:
        UserError: there is no usable record, or a file cannot be written.
    """
    from virtex import leaderboard

    board = leaderboard.make([out])
    print("\n".join([*board.problems(), f"leaderboard: {board.summary()}"]))
    for file, write in (
        ("leaderboard.csv", leaderboard.write_csv),
        ("leaderboard.md", leaderboard.write_markdown),
        ("leaderboard.html", leaderboard.write_html),
        ("leaderboard.png", leaderboard.write_plot),
    ):
        write(board.table, out / file)
        print(f"  {out / file}", flush=True)
