"""The table as one HTML page that needs no network, and no script to be read.

``page.html``, ``page.css`` and ``page.js`` beside this file are put into one. The script makes
cells of columns that are not shown at first as ``cell_html`` makes those that are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any, TypeAlias

from virtex import pages
from virtex.leaderboard.columns import Column
from virtex.leaderboard.records import Conditions
from virtex.leaderboard.table import SHORTEST_HASH, Cell, Row, Table, best_measured

if TYPE_CHECKING:
    from virtex.zoo import PublishedResult as Published

Key: TypeAlias = tuple[str, str, str]  # task, protocol, metric

MODEL_HEAD = '<th scope="col"><button type="button"><b>Model</b></button></th>'
BEST = ' class="best"'
MOST_SHOWN = 200  # columns at first; each has a place in every row, filled or not
SHORTEST_BAR = 6  # percent of a cell: the column's worst value is still a bar
DIGITS = 4  # after the point, of the numbers that are sorted and listed


def page_text(table: Table, title: str = "Leaderboard", show_all: bool = False) -> str:
    """The page.

    Args:
        show_all: show every column at first, and not only the metrics that rank; no more than
            ``MOST_SHOWN`` in either case, the others on demand.

    Raises:
        UserError: a zoo file, where published numbers are looked up, is broken.
    """
    # what was measured is to be seen first, without scrolling past columns of published numbers
    scale_of = {column: scale(column, cells) for column, cells in table.by_column().items()}
    columns = sorted(table.columns, key=lambda column: scale_of[column].best_measured is None)
    table = replace(table, columns=tuple(columns))
    wanted = [n for n, column in enumerate(table.columns) if show_all or column.primary]
    shown = dict.fromkeys(wanted[:MOST_SHOWN])
    places = {column: (n, scale_of[column]) for n, column in enumerate(table.columns)}
    rows = [row_data(row, places) for row in table.rows]
    groups = {column.conditions: None for column in table.columns}
    numbers = {conditions: number for number, conditions in enumerate(groups)}
    environments: dict[str, int] = {}
    for row, about in zip(table.rows, rows, strict=True):
        about["runs"] = runs_data(row, numbers, environments)
    data = {
        "columns": [
            column_data(
                column,
                numbers,
                number in shown,
                scale_of[column].best_measured is not None,
            )
            for number, column in enumerate(table.columns)
        ],
        "groups": [group_data(conditions) for conditions in groups],
        "rows": rows,
        "environments": [environment_data(text) for text in environments],
    }
    return Template(pages.page_text(__package__)).substitute(
        pages.page_values(__package__, title, data),
        counts=counts(table, len(shown), len(wanted)),
        head="".join([MODEL_HEAD, *(head_html(n, table.columns[n]) for n in shown)]),
        rows="\n".join(map(partial(row_html, table.columns, list(shown)), table.rows, rows)),
    )


def counts(table: Table, columns: int, wanted: int) -> str:
    """One line; how many columns are shown at first where not all that are wanted are."""
    measured = sum(row.model is not None for row in table.rows)
    tasks = len({column.conditions.task for column in table.columns})
    parts = [f"{measured} measured", f"{len(table.rows) - measured} published"]
    shown = " and ".join(part for part in parts if not part.startswith("0 "))
    more = f"; the first {columns} of {wanted} columns, the others by the menu Columns"
    return f"{shown} models on {tasks} task{'s' * (tasks != 1)}{more * (columns < wanted)}"


# ---- numbers


@dataclass(frozen=True)
class Scale:
    """How long the bars of a column are.

    Attributes:
        worst, best: of all numbers in it.
        best_measured: None where all are published.
    """

    worst: float
    best: float
    best_measured: float | None

    def share(self, value: float) -> int:
        """Percent of a cell's width."""
        if self.best == self.worst:
            return 100
        part = (value - self.worst) / (self.best - self.worst)
        return round(SHORTEST_BAR + (100 - SHORTEST_BAR) * part)


def scale(column: Column, cells: Sequence[tuple[Row, Cell]]) -> Scale:
    values = [cell.mean for _, cell in cells]
    ends = min(values), max(values)
    worst, best = ends if column.higher_is_better else reversed(ends)
    return Scale(worst, best, best_measured(column, cells))


def row_data(row: Row, places: Mapping[Column, tuple[int, Scale]]) -> dict[str, Any]:
    """What the script knows of a row; ``cells`` by the column's number, ascending."""
    known = published_values(row)
    there = sorted(
        ((*places[column], column, cell) for column, cell in row.cells.items() if column in places),
        key=lambda placed: placed[0],
    )
    cells = {
        str(number): cell_data(row, column, cell, scale, known)
        for number, scale, column, cell in there
    }
    about: dict[str, Any] = {"name": row.name, "measured": row.model is not None, "cells": cells}
    about |= {"names": row.names, "arch": row.arch}
    if row.model:
        return about | {"format": row.model.format, "sha256": row.model.sha256}
    return about | {"sources": {str(number): cell.source for number, _, _, cell in there}}


