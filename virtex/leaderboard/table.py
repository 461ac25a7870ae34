"""Records as a table: a row a model, a column for what is comparable, seeds averaged."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from virtex.errors import UserError
from virtex.leaderboard.columns import TASKS, Column, ordered_columns, tell_apart
from virtex.leaderboard.records import Conditions, Model, Record, printable, short_hash

if TYPE_CHECKING:
    from virtex.zoo import PublishedResult

SHORTEST_HASH = 8  # digits of a file's hash that name a model


@dataclass(frozen=True, slots=True)
class Cell:
    """A model's number in a column.

    Attributes:
        mean: over the seeds, in the metric's unit (percent).
        std: the sample standard deviation (n - 1); None for one seed.
        n: number of seeds; 0 for a published number, of which it is not known.
        runs: the records, by seed, those in which the metric is not defined too.
        source: where a published number is from.
    """

    mean: float
    std: float | None = None
    n: int = 0
    runs: tuple[Record, ...] = ()
    source: str = ""

    @property
    def spread(self) -> float | None:
        """The deviation to show: none where every seed gave the same number.

        Then the task does not depend on the seed (SVM, nearest neighbors), and "± 0.00" would
        pass for a measurement of how much results vary.
        """
        return self.std or None


@dataclass(frozen=True, slots=True)
class Row:
    """A model.

    Attributes:
        name: as it is shown; of measured models no two are the same.
        names: what the records call it.
        model: None for a published row.
        source: of a published row's numbers.
    """

    name: str
    arch: str
    cells: Mapping[Column, Cell]
    names: tuple[str, ...] = ()
    model: Model | None = None
    source: str = ""

    @property
    def kind(self) -> str:
        return "measured" if self.model else "published"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns in their order; measured rows by name, then published ones by name."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def primary(self) -> Table:
        """Only the metrics that rank."""
        return replace(self, columns=tuple(c for c in self.columns if c.primary))

    def by_column(self) -> dict[Column, list[tuple[Row, Cell]]]:
        """Each column's rows with their cells, found in one pass over all cells."""
        found: dict[Column, list[tuple[Row, Cell]]] = {column: [] for column in self.columns}
        for row in self.rows:
            for column, cell in row.cells.items():
                if column in found:
                    found[column].append((row, cell))
        return found

    def best(self, column: Column) -> float | None:
        """The best measured number of a column; None if there is none."""
        return best_measured(column, self.by_column()[column])


def best_measured(column: Column, cells: Iterable[tuple[Row, Cell]]) -> float | None:
    """The best of a column's numbers but the published ones; None if there is none."""
    measured = (cell.mean for row, cell in cells if row.model)
    return (max if column.higher_is_better else min)(measured, default=None)


def build_table(
    records: Iterable[Record],
    published: Iterable[PublishedResult] = (),
    labels: Mapping[str, str] | None = None,
) -> Table:
    """Group records by model and conditions, and average over seeds.

    Args:
        labels: a model's recorded name, or the first digits of its hash -> the name to show.
    """
    groups: dict[Model, dict[Conditions, list[Record]]] = defaultdict(lambda: defaultdict(list))
    primary, lower = set(), set()
    metrics: dict[tuple[Conditions, str], None] = {}
    for record in sorted(records, key=lambda record: (record.seed, record.shown, record.path)):
        groups[record.model][record.conditions].append(record)
        metrics |= dict.fromkeys((record.conditions, metric) for metric in record.metrics)
        primary.add((record.conditions, record.primary_metric))
        if not record.higher_is_better:
            lower.add((record.conditions, record.primary_metric))
    results = placed(published, {conditions for conditions, _ in metrics})
    for conditions, result in results:
        metrics[conditions, result.metric] = None
        if result.task in TASKS and result.metric == TASKS[result.task][1]:
            primary.add((conditions, result.metric))
    columns = ordered_columns(metrics, primary, lower)
    by_key = {(column.conditions, column.metric): column for column in columns}
    rows = [*measured_rows(groups, by_key, labels or {}), *published_rows(results, by_key)]
    used = {column for row in rows for column in row.cells}
    return Table(tuple(column for column in columns if column in used), tuple(rows))


