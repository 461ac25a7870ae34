"""Format the table as text: CSV for programs and spreadsheets, Markdown for a README."""

from __future__ import annotations

import re

import pandas as pd
from tabulate import tabulate

from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Table

# Prefixes that make a spreadsheet evaluate text as a formula (OWASP, "CSV injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
# Markdown syntax: underscores only at the ends of words, brackets only in links.
MARKUP = re.compile(r"[\\`*<>|~&$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")
LONG_COLUMNS = (
    "model", "kind", "arch", "sha256", "task", "protocol", "version", "overrides", "data",
    "metric", "primary", "mean", "std", "n", "seeds", "created", "source",
)  # fmt: skip
STATISTICS = ("", "_std", "_n")


def csv_text(table: Table) -> str:
    """Return one line per model; per column its mean, ``…_std`` and ``…_n``, where defined."""
    cells, rows = format_statistics(table), range(len(table.rows))
    wide = cells.pivot(index="row", columns="column", values=list(STATISTICS))
    order = [(statistic, n) for n in range(len(table.columns)) for statistic in STATISTICS]
    wide = wide.reindex(index=rows, columns=pd.MultiIndex.from_tuples(order)).fillna("")
    wide.columns = [safe(table.columns[n].label + statistic) for statistic, n in order]
    about = pd.DataFrame(
        [
            [safe(row.name), row.kind, safe(row.arch), safe(row.sha256), safe(row.source)]
            for row in table.rows
        ],
        columns=["model", "kind", "arch", "sha256", "source"],
    )
    return as_csv(pd.concat([about, wide], axis=1))


def long_csv_text(table: Table) -> str:
    """Return one line per number: model, task, protocol (with overrides and data), metric."""
    lines = []
    statistics = format_statistics(table)[list(STATISTICS)].itertuples(index=False, name=None)
    for cell, numbers in zip(table.cells.itertuples(index=False), statistics, strict=True):
        row, column = table.rows[cell.row], table.columns[cell.column]
        conditions = column.conditions
        runs = row.runs.get(conditions, ())
        newest = max(runs, key=lambda run: (run.when, run.shown), default=None)
        seeds = [str(run.seed) for run in runs if run.metrics.get(column.metric) is not None]
        before = (
            row.name, row.kind, row.arch, safe(row.sha256), conditions.task, conditions.protocol,
            conditions.version, conditions.overrides, conditions.data, column.metric,
            "yes" if column.primary else "",
        )  # fmt: skip
        after = " ".join(seeds), newest.created if newest else "", cell.source
        lines.append((*map(safe, before), *numbers, *map(safe, after)))
    return as_csv(pd.DataFrame(lines, columns=list(LONG_COLUMNS)))


def format_statistics(table: Table) -> pd.DataFrame:
    """Return the cells with mean, std and n as text, empty where undefined."""
    cells = table.cells
    mean, std = cells["mean"].map("{:.4f}".format), cells["std"].map("{:.4f}".format)
    n = cells["n"].astype(str)
    return cells[["row", "column"]].assign(
        **{"": mean, "_std": std.mask(cells["std"].isna(), ""), "_n": n.mask(cells["n"] == 0, "")}
    )


def safe(text: str) -> str:
    """Prefix text that a spreadsheet would evaluate as a formula with an apostrophe."""
    guarded = f"'{text}" if text.startswith(FORMULA_STARTS) else text
    # CSV readers disagree on both characters.
    return guarded.replace("\r", " ").replace("\0", " ")


def as_csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def markdown_text(table: Table) -> str:
    """Return a GitHub table: mean ± std (n), without ± where all seeds gave the same number.

    The best measured number of a column is bold.
    """
    sources = any(row.source for row in table.rows)
    lines = [[""] * (1 + len(table.columns) + sources) for _ in table.rows]
    for line, row in zip(lines, table.rows, strict=True):
        line[0] = escape_markdown(row.name) + (" (published)" if row.model is None else "")
        if sources:
            line[-1] = escape_markdown(row.source)
    for cell in table.cells.itertuples(index=False):
        mean = f"**{cell.mean:.2f}**" if cell.best else f"{cell.mean:.2f}"
        lines[cell.row][1 + cell.column] = " ".join([mean, *format_spread(cell.std, cell.n)])
    labels = [escape_markdown(column.label) for column in table.columns]
    align = ["left", *["right"] * len(labels), *["left"] * sources]
    heads = ["model", *labels, *["source"] * sources]
    text = tabulate(lines, heads, tablefmt="pipe", colalign=align, disable_numparse=True)
    return text + "\n"


def format_spread(std: float, n: int) -> list[str]:
    """Return "± std" and "(n)" of several seeds.

    Seeds that all gave the same number have no ±: the task does not depend on the seed (SVM,
    nearest neighbors), and "± 0.00" would look like a measured variance.
    """
    if n < 2:
        return []
    return [f"± {std:.2f}", f"({n})"] if std > 0 else [f"({n})"]


def escape_markdown(text: str) -> str:
    """Escape characters that would end a cell or be formatted."""
    return MARKUP.sub(r"\\\g<0>", printable(text))