def cell_data(
    row: Row, column: Column, cell: Cell, scale: Scale, known: Mapping[Key, Sequence[Published]]
) -> list[Any]:
    """Number, mean and spread as text, n, bar, whether it is the best; values of the seeds, and
    what is published, where there are any."""
    best = row.model is not None and cell.mean == scale.best_measured
    spread = f"{cell.spread:.2f}" if cell.spread else ""
    data = [round(cell.mean, DIGITS), f"{cell.mean:.2f}", spread, cell.n]
    data += [scale.share(cell.mean), int(best)]
    values = None
    if len(cell.runs) > 1:
        found = [run.metrics.get(column.metric) for run in cell.runs]
        values = [value if value is None else round(value, DIGITS) for value in found]
    conditions = column.conditions
    deviates = conditions.deviations != "[]"
    published = [
        (
            f"{number.value:.2f}",
            None if deviates else f"{cell.mean - number.value:+.2f}",
            number.source,
        )
        for number in known.get((conditions.task, conditions.protocol, column.metric), ())
        if conditions.version == "1"
    ]
    if published:
        return [*data, values, published]
    return [*data, values] if values else data


def published_values(row: Row) -> dict[Key, list[Published]]:
    """What is published of a measured model: (task, protocol, metric) -> numbers."""
    if row.model is None:
        return {}
    from virtex.zoo import matching

    found: dict[Key, list[Published]] = {}
    entries = (matching(name, row.model.sha256) for name in row.names)
    entry = next(filter(None, entries), None)
    for result in entry.results if entry else ():
        found.setdefault((result.task, result.protocol, result.metric), []).append(result)
    return found


def runs_data(
    row: Row, numbers: Mapping[Conditions, int], environments: dict[str, int]
) -> dict[str, list[tuple[str, str, str, int]]]:
    """Seed, time, path and environment of the runs in each of a row's groups of columns."""
    groups = {column.conditions: cell.runs for column, cell in row.cells.items() if cell.runs}
    return {
        str(numbers[conditions]): [
            (
                str(run.seed),
                run.created,
                run.shown,
                environments.setdefault(run.environment, len(environments)),
            )
            for run in runs
        ]
        for conditions, runs in groups.items()
    }


def column_data(
    column: Column, numbers: Mapping[Conditions, int], shown: bool, measured: bool
) -> dict[str, Any]:
    return {
        "label": column.label,
        "task": column.conditions.task,
        "setting": column.setting,
        "metric": column.metric,
        "primary": column.primary,
        "higher": column.higher_is_better,
        "shown": shown,
        "measured": measured,
        "group": numbers[column.conditions],
    }


def group_data(conditions: Conditions) -> dict[str, Any]:
    """What the columns of the same conditions share."""
    return {
        "protocol": conditions.protocol,
        "version": conditions.version,
        "deviations": [
            [words(deviation[key]) for key in ("key", "protocol", "run", "why")]
            for deviation in conditions.listed_departures()
        ],
        "data": [data_words(name, about) for name, about in json.loads(conditions.data).items()],
    }


def data_words(name: str, about: Mapping[str, Any]) -> str:
    parts = [f"{words(about['images'])} images"] if "images" in about else []
    if "annotations_sha256" in about:
        parts.append(f"annotations {words(about['annotations_sha256'])[:SHORTEST_HASH]}")
    return f"{name}: {', '.join(parts) or 'not told'}"


def environment_data(text: str) -> list[tuple[str, str]]:
    return [(name, words(value)) for name, value in json.loads(text).items()]


def words(value: Any) -> str:
    """JSON for people."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


# ---- what is read without a script


def head_html(number: int, column: Column) -> str:
    setting = f"<span>{escape(column.setting)}</span>" if column.setting else ""
    return (
        f'<th scope="col" data-c="{number}" title="{escape(column.label)}"><button type="button">'
        f"<b>{escape(column.conditions.task)}</b>{setting}<span>{escape(column.metric)}</span>"
        "</button></th>"
    )


def row_html(columns: Sequence[Column], shown: Sequence[int], row: Row, about: Any) -> str:
    if row.model:
        start, more = "<tr>", f"{row.arch} · {row.model.sha256[:SHORTEST_HASH]}"
    else:
        start, more = '<tr class="published">', row.source
    chip = "" if row.model else ' <span class="chip">published</span>'
    name = f"{escape(row.name)}{chip}<small>{escape(more)}</small>"
    cells = (cell_html(n, columns[n], about["cells"].get(str(n))) for n in shown)
    return f'{start}<th scope="row">{name}</th>{"".join(cells)}</tr>'


def cell_html(number: int, column: Column, cell: Sequence[Any] | None) -> str:
    if cell is None:
        return f'<td data-c="{number}"></td>'
    _, mean, spread, n, share, best = cell[:6]
    seeds = f" ± {spread} ({n})" if spread else f" ({n})"
    return (
        f'<td data-c="{number}"{BEST * best} style="--share: {share}%;" '
        f'data-label="{escape(column.label)}" tabindex="0">{mean}'
        f"{f'<small>{seeds}</small>' if n > 1 else ''}</td>"
    )
