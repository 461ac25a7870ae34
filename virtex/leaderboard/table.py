"""Build a table of records: a row per model, a column per comparable number, seeds averaged."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from virtex.errors import UserError
from virtex.leaderboard.columns import (
    Column,
    current_version,
    disambiguate,
    is_primary,
    make_columns,
)
from virtex.leaderboard.records import Conditions, Model, Record, printable, short_hash

if TYPE_CHECKING:
    from virtex.zoo import PublishedResult

SHORT_HASH = 8  # digits of a file's hash that identify a model
CELL_TYPES = {"row": int, "column": int, "mean": float, "std": float, "n": int, "source": object}
Runs = Mapping[Conditions, Sequence[Record]]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A model.

    Attributes:
        name: displayed name; unique among measured models.
        names: its names in the records, the newest first.
        model: None for a row of published numbers.
        runs: conditions -> records, by seed.
        source: of published numbers.
    """

    name: str
    arch: str
    names: tuple[str, ...]
    model: Model | None = None
    runs: Runs = field(default_factory=dict)
    source: str = ""

    @property
    def kind(self) -> str:
        return "measured" if self.model else "published"

    @property
    def sha256(self) -> str:
        return self.model.sha256 if self.model else ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows: measured models by name, then published ones by name.

    Attributes:
        cells: one line per number, by row and column. ``row`` and ``column`` are positions in
            ``rows`` and ``columns``; ``mean`` is over seeds, in the metric's unit (percent);
            ``std`` is the sample standard deviation (n - 1), NaN for one seed; ``n`` is the
            number of seeds, 0 for a published number, whose ``source`` is given; ``best`` marks
            the best measured number of a column.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    cells: pd.DataFrame

    def select(self, positions: Iterable[int]) -> Table:
        """Return the table with only the columns at ``positions``, in that order."""
        place = {old: new for new, old in enumerate(positions)}
        cells = self.cells[self.cells["column"].isin(place)]
        cells = cells.assign(column=cells["column"].map(place)).sort_values(["row", "column"])
        return replace(self, columns=[self.columns[old] for old in place], cells=cells)

    def primary(self) -> Table:
        """Return the table of the primary metrics."""
        return self.select(n for n, column in enumerate(self.columns) if column.primary)


def build_table(
    records: Iterable[Record],
    published: Iterable[PublishedResult] = (),
    labels: Mapping[str, str] | None = None,
) -> Table:
    """Group records by model and conditions, and average over seeds.

    Args:
        labels: a model's recorded name, or the first digits of its hash -> the name to display.
    """
    runs: dict[Model, dict[Conditions, list[Record]]] = defaultdict(lambda: defaultdict(list))
    metrics, primary, lower = set(), set(), set()
    for record in sorted(records, key=lambda record: (record.seed, record.shown, record.path)):
        runs[record.model][record.conditions].append(record)
        metrics |= {(record.conditions, m) for m, v in record.metrics.items() if v is not None}
        primary.add((record.conditions, record.primary_metric))
        if not record.higher_is_better:
            lower.add((record.conditions, record.primary_metric))
    placed = place_published(published, {conditions for conditions, _ in metrics})
    for conditions, result in placed:
        metrics.add((conditions, result.metric))
        if is_primary(result.task, result.metric):
            primary.add((conditions, result.metric))
    columns = make_columns(metrics, primary, lower)
    positions = {(column.conditions, column.metric): n for n, column in enumerate(columns)}
    measured_rows = name_models(runs, labels or {})
    published_rows, cells = published_cells(placed, positions, len(measured_rows))
    cells = pd.concat([average(measured_rows, positions), cells], ignore_index=True)
    return Table(columns, [*measured_rows, *published_rows], mark_best(cells, columns))


def average(rows: Sequence[Row], positions: Mapping[tuple[Conditions, str], int]) -> pd.DataFrame:
    """Return mean, sample standard deviation and number of seeds of every measured number."""
    values = pd.DataFrame(
        [
            (n, positions[conditions, metric], value)
            for n, row in enumerate(rows)
            for conditions, runs in row.runs.items()
            for run in runs
            for metric, value in run.metrics.items()
            if value is not None
        ],
        columns=["row", "column", "value"],
    ).astype({"row": int, "column": int, "value": float})
    cells = values.groupby(["row", "column"])["value"].agg(
        mean="mean", std="std", n="size", low="min", high="max"
    )
    # The mean of equal numbers may differ from them by rounding.
    equal = cells["low"] == cells["high"]
    cells["mean"] = cells["mean"].mask(equal, cells["low"])
    cells["std"] = cells["std"].mask(equal & (cells["n"] > 1), 0.0)
    return cells.reset_index().assign(source="")[list(CELL_TYPES)].astype(CELL_TYPES)


