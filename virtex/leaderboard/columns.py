"""Columns are comparability: a number stands under another only if both mean the same.

A column is a metric under one task, protocol, version, set of deviations and data. A task's
default protocol, followed to the letter, needs no more than ``task/metric``; every other column
says in brackets what is different.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from virtex.leaderboard.records import Conditions, short_hash, single_spaced

# task -> its default protocol and the metric that ranks, in the order of columns. Importing
# virtex.detectron.protocols would import torch, which takes longer than all that is done here.
TASKS = {
    "coco": ("coco_mask_rcnn_R_50_FPN_2x", "bbox/AP"),
    "lvis": ("lvis_mask_rcnn_R_50_FPN_2x", "bbox/AP"),
    "voc": ("voc_faster_rcnn_R_50_C4_24k", "bbox/AP"),
    "voc07_svm": ("paper", "mAP"),
    "imagenet_linear": ("paper", "top1"),
    "imagenet_knn": ("k20", "top1"),
    "imagenet_semi_supervised": ("20-epochs", "top1"),
    "inaturalist": ("paper", "top1"),
    "coco_captioning": ("paper", "CIDEr"),
}
SPELLED = 2  # deviations in a label; of more, the first
LONGEST = 24  # characters of a setting's value in a label

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A metric under conditions.

    Attributes:
        setting: what is different from the task's default protocol; "" if nothing is.
        label: ``task/metric`` or ``task[setting]/metric``; no two columns have the same.
        primary: the metric ranks.
    """

    conditions: Conditions
    metric: str
    setting: str
    label: str
    primary: bool
    higher_is_better: bool


def ordered_columns(
    metrics: Iterable[tuple[Conditions, str]],
    primary: set[tuple[Conditions, str]],
    lower_is_better: set[tuple[Conditions, str]],
) -> list[Column]:
    """Labeled columns by task; first the default protocol, as packaged, the primary metric."""
    tasks = list(TASKS)

    def place(key: tuple[Conditions, str]) -> tuple[Any, ...]:
        conditions, metric = key
        task, protocol = conditions.task, conditions.protocol
        known = tasks.index(task) if task in TASKS else len(tasks)
        default = task in TASKS and protocol == TASKS[task][0]
        deviates = conditions.deviations != "[]"
        run = conditions.version, deviates, conditions.deviations, conditions.data
        return known, task, not default, protocol, *run, key not in primary, metric

    keys = sorted(metrics, key=place)
    settings = {conditions: setting(conditions) for conditions, _ in keys}

    def label(key: tuple[Conditions, str], more: Sequence[str] = ()) -> str:
        conditions, metric = key
        text = ", ".join([*settings[conditions], *more])
        return f"{conditions.task}[{text}]/{metric}" if text else f"{conditions.task}/{metric}"

    more = tell_apart(keys, label, (data_hash, whole_hash))
    return [
        Column(
            *key,
            setting=", ".join([*settings[key[0]], *more[key]]),
            label=label(key, more[key]),
            primary=key in primary,
            higher_is_better=key not in lower_is_better,
        )
        for key in keys
    ]


def setting(conditions: Conditions) -> list[str]:
    """Protocol, version and deviations, as far as they are not the task's default."""
    protocol = conditions.protocol
    default = conditions.task in TASKS and protocol == TASKS[conditions.task][0]
    parts = []
    if conditions.version != "1":
        parts = [f"{protocol}@{conditions.version}"]
    elif not default:
        parts = [protocol]
    deviations = conditions.listed_departures()
    spelled = [f"{d['key']}={short_value(d['run'])}" for d in deviations]
    if len(spelled) > SPELLED:
        rest = f"+{len(spelled) - 1} more #{short_hash(conditions.deviations)}"
        spelled = [f"{spelled[0]} {rest}"]
    return [single_spaced(text) for text in (*parts, *spelled)]


def short_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def data_hash(key: tuple[Conditions, str]) -> str:
    data = key[0].data
    return "data not told" if data == "{}" else f"data {short_hash(data)}"


def whole_hash(key: tuple[Conditions, str]) -> str:
    return f"#{short_hash(repr(key))}"


def tell_apart(
    items: Sequence[Item],
    name: Callable[..., str],
    qualifiers: Sequence[Callable[[Item], str]],
) -> dict[Item, tuple[str, ...]]:
    """What to add to items of the same name so that each has a name of its own.

    Args:
        name: ``name(item, additions)``.
        qualifiers: tried in turn; one is added where items that share a name differ in it.
    """
    more: dict[Item, tuple[str, ...]] = dict.fromkeys(items, ())
    for qualifier in qualifiers:
        groups: dict[str, list[Item]] = {}
        for item in items:
            groups.setdefault(name(item, more[item]), []).append(item)
        for group in groups.values():
            additions = {item: qualifier(item) for item in group} if len(group) > 1 else {}
            if len(set(additions.values())) > 1:
                more |= {item: (*more[item], addition) for item, addition in additions.items()}
    return more
