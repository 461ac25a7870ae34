"""Numbers that were published: of the zoo's models, and of models it does not hold."""

from __future__ import annotations

import csv
from typing import Any

from virtex.errors import UserError
from virtex.resources import resource_path
from virtex.zoo.entries import PREFIX, Entry, PublishedResult, entries, find

RESULTS_FILE = resource_path("published_results.csv")


def published_results() -> list[PublishedResult]:
    """Every published number, once; a model of several entries goes by the first one's name.

    Raises:
        UserError: a zoo file is broken.
    """
    shown: set[tuple[Any, ...]] = set()
    found: list[PublishedResult] = []
    for entry in entries().values():
        for result in entry.results:
            number = result.task, result.protocol, result.metric, result.value, result.source
            same = {(key, *number) for key in (entry.urls, entry.config) if key}
            if not same & shown:
                found.append(result)
            shown |= same
    with open(RESULTS_FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            del row["pretraining_data"]
            said: dict[str, Any] = {**row, "value": float(row["value"])}
            found.append(PublishedResult(**said))
    return found


def matching(name: str, sha256: str) -> Entry | None:
    """The zoo's entry of a model that was evaluated; ``None`` if it has none.

    Args:
        name: what was asked for: ``virtex://NAME``, an address, or anything else.
        sha256: of the file; an entry with another hash is not the model's.

    Raises:
        UserError: a zoo file is broken.
    """
    known = entries().values()
    if name.startswith(PREFIX):
        try:
            named = [find(name)]
        except UserError:  # a zoo file that is not given now
            named = []
    else:
        named = [e for e in known if name in e.urls]
        named += [e for e in known if e.sha256 and sha256.startswith(e.sha256)]
    return next((e for e in named if sha256.startswith(e.sha256)), None)
