"""Build a leaderboard from result records: CSV, Markdown, one HTML page, a chart.

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
from virtex.files import replace_file
from virtex.leaderboard.records import Duplicate, Skipped, printable, read_records
from virtex.leaderboard.table import Table, build_table, parse_labels
from virtex.leaderboard.text import csv_text, long_csv_text, markdown_text
from virtex.records import RECORD_NAME

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
    """A table of ``records`` records, and the skipped and duplicate files."""

    table: Table
    records: int
    skipped: Sequence[Skipped]
    duplicates: Sequence[Duplicate]

    def problems(self) -> list[str]:
        """Return a line for each file that was skipped or replaced."""
        return [str(problem) for problem in (*self.skipped, *self.duplicates)]

    def summary(self) -> str:
        """Return one line of counts."""
        measured = sum(row.model is not None for row in self.table.rows)
        published = len(self.table.rows) - measured
        counts = [
            count(measured, "model"),
            count(self.records, "record"),
            f"{len(self.skipped)} skipped",
            count(len(self.duplicates), "duplicate"),
        ]
        return ", ".join(counts + [f"{published} published"] * bool(published))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def make(
    results: Sequence[AnyPath],
    *,
    published: bool = False,
    tasks: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Leaderboard:
    """Build the leaderboard of every ``result.json`` below ``results``.

    Args:
        results: folders, or records.
        published: whether to add rows of published numbers.
        tasks: tasks to include; empty for all.
        labels: ``NAME=LABEL``: a model's recorded name, or 8 digits of its hash, and the name
            to display.

    Raises:
        UserError: a path does not exist, no record is valid, or a task or model is unknown.
    """
    found = read_records(results)
    if not found.records:
        first = ""
        if found.skipped:
            skipped = count(len(found.skipped), "file")
            first = f" ({skipped} skipped; {found.skipped[0].path}: {found.skipped[0].reason})"
        where = ", ".join(map(str, results))
        raise UserError(
            printable(
                f"no valid {RECORD_NAME} found in {where}{first}; specify a folder of results"
            ),
            "leaderboard.no_results",
        )
    numbers = []
    if published:
        from virtex.zoo import published_results

        numbers = published_results()
    records = found.records
    if tasks:
        known = {r.conditions.task for r in records} | {number.task for number in numbers}
        unknown = sorted(set(tasks) - known)
        if unknown:
            raise UserError(
                f"--tasks: no results of {', '.join(unknown)}; "
                f"there are results of {', '.join(sorted(known))}",
                "leaderboard.unknown_task",
            )
        records = [record for record in records if record.conditions.task in tasks]
        numbers = [number for number in numbers if number.task in tasks]
    table = build_table(records, numbers, parse_labels(labels, found.records))
    return Leaderboard(table, len(records), found.skipped, found.duplicates)


def write_csv(table: Table, path: AnyPath) -> None:
    """Write all metrics, one line per model; like all ``write_*``, raise UserError on failure."""
    write_file(path, csv_text(table).encode())


def write_long_csv(table: Table, path: AnyPath) -> None:
    """Write one line per model, task, protocol and metric."""
    write_file(path, long_csv_text(table).encode())


def write_markdown(table: Table, path: AnyPath) -> None:
    """Write a GitHub table of the primary metrics (``markdown_text(table)`` has all)."""
    write_file(path, markdown_text(table.primary()).encode())


def write_html(table: Table, path: AnyPath, title: str = "Leaderboard") -> None:
    """Write one self-contained page; it shows primary metrics, and the others on demand."""
    from virtex.leaderboard.page import page_text

    write_file(path, page_text(table, title).encode())


def write_plot(table: Table, path: AnyPath, title: str = "Leaderboard") -> None:
    """Write a chart of the primary metrics as ``.png``, ``.svg`` or ``.pdf``."""
    from virtex.leaderboard.plot import check_plot_path, plot_bytes

    check_plot_path(Path(path))
    write_file(path, plot_bytes(table.primary(), Path(path).suffix, title))


def check_outputs(paths: Sequence[Path]) -> None:
    """Create the parent folders of output files.

    Raises:
        UserError: a path cannot be written, is given twice, or would replace a record.
    """

    def reject(path: Path, reason: str) -> UserError:
        return UserError(f"{path} {reason}; choose another file", "leaderboard.output")

    for number, path in enumerate(paths):
        if os.path.realpath(path) in map(os.path.realpath, paths[:number]):
            raise reject(path, "is given for two outputs")
        if path.name == RECORD_NAME:
            raise reject(path, "is reserved for results")
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise reject(path, "is a folder or a device, not a file")
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise reject(path, f"cannot be written ({error.strerror})") from error
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise reject(path, "cannot be written (no permission for its folder)")


def write_file(path: AnyPath, content: bytes) -> None:
    """Replace ``path`` atomically.

    Raises:
        UserError: it cannot be written.
    """
    check_outputs([Path(path)])
    try:
        replace_file(Path(path), lambda file: file.write(content))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); choose another file",
            "leaderboard.output",
        ) from error