def mark_best(cells: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    sign = np.array([1 if column.higher_is_better else -1 for column in columns])
    score = (cells["mean"] * sign[cells["column"]]).where(cells["n"] > 0)
    best = score.groupby(cells["column"]).transform("max")
    return cells.assign(best=score == best)


def name_models(runs: Mapping[Model, Runs], labels: Mapping[str, str]) -> list[Row]:
    """Return a row per model, by name; names that several models have are made unique."""
    names = {model: recorded_names(groups.values()) for model, groups in runs.items()}
    shown = {model: find_label(model, names[model], labels) for model in runs}

    def name(model: Model, suffixes: Sequence[str] = ()) -> str:
        return f"{shown[model]} ({', '.join(suffixes)})" if suffixes else shown[model]

    suffixes = disambiguate(
        list(runs),
        name,
        (
            lambda model: model.sha256[:SHORT_HASH],
            lambda model: model.format,
            lambda model: model.arch,
            lambda model: f"input {short_hash(model.read_as)}",
            lambda model: model.sha256,
        ),
    )
    unique = {model: name(model, suffixes[model]) for model in runs}
    return [
        Row(unique[model], model.arch, names[model], model, runs[model])
        for model in sorted(runs, key=lambda m: (unique[m], m.sha256, m.read_as))
    ]


def recorded_names(groups: Iterable[Sequence[Record]]) -> tuple[str, ...]:
    """Return the names of a model in its records, the newest record's first."""
    records = [record for group in groups for record in group]
    records.sort(key=lambda record: (record.when, record.shown, record.path), reverse=True)
    return tuple(dict.fromkeys(record.name for record in records))


def find_label(model: Model, names: Sequence[str], labels: Mapping[str, str]) -> str:
    found = (label for known, label in labels.items() if is_called(model, names, known))
    return next(found, names[0])


def is_called(model: Model, names: Sequence[str], known: str) -> bool:
    return known in names or (len(known) >= SHORT_HASH and model.sha256.startswith(known))


def parse_labels(texts: Iterable[str], records: Iterable[Record]) -> dict[str, str]:
    """Parse ``NAME=LABEL`` …, where NAME is a recorded name or the first digits of a hash.

    Raises:
        UserError: no model matches, or "=" is missing.
    """
    models = dict.fromkeys((record.model, record.name) for record in records)
    labels = {}
    for text in texts:
        # NAME and LABEL may contain "=", as random:resnet50?seed=0 does: the longest known wins.
        for end in reversed([n for n, letter in enumerate(text) if letter == "="]):
            if any(is_called(model, [name], text[:end]) for model, name in models):
                labels[text[:end]] = printable(text[end + 1 :])
                break
        else:
            known = sorted({name for _, name in models})
            near = difflib.get_close_matches(text, known, n=1, cutoff=0.3)
            hint = f", did you mean {printable(near[0])}?" if near else ""
            raise UserError(
                f"--label {printable(text)} matches no model of these records{hint}; expected "
                "NAME=LABEL with a recorded name or at least 8 digits of the file's hash",
                "leaderboard.unknown_label",
            )
    return labels


def place_published(
    published: Iterable[PublishedResult], measured: Iterable[Conditions]
) -> list[tuple[Conditions, PublishedResult]]:
    """Return published numbers with the conditions whose columns they belong to.

    The data they were measured on are not recorded: they share the column of runs without
    overrides, unless there are such runs on several datasets.
    """
    full = defaultdict(list)
    for conditions in measured:
        current = current_version(conditions.task, conditions.protocol)
        if conditions.version == current and conditions.overrides == "[]":
            full[conditions.task, conditions.protocol].append(conditions)
    placed = []
    for result in sorted(published, key=lambda result: (result.source, result.value)):
        same = full[result.task, result.protocol]
        version = current_version(result.task, result.protocol)
        own = Conditions(result.task, result.protocol, version)
        placed.append((same[0] if len(same) == 1 else own, result))
    return placed


def published_cells(
    results: Iterable[tuple[Conditions, PublishedResult]],
    positions: Mapping[tuple[Conditions, str], int],
    first_row: int,
) -> tuple[list[Row], pd.DataFrame]:
    """Return one row per published model, and another for a second source of the same number."""
    numbers: dict[tuple[str, str, int], dict[int, PublishedResult]] = defaultdict(dict)
    count: Counter[tuple[str, str, int]] = Counter()
    for conditions, result in results:
        column = positions[conditions, result.metric]
        cell = result.model, result.arch, column
        numbers[result.model, result.arch, count[cell]][column] = result
        count[cell] += 1
    rows: list[Row] = []
    cells = []
    for (model, arch, _), found in sorted(numbers.items(), key=lambda item: item[0]):
        sources = "; ".join(sorted({result.source for result in found.values()}))
        for column, result in sorted(found.items()):
            cells.append((first_row + len(rows), column, result.value, np.nan, 0, result.source))
        rows.append(Row(model, arch, (model,), source=sources))
    return rows, pd.DataFrame(cells, columns=list(CELL_TYPES)).astype(CELL_TYPES)
