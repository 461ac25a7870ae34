"""Result records as a leaderboard: found, checked, grouped, averaged, and written.

>>> from virtex import leaderboard
>>> board = leaderboard.make(["output"])
>>> leaderboard.write_csv(board.table, "leaderboard.csv")
>>> leaderboard.write_html(board.table, "leaderboard.html")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virtex.errors import UserError
from virtex.leaderboard.finding import Duplicate, Skipped, read_records
from virtex.leaderboard.outputs import check_outputs, write
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Table, build_table, read_labels
from virtex.leaderboard.text import csv_text, long_csv_text, markdown_text

__all__ = [
    "Duplicate",
    "Leaderboard",
    "Skipped",
    "Table",
    "check_outputs",
    "csv_text",
    "long_csv_text",
    "make",
    "markdown_text",
    "write_csv",
    "write_html",
    "write_long_csv",
    "write_markdown",
    "write_plot",
]

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Leaderboard:
    """A table, and what did not get into it.

    Attributes:
        records: how many did.
    """

    table: Table
    records: int
    skipped: tuple[Skipped, ...]
    duplicates: tuple[Duplicate, ...]

    def problems(self) -> list[str]:
        """A line for each file that was skipped or replaced."""
        return [str(problem) for problem in (*self.skipped, *self.duplicates)]

    def summary(self) -> str:
        """One line of counts."""
        measured = [row for row in self.table.rows if row.model]
        published = len(self.table.rows) - len(measured)
        counts = [
            counted(len(measured), "model"),
            counted(self.records, "record"),
            f"{len(self.skipped)} skipped",
            counted(len(self.duplicates), "duplicate"),
        ]
        return ", ".join(counts + [f"{published} published"] * bool(published))


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def make(
    results: Sequence[AnyPath],
    *,
    published: bool = False,
    tasks: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Leaderboard:
    """The leaderboard of every ``result.json`` below ``results``.

    Args:
        results: folders, or records.
        published: add rows of published numbers.
        tasks: only these; all where it is empty.
        labels: ``NAME=LABEL``: a model's recorded name, or 8 digits of its hash, and the name
            to show.

    Raises:
        UserError: a path does not exist, no record is usable, or a task or model is unknown.
    """
    found = read_records(results)
    if not found.records:
        raise nothing_usable(results, found.skipped)
    numbers = []
    if published:
        from virtex.zoo import published_results

        numbers = published_results()
    records = found.records
    if tasks:
        there = {r.conditions.task for r in records} | {number.task for number in numbers}
        unknown = sorted(set(tasks) - there)
        if unknown:
            raise UserError(
                f"--tasks: there is no result of {', '.join(unknown)}; "
                f"there are results of {', '.join(sorted(there))}"
            )
        records = [record for record in records if record.conditions.task in tasks]
        numbers = [number for number in numbers if number.task in tasks]
    table = build_table(records, numbers, read_labels(labels, found.records))
    return Leaderboard(table, len(records), tuple(found.skipped), tuple(found.duplicates))


def nothing_usable(results: Sequence[AnyPath], skipped: Sequence[Skipped]) -> UserError:
    where = printable(", ".join(map(str, results)))
    first = ""
    if skipped:
        first = f" ({counted(len(skipped), 'file')} skipped; the first, {skipped[0].reason()})"
    return UserError(
        f"there is no usable result in {where}{first}; "
        "name a folder with result.json files of these tools"
    )


def write_csv(table: Table, path: AnyPath) -> None:
    """The table of all metrics: a row a model. Each ``write_`` raises UserError if it cannot."""
    write_checked(path, csv_text(table).encode())


def write_long_csv(table: Table, path: AnyPath) -> None:
    """A row for each model, task, protocol and metric."""
    write_checked(path, long_csv_text(table).encode())


def write_markdown(table: Table, path: AnyPath) -> None:
    """A GitHub table of the metrics that rank (``markdown_text(table)`` has all)."""
    write_checked(path, markdown_text(table.primary()).encode())


def write_html(table: Table, path: AnyPath, title: str = "Leaderboard") -> None:
    """One self-contained page; it shows the metrics that rank, and the others on demand."""
    from virtex.leaderboard.page import page_text

    write_checked(path, page_text(table, title).encode())


def write_plot(table: Table, path: AnyPath, title: str = "Leaderboard") -> None:
    """A chart of the metrics that rank, as ``.png``, ``.svg`` or ``.pdf``."""
    from virtex.leaderboard.plot import check_plot_path, plot_bytes

    check_plot_path(Path(path))
    write_checked(path, plot_bytes(table.primary(), Path(path).suffix, title))


def write_checked(path: AnyPath, content: bytes) -> None:
    check_outputs([Path(path)])
    write(Path(path), content)
