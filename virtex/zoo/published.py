"""Published results of the zoo's models and of other models."""

from __future__ import annotations

import csv
from typing import Any

from virtex.errors import UserError
from virtex.resources import resource_path
from virtex.text import redact
from virtex.zoo.entries import PREFIX, Entry, PublishedResult, entries, find

RESULTS_FILE = resource_path("published_results.csv")


def published_results() -> list[PublishedResult]:
    """Return each published number once; of a model with several entries, those of the first.

    Raises:
        UserError: a zoo file is invalid.
    """
    seen: set[tuple[Any, ...]] = set()
    found: list[PublishedResult] = []
    for entry in entries().values():
        for result in entry.results:
            number = result.task, result.protocol, result.metric, result.value, result.source
            same = {(key, *number) for key in (entry.urls, entry.config) if key}
            if not same & seen:
                found.append(result)
            seen |= same
    with open(RESULTS_FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            del row["pretraining_data"]
            found.append(PublishedResult.model_validate({**row, "value": float(row["value"])}))
    return found


def match_entry(name: str, sha256: str) -> Entry | None:
    """Return the zoo entry of an evaluated model; None if it has none.

    Args:
        name: the requested name: ``virtex://NAME``, a redacted URL, or anything else.
        sha256: of the file; an entry with another hash does not match.

    Raises:
        UserError: a zoo file is invalid.
    """
    known = entries().values()
    if name.startswith(PREFIX):
        try:
            candidates = [find(name)]
        except UserError:  # its zoo file is not in VIRTEX_ZOO any more
            candidates = []
    else:
        candidates = [entry for entry in known if name in map(redact, entry.urls)]
        candidates += [entry for entry in known if entry.sha256 and sha256.startswith(entry.sha256)]
    return next((entry for entry in candidates if sha256.startswith(entry.sha256)), None)
