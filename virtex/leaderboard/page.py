"""Render the table as one HTML page, readable offline and without scripts.

``page.html.j2`` renders the columns that are shown initially; ``page.js`` renders the others in the
same way, from the data in the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from virtex import pages
from virtex.leaderboard.columns import Column, current_version
from virtex.leaderboard.records import Conditions
from virtex.leaderboard.table import SHORT_HASH, Row, Table

if TYPE_CHECKING:
    from virtex.zoo import PublishedResult

MAX_SHOWN = 200  # columns shown initially; each has a cell in every row, filled or not
SHORTEST_BAR = 6  # percent of a cell: the column's worst value is still a bar
DIGITS = 4  # after the point, of the numbers that are sorted and listed


def page_text(table: Table, title: str = "Leaderboard", show_all: bool = False) -> str:
    """Return the page.

    Args:
        show_all: initially show all columns, not only primary metrics; at most ``MAX_SHOWN``
            in either case, the others on demand.

    Raises:
        UserError: a zoo file, which contains published numbers, is invalid.
    """
    # Measured columns first: they are visible without scrolling past published numbers.
    measured = set(table.cells.loc[table.cells["n"] > 0, "column"])
    table = table.select(sorted(range(len(table.columns)), key=lambda n: n not in measured))
    wanted = [n for n, column in enumerate(table.columns) if show_all or column.primary]
    shown = wanted[:MAX_SHOWN]
    groups = list(dict.fromkeys(column.conditions for column in table.columns))
    group_of = {conditions: n for n, conditions in enumerate(groups)}
    environments: dict[str, int] = {}
    rows = [row_data(row, group_of, environments) for row in table.rows]
    published = [published_results(row) for row in table.rows]
    shares = bar_lengths(table)
    for cell, share in zip(table.cells.itertuples(index=False), shares, strict=True):
        column = table.columns[cell.column]
        about = cell_data(table.rows[cell.row], column, cell)
        known = compare(cell.mean, column, published[cell.row])
        about |= {"share": share} | ({"published": known} if known else {})
        rows[cell.row]["cells"][cell.column] = about
    data = {
        "columns": [
            {
                "label": column.label,
                "task": column.conditions.task,
                "setting": column.setting,
                "metric": column.metric,
                "primary": column.primary,
                "higher": column.higher_is_better,
                "measured": n < len(measured),
                "group": group_of[column.conditions],
            }
            for n, column in enumerate(table.columns)
        ],
        "shown": shown,
        "groups": [group_data(conditions) for conditions in groups],
        "rows": rows,
        "environments": [
            [(name, words(value)) for name, value in json.loads(text).items()]
            for text in environments
        ],
    }
    return pages.render(
        "leaderboard",
        title,
        data,
        hidden=len(wanted) - len(shown),
        wanted=len(wanted),
        tasks=len({column.conditions.task for column in table.columns}),
    )


def row_data(
    row: Row, group_of: Mapping[Conditions, int], environments: dict[str, int]
) -> dict[str, Any]:
    """Return the name of a row, its model, and its runs by group of columns."""
    runs = {
        group_of[conditions]: [
            (
                str(run.seed),
                run.created,
                run.shown,
                environments.setdefault(run.environment, len(environments)),
            )
            for run in found
        ]
        for conditions, found in row.runs.items()
        if conditions in group_of
    }
    about = {"name": row.name, "names": row.names, "arch": row.arch, "cells": {}, "runs": runs}
    if row.model is None:
        return about | {"measured": False, "source": row.source}
    return about | {
        "measured": True,
        "format": row.model.format,
        "sha256": row.sha256,
        "source": f"{row.arch} · {row.sha256[:SHORT_HASH]}",
    }


def cell_data(row: Row, column: Column, cell: Any) -> dict[str, Any]:
    """Return a number, its text, its spread, and the values of its seeds."""
    data = {"value": round(cell.mean, DIGITS), "mean": f"{cell.mean:.2f}"}
    if cell.best:
        data["best"] = True
    if cell.source:
        data["source"] = cell.source
    if cell.n > 1:
        found = [run.metrics.get(column.metric) for run in row.runs[column.conditions]]
        values = [value if value is None else round(value, DIGITS) for value in found]
        data |= {"n": cell.n, "spread": f"{cell.std:.2f}" if cell.std else "", "values": values}
    return data


def published_results(row: Row) -> Sequence[PublishedResult]:
    """Return the published results of a measured model, if it is in the zoo."""
    if row.model is None:
        return ()
    from virtex.zoo import match_entry

    entries = (match_entry(name, row.sha256) for name in row.names)
    entry = next(filter(None, entries), None)
    return entry.results if entry else ()


def compare(
    mean: float, column: Column, published: Sequence[PublishedResult]
) -> list[tuple[str, str | None, str]]:
    """Return the published values of a number: value, difference, source.

    The difference is None if the run has overrides, as the two are not comparable.
    """
    conditions = column.conditions
    wanted = conditions.task, conditions.protocol, column.metric
    if conditions.version != current_version(conditions.task, conditions.protocol):
        return []
    comparable = conditions.overrides == "[]"
    return [
        (
            f"{number.value:.2f}",
            f"{mean - number.value:+.2f}" if comparable else None,
            number.source,
        )
        for number in published
        if (number.task, number.protocol, number.metric) == wanted
    ]


def bar_lengths(table: Table) -> Sequence[int]:
    """Return the length of each cell's bar in percent, from the worst to the best of its column."""
    columns, mean = table.cells["column"], table.cells["mean"]
    sign = pd.Series([1.0 if c.higher_is_better else -1.0 for c in table.columns], dtype=float)
    score = mean * columns.map(sign)
    worst, best = (score.groupby(columns).transform(end) for end in ("min", "max"))
    part = ((score - worst) / (best - worst)).where(best > worst, 1.0)
    return (SHORTEST_BAR + (100 - SHORTEST_BAR) * part).round().astype(int).tolist()


def group_data(conditions: Conditions) -> dict[str, Any]:
    """Return the data shared by all columns of the same conditions."""
    return {
        "protocol": conditions.protocol,
        "version": conditions.version,
        "overrides": [
            [words(override[key]) for key in ("key", "protocol", "run", "reason")]
            for override in json.loads(conditions.overrides)
        ],
        "data": [data_words(name, about) for name, about in json.loads(conditions.data).items()],
    }


def data_words(name: str, about: Mapping[str, Any]) -> str:
    parts = [f"{words(about['images'])} images"] if "images" in about else []
    if "annotations_sha256" in about:
        parts.append(f"annotations {words(about['annotations_sha256'])[:SHORT_HASH]}")
    return f"{name}: {', '.join(parts) or 'not recorded'}"


def words(value: Any) -> str:
    """Return JSON as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)