def measured_rows(
    groups: Mapping[Model, Mapping[Conditions, Sequence[Record]]],
    columns: Mapping[tuple[Conditions, str], Column],
    labels: Mapping[str, str],
) -> list[Row]:
    names = {model: model_names(group.values()) for model, group in groups.items()}
    shown = {model: label_of(model, names[model], labels) for model in groups}

    def name(model: Model, more: Sequence[str] = ()) -> str:
        return f"{shown[model]} ({', '.join(more)})" if more else shown[model]

    more = tell_apart(
        list(groups),
        name,
        (
            lambda model: model.sha256[:SHORTEST_HASH],
            lambda model: model.format,
            lambda model: model.arch,
            lambda model: f"input {short_hash(model.read_as)}",
            lambda model: model.sha256,
        ),
    )
    in_order = sorted(groups, key=lambda m: (name(m, more[m]), m.sha256, m.read_as))
    rows = []
    for model in in_order:
        cells = {}
        for conditions, runs in groups[model].items():
            for metric in dict.fromkeys(metric for run in runs for metric in run.metrics):
                cell = average(metric, tuple(runs))
                if cell:
                    cells[columns[conditions, metric]] = cell
        rows.append(Row(name(model, more[model]), model.arch, cells, names[model], model))
    return rows


def average(metric: str, runs: tuple[Record, ...]) -> Cell | None:
    """Mean, sample standard deviation and n over the runs in which a metric is defined."""
    found = [run.metrics.get(metric) for run in runs]
    values = [value for value in found if value is not None]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Cell(mean, None, 1, runs)
    if min(values) == max(values):  # the mean of equal numbers may be rounded to another one
        return Cell(values[0], 0.0, len(values), runs)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Cell(mean, math.sqrt(variance), len(values), runs)


def model_names(groups: Iterable[Sequence[Record]]) -> tuple[str, ...]:
    """What a model's records call it, the newest's name first."""
    records = [record for group in groups for record in group]
    records.sort(key=lambda record: (record.when, record.shown, record.path), reverse=True)
    return tuple(dict.fromkeys(record.name for record in records))


def label_of(model: Model, names: Sequence[str], labels: Mapping[str, str]) -> str:
    for known, label in labels.items():
        if is_called(model, names, known):
            return label
    return names[0]


def is_called(model: Model, names: Sequence[str], known: str) -> bool:
    return known in names or (len(known) >= SHORTEST_HASH and model.sha256.startswith(known))


def read_labels(texts: Iterable[str], records: Iterable[Record]) -> dict[str, str]:
    """``NAME=LABEL`` …, where NAME is a recorded name or the first digits of a file's hash.

    Raises:
        UserError: there is no such model, or no "=".
    """
    models: dict[Model, list[str]] = {}
    for record in records:
        models.setdefault(record.model, []).append(record.name)
    labels = {}
    for text in texts:
        # both may hold "=", as random:resnet50?seed=0 does: the longest name that there is
        ends = [place for place, letter in enumerate(text) if letter == "="]
        for end in reversed(ends):
            if any(is_called(model, names, text[:end]) for model, names in models.items()):
                labels[text[:end]] = printable(text[end + 1 :])
                break
        else:
            known = sorted({name for names in models.values() for name in names})
            near = difflib.get_close_matches(text, known, n=1, cutoff=0.3)
            hint = f"; the nearest is {printable(near[0])}" if near else ""
            raise UserError(
                f"--label {printable(text)}: there is no model of that name{hint}; give "
                "NAME=LABEL, where NAME is what a record calls the model, or 8 digits of its hash"
            )
    return labels


def placed(
    published: Iterable[PublishedResult], measured: Iterable[Conditions]
) -> list[tuple[Conditions, PublishedResult]]:
    """Published numbers with the conditions whose columns they belong to.

    Which data they are of is not told: they share the column of full runs unless there are
    full runs on different data, of which none is known to be the published one.
    """
    full = defaultdict(list)
    for conditions in measured:
        if conditions.version == "1" and conditions.deviations == "[]":
            full[conditions.task, conditions.protocol].append(conditions)
    found = []
    for result in published:
        there = full[result.task, result.protocol]
        own = Conditions(result.task, result.protocol, "1")
        found.append((there[0] if len(there) == 1 else own, result))
    return found


def published_rows(
    results: Iterable[tuple[Conditions, PublishedResult]],
    columns: Mapping[tuple[Conditions, str], Column],
) -> list[Row]:
    """A row a published model; a second one where two sources give a number for the same cell."""
    rows: dict[tuple[str, str, int], dict[Column, Cell]] = defaultdict(dict)
    for conditions, result in sorted(results, key=lambda pair: (pair[1].source, pair[1].value)):
        column = columns[conditions, result.metric]
        number = 0
        while column in rows[result.model, result.arch, number]:
            number += 1
        cell = Cell(result.value, source=result.source)
        rows[result.model, result.arch, number][column] = cell
    return [
        Row(
            model,
            arch,
            cells,
            (model,),
            source="; ".join(sorted({cell.source for cell in cells.values()})),
        )
        for (model, arch, _), cells in sorted(rows.items(), key=lambda item: item[0])
    ]
