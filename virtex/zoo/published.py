"""Numbers that were published: of the zoo's models, and of models it does not hold."""

from __future__ import annotations

import csv
from pathlib import Path

import virtex
from virtex.zoo.entries import PREFIX, Entry, PublishedResult, entries

RESULTS_FILE = Path(virtex.__file__).parent / "published_results.csv"


def published_results() -> list[PublishedResult]:
    """Every published number, once; a model of several entries goes by the first one's name.

    Raises:
        UserError: a zoo file is broken.
    """
    shown, found = set(), []
    for entry in entries().values():
        same = {entry.urls, entry.config} - {""}
        if not same & shown:
            found += entry.results
        shown |= same
    with open(RESULTS_FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            del row["pretraining_data"]
            found.append(PublishedResult(**{**row, "value": float(row["value"])}))
    return found


def matching(name: str, sha256: str) -> Entry | None:
    """The zoo's entry of a model that was evaluated; ``None`` if it has none.

    Args:
        name: what was asked for: ``virtex://NAME``, an address, or anything else.
        sha256: of the file.

    Raises:
        UserError: a zoo file is broken.
    """
    known = entries()
    if name.removeprefix(PREFIX) in known and name.startswith(PREFIX):
        return known[name.removeprefix(PREFIX)]
    for entry in known.values():
        if name in entry.urls or (entry.sha256 and sha256.startswith(entry.sha256)):
            return entry
    return None
