"""Format zoo entries as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from virtex.checkpoints.download import pinned_hash
from virtex.zoo.entries import Entry
from virtex.zoo.files import cached_file


def as_table(found: Sequence[Entry]) -> str:
    """Return one line per model, with only the name of its license."""
    rows = [
        (
            entry.name,
            entry.arch,
            entry.license.partition(" ")[0].rstrip(";"),
            ", ".join(f"{one.task} {one.metric} {one.value:g}" for one in entry.results),
            "yes" if cached_file(entry).is_file() else "",
        )
        for entry in found
    ]
    heads = ["name", "arch", "license", "published", "cached"]
    return tabulate(rows, headers=heads, disable_numparse=True)


def as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return all fields, the path in the cache, and the hash pinned there."""
    return [
        {
            **entry.as_dict(),
            "cached": str(cached_file(entry)) if cached_file(entry).is_file() else None,
            "pinned_sha256": pinned_hash(cached_file(entry)) or None,
        }
        for entry in found
    ]
