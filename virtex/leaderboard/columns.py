"""Group comparable numbers into columns.

A column is a metric under one task, protocol, version, set of overrides and data. The default
protocol of a task, followed exactly, is labeled ``task/metric``; the label of every other column
states the differences in brackets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from virtex.leaderboard.records import Conditions, bound, short_hash
from virtex.protocols import Protocol
from virtex.tasks import TASKS
from virtex.text import one_line, truncate

MAX_OVERRIDES = 2  # in a label; if there are more, only the first
MAX_LABEL = 160  # characters
MAX_VALUE = 24  # characters of a setting's value in a label

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A metric measured under the same conditions.

    Attributes:
        setting: differences from the task's default protocol; may be empty.
        label: ``task/metric`` or ``task[setting]/metric``; unique.
        primary: whether the metric ranks.
    """

    conditions: Conditions
    metric: str
    setting: str
    label: str
    primary: bool
    higher_is_better: bool


def default_protocol(task: str) -> Protocol | None:
    found = TASKS[task].protocols.values() if task in TASKS else ()
    return next(iter(found), None)


def current_version(task: str, protocol: str) -> str:
    """Return the version of a registered protocol; that of the default for its variants."""
    found = list(TASKS[task].protocols.values()) if task in TASKS else []
    named = [p for p in found if p.name == protocol]
    return next((p.version for p in [*named, *found]), "1")


def is_default(conditions: Conditions) -> bool:
    """Return whether the protocol is the default of its task."""
    default = default_protocol(conditions.task)
    return default is not None and default.name == conditions.protocol


def is_primary(task: str, metric: str) -> bool:
    default = default_protocol(task)
    return default is not None and default.primary_metric == metric


def make_columns(
    metrics: Iterable[tuple[Conditions, str]],
    primary: set[tuple[Conditions, str]],
    lower_is_better: set[tuple[Conditions, str]],
) -> list[Column]:
    """Return columns sorted by task, each with its default protocol and primary metric first."""
    tasks = list(TASKS)

    def order(key: tuple[Conditions, str]) -> tuple[Any, ...]:
        conditions, metric = key
        task = conditions.task
        known = tasks.index(task) if task in tasks else len(tasks)
        older = conditions.version != current_version(task, conditions.protocol)
        run = older, conditions.version, conditions.overrides != "[]", conditions.overrides
        protocols = not is_default(conditions), conditions.protocol
        return known, task, *protocols, *run, conditions.data, key not in primary, metric

    keys = sorted(metrics, key=order)
    settings = {conditions: describe(conditions) for conditions, _ in keys}

    def label(key: tuple[Conditions, str], suffixes: Sequence[str] = ()) -> str:
        conditions, metric = key
        text = ", ".join([*settings[conditions], *suffixes])
        text = f"{conditions.task}[{text}]/{metric}" if text else f"{conditions.task}/{metric}"
        return bound(text, MAX_LABEL)

    suffixes = disambiguate(keys, label, (data_suffix, lambda key: f"#{short_hash(repr(key))}"))
    return [
        Column(
            *key,
            setting=", ".join([*settings[key[0]], *suffixes[key]]),
            label=label(key, suffixes[key]),
            primary=key in primary,
            higher_is_better=key not in lower_is_better,
        )
        for key in keys
    ]


def describe(conditions: Conditions) -> list[str]:
    """Return the protocol, version and overrides that differ from the task's default."""
    parts = []
    if conditions.version != current_version(conditions.task, conditions.protocol):
        parts = [f"{conditions.protocol}@{conditions.version}"]
    elif not is_default(conditions):
        parts = [conditions.protocol]
    overrides = [f"{o['key']}={short(o['run'])}" for o in json.loads(conditions.overrides)]
    if len(overrides) > MAX_OVERRIDES:
        rest = f"+{len(overrides) - 1} more #{short_hash(conditions.overrides)}"
        overrides = [f"{overrides[0]} {rest}"]
    return [one_line(text) for text in (*parts, *overrides)]


def short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return truncate(text, MAX_VALUE)


def data_suffix(key: tuple[Conditions, str]) -> str:
    data = key[0].data
    return "unknown data" if data == "{}" else f"data {short_hash(data)}"


def disambiguate(
    items: Sequence[Item],
    name: Callable[..., str],
    qualifiers: Sequence[Callable[[Item], str]],
) -> dict[Item, tuple[str, ...]]:
    """Return the suffixes that give every item a unique name.

    Args:
        name: ``name(item, suffixes)``.
        qualifiers: tried in turn; one is added if items with the same name differ in it.
    """
    suffixes: dict[Item, tuple[str, ...]] = dict.fromkeys(items, ())
    for qualifier in qualifiers:
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(name(item, suffixes[item]), []).append(item)
        for group in groups.values():
            added = {item: qualifier(item) for item in group} if len(group) > 1 else {}
            if len(set(added.values())) > 1:
                suffixes |= {item: (*suffixes[item], text) for item, text in added.items()}
    return suffixes
