"""The table as text: CSV for programs and spreadsheets, Markdown for a README."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from virtex.leaderboard.columns import Column
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Cell, Row, Table, best_measured

# What makes a spreadsheet take text for a formula (OWASP, "CSV injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
# what Markdown formats: underscores only at the ends of words, brackets only in links
MARKUP = re.compile(r"[\\`*<>|~&$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")
LONG_COLUMNS = (
    "model", "kind", "arch", "sha256", "task", "protocol", "version", "deviations", "data",
    "metric", "primary", "mean", "std", "n", "seeds", "created", "source",
)  # fmt: skip


def csv_text(table: Table) -> str:
    """A row a model; for each column its mean, ``…_std`` and ``…_n``, empty where undefined."""
    head = ["model", "kind", "arch", "sha256", "source"]
    for column in table.columns:
        head += [column.label, f"{column.label}_std", f"{column.label}_n"]
    lines = [[plain_text(text) for text in head]]
    for row in table.rows:
        about = [row.name, row.kind, row.arch, row.model.sha256 if row.model else "", row.source]
        line = [plain_text(text) for text in about]
        for column in table.columns:
            line += numbers(row.cells.get(column))
        lines.append(line)
    return as_csv(lines)


def long_csv_text(table: Table) -> str:
    """A row for each model, task, protocol (with deviations and data) and metric."""
    lines: list[Sequence[str]] = [LONG_COLUMNS]
    place = {column: number for number, column in enumerate(table.columns)}
    for row in table.rows:
        # its own columns alone: of thousands of settings a row has a few
        for column in sorted(row.cells.keys() & place.keys(), key=place.__getitem__):
            lines.append(long_line(row, column, row.cells[column]))
    return as_csv(lines)


def long_line(row: Row, column: Column, cell: Cell) -> list[str]:
    conditions, runs = column.conditions, cell.runs
    defined = [run for run in runs if run.metrics.get(column.metric) is not None]
    newest = max(runs, key=lambda run: (run.when, run.shown), default=None)
    before = [
        row.name, row.kind, row.arch, row.model.sha256 if row.model else "", conditions.task,
        conditions.protocol, conditions.version, conditions.deviations, conditions.data,
        column.metric, "yes" if column.primary else "",
    ]  # fmt: skip
    after = [
        " ".join(str(run.seed) for run in defined),
        newest.created if newest else "",
        cell.source,
    ]
    return [*map(plain_text, before), *numbers(cell), *map(plain_text, after)]


def numbers(cell: Cell | None) -> tuple[str, str, str]:
    """Mean, std and n, each "" where it is not defined."""
    if cell is None:
        return "", "", ""
    std = "" if cell.std is None else f"{cell.std:.4f}"
    return f"{cell.mean:.4f}", std, str(cell.n or "")


def plain_text(text: str) -> str:
    """Text that a spreadsheet does not run: behind an apostrophe if it looks like a formula."""
    guarded = f"'{text}" if text.startswith(FORMULA_STARTS) else text
    # the csv module quotes neither, and neither writes nor reads them reliably
    return guarded.replace("\r", " ").replace("\0", " ")


def as_csv(lines: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def markdown_text(table: Table) -> str:
    """A GitHub table: mean ± std (n), without ± where all seeds gave the same number.

    The best measured number of a column is bold.
    """
    best = {column: best_measured(column, cells) for column, cells in table.by_column().items()}
    sources = any(row.source for row in table.rows)
    head = ["model", *(in_markdown(column.label) for column in table.columns)]
    lines = [head + ["source"] * sources]
    for row in table.rows:
        name = in_markdown(row.name) + (" (published)" if row.model is None else "")
        numbers = [number_text(row, column, best[column]) for column in table.columns]
        lines.append([name, *numbers] + [in_markdown(row.source)] * sources)
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    left = {0, len(head)}
    rule = ["-" * w if i in left else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    text = [table_line(lines[0], widths, left), f"| {' | '.join(rule)} |"]
    text += [table_line(line, widths, left) for line in lines[1:]]
    return "\n".join(text) + "\n"


def number_text(row: Row, column: Column, best: float | None) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return ""
    mean = f"{cell.mean:.2f}"
    if row.model and cell.mean == best:
        mean = f"**{mean}**"
    spread = f" ± {cell.spread:.2f}" if cell.spread else ""
    return f"{mean}{spread} ({cell.n})" if cell.n > 1 else mean


def table_line(texts: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    padded = [
        text.ljust(width) if number in left else text.rjust(width)
        for number, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def in_markdown(text: str) -> str:
    """Text that neither ends a cell nor is formatted."""
    return MARKUP.sub(r"\\\g<0>", printable(text))
