"""What the command prints, and the leaderboard that it writes."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from virtex.evaluate_all.plan import UNSUPPORTED, Run
from virtex.text import redact

MAX_NAMES = 3  # of runs with the same reason


def print_plan(runs: Sequence[Run], resources: str) -> None:
    """Print the status of every run, and the command of each that is to be run."""
    print(tabulate([(run.name, run.status) for run in runs], headers=["run", "status"]))
    commands = [redact(shlex.join(run.command)) for run in runs if run.is_runnable]
    print(f"\nruns to execute: {len(commands)}, {resources}{':' if commands else ''}")
    print("\n".join(commands), flush=True)


def print_summary(runs: Sequence[Run]) -> None:
    """Print status, time and result of every run."""
    from virtex.engine.progress import duration

    rows = [
        (
            run.name,
            run.status,
            "" if run.seconds is None else duration(run.seconds),
            "" if run.record is None else format_score(run.record),
        )
        for run in runs
    ]
    print("\n" + tabulate(rows, headers=["run", "status", "time", "result"]), flush=True)


def format_score(record: dict) -> str:
    value = record["metrics"][record["primary_metric"]]
    return f"{record['primary_metric']} {'-' if value is None else format(value, '.2f')}"


def print_problems(runs: Sequence[Run], prog: str) -> None:
    """Print each reason once: of unsupported runs, and of failed ones, with logs, on stderr."""
    for (status, reason), some in group_by_reason(r for r in runs if r.status == UNSUPPORTED):
        print(f"{status}: {join_first([r.name for r in some])}: {reason}", flush=True)
    for (status, reason), some in group_by_reason(r for r in runs if r.has_failed):
        logs = join_first([str(r.log) for r in some if r.seconds is not None])
        log = f" (log: {logs})" if logs else ""
        names = join_first([r.name for r in some])
        print(f"{prog}: {status}: {names}: {reason}{log}", file=sys.stderr, flush=True)


def group_by_reason(runs: Iterable[Run]) -> Iterable[tuple[tuple[str, str], list[Run]]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.status, run.reason), []).append(run)
    return groups.items()


def join_first(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def write_leaderboard(out: Path, published: bool) -> None:
    """Write CSV, Markdown, page and plot of all records below ``out``.

    Args:
        published: add rows of published numbers.

    Raises:
        UserError: no record is valid, or a file cannot be written.
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
