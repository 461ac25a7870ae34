"""The feature cache against the number of its entries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scaling.measuring import Part, Subject

SHAPE = (10, 4)
SAID = {"checkpoint": "moco.pth", "data": "imagenet_val"}


def key(number: int) -> dict[str, Any]:
    return {"images": number, "transform": {"resize": 256, "center crop": 224}, "seed": 0}


def cache_in(folder: Path, limit: int = 10**12) -> Any:
    from virtex.probes.feature_cache import FeatureCache

    return FeatureCache(folder, limit)


def prepare(folder: Path, entries: int) -> None:
    """Entries as ``FeatureCache.write`` leaves them, without looking for room before each."""
    import numpy as np

    from virtex.probes.feature_cache import ENTRY, FEATURES

    cache = cache_in(folder)
    for number in range(entries):
        place = cache.entry_folder(key(number))
        place.mkdir()
        np.save(place / FEATURES, np.zeros(SHAPE, dtype=np.float32))
        entry = {"key": key(number), "shape": SHAPE, **SAID}
        (place / ENTRY).write_text(json.dumps(entry, indent=1))


def find(folder: Path, entries: int) -> Callable[[], object]:
    cache = cache_in(folder)
    return lambda: cache.find(key(entries // 2)).sum()


def table(folder: Path, entries: int) -> Callable[[], object]:
    return cache_in(folder).table


def make_room(folder: Path, entries: int) -> Callable[[], object]:
    """As before every entry that is written; nothing has to go."""
    cache = cache_in(folder)
    return lambda: cache.make_room(10**6)


def drop_half(folder: Path, entries: int) -> Callable[[], object]:
    """Room for half of what is there; the half that was there is made again before."""
    prepare_missing(folder, entries)
    held = sum(entry.size for entry in cache_in(folder).entries())
    cache = cache_in(folder, held)
    return lambda: cache.make_room(held // 2)


def prepare_missing(folder: Path, entries: int) -> None:
    for place in folder.iterdir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    prepare(folder, entries)


SUBJECTS = {
    "feature-cache": Subject(
        "A feature cache of so many small entries: one is found; all are listed; room is looked "
        "for, as before every entry that is written; half of them are dropped.",
        "entries",
        (500, 1000, 2000, 4000, 8000),
        (20, 40),
        prepare,
        {
            "find": Part(find),
            "list": Part(table),
            "look for room": Part(make_room),
            "drop half": Part(drop_half),
        },
    )
}
