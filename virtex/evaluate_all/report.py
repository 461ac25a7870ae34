"""What people are told: the plan, the end, and the leaderboard's files."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from virtex.evaluate_all.plan import NOT_FOR_IT, Entry
from virtex.evaluate_all.running import score_of

MOST_NAMES = 3  # of runs that failed for one reason


def print_plan(entries: Sequence[Entry], at_once: str) -> None:
    """A table of the runs, then the command line of each that is to be run."""
    print(tabulate([(e.run.name, e.status) for e in entries], headers=["run", "status"]))
    commands = [shlex.join(e.run.command) for e in entries if e.is_open]
    print(f"\n{len(commands)} to run, {at_once}{':' if commands else ''}")
    print("\n".join(commands), flush=True)


def print_summary(entries: Sequence[Entry]) -> None:
    """A table of what has become of the runs."""
    from virtex.engine.progress import duration

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
    for (status, reason), stopped in by_reason(e for e in entries if e.has_failed).items():
        names = some([e.run.name for e in stopped])
        logs = some([str(e.run.log) for e in stopped if e.seconds is not None])
        log = f" (log: {logs})" if logs else ""
        print(f"{prog}: {status}: {names}: {reason}{log}", file=sys.stderr, flush=True)


def print_unsuited(entries: Sequence[Entry]) -> None:
    """Which runs are left out because a task is not for the checkpoint, and why."""
    for (status, reason), left in by_reason(e for e in entries if e.status == NOT_FOR_IT).items():
        print(f"{status}: {some([e.run.name for e in left])}: {reason}", flush=True)


def by_reason(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Those of the same status and reason together."""
    reasons: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        reasons.setdefault((entry.status, entry.reason), []).append(entry)
    return reasons


def some(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def write_leaderboard(out: Path, published: bool) -> None:
    """CSV, Markdown, page and plot of every record below ``out``, of this command or not.

    Args:
        published: add rows of published numbers.

    Raises:
        UserError: there is no usable record, or a file cannot be written.
    """
    from virtex import leaderboard

    board = leaderboard.make([out], published=published)
    print("\n".join([*board.problems(), f"leaderboard: {board.summary()}"]))
    for file, write in (
        ("leaderboard.csv", leaderboard.write_csv),
        ("leaderboard.md", leaderboard.write_markdown),
        ("leaderboard.html", leaderboard.write_html),
        ("leaderboard.png", leaderboard.write_plot),
    ):
        write(board.table, out / file)
        print(f"  {out / file}", flush=True)
