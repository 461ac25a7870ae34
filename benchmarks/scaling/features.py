"""Features of many images on disk: written, found, and read as the probes read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling.measuring import Part, Subject

COLUMNS = 2048
ROWS = 8192  # that are written at a time
CLASSES = 10  # few, so that reading rules and not the matrix products
GRID = [(0.1, 0.0)]


def key(rows: int) -> dict[str, Any]:
    return {"images": rows, "transform": {"resize": 256, "center crop": 224}}


def cache_in(folder: Path, name: str = "cache") -> Any:
    from virtex.probes.feature_cache import FeatureCache

    return FeatureCache(folder / name)


def fill(cache: Any, rows: int) -> None:
    from virtex.probes.feature_cache import release_pages

    part = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    with cache.write(key(rows), (rows, COLUMNS), {"checkpoint": "x", "data": "y"}) as path:
        array = np.lib.format.open_memmap(path, "r+")
        for first in range(0, rows, ROWS):
            array[first : first + ROWS] = part[: rows - first]
            release_pages(array)
        array.flush()


def prepare(folder: Path, rows: int) -> None:
    fill(cache_in(folder), rows)


def write(folder: Path, rows: int) -> Callable[[], object]:
    import shutil

    cache = cache_in(folder, "written")

    def work() -> None:
        fill(cache, rows)
        shutil.rmtree(folder / "written")

    return work


def find(folder: Path, rows: int) -> Callable[[], object]:
    cache = cache_in(folder)
    return lambda: cache.find(key(rows)).shape


def read_moments(folder: Path, rows: int) -> Callable[[], object]:
    from virtex.probes.cached_probe import compute_moments

    features = cache_in(folder).find(key(rows))
    return lambda: compute_moments([features], np.arange(rows))


def train_epoch(folder: Path, rows: int) -> Callable[[], object]:
    """``CachedLinearProbe.fit`` as the tool calls it, for one epoch."""
    import torch

    from virtex.data.image_sets import ImageSet
    from virtex.probes.cached_probe import CachedLinearProbe
    from virtex.probes.features import Extraction
    from virtex.probes.settings import load_settings
    from virtex.tasks import packaged_protocol

    cache = cache_in(folder)
    protocol = packaged_protocol("imagenet_linear", "cached")
    settings, _ = load_settings(protocol, ("PROBE.NUM_EPOCHS", 1))
    labels = np.arange(rows) % CLASSES
    names = [str(number) for number in range(CLASSES)]
    train = ImageSet("train", folder, ["x"] * rows, labels, names)
    val = ImageSet("val", folder, ["x"] * 100, labels[:100], names)
    extraction = Extraction(torch.device("cpu"), cache)
    probe = CachedLinearProbe(train, val, settings, extraction, folder)
    features = cache.find(key(rows))
    kept = np.setdiff1d(np.arange(rows), probe.held_out)
    standard = np.zeros(COLUMNS), np.ones(COLUMNS)
    return lambda: probe.fit([features], kept, standard, GRID)


SIZES = (81_250, 162_500, 325_000, 650_000, 1_300_000)
QUICK = (300, 600)
SUBJECTS = {
    "features-written": Subject(
        f"Features of so many images, {COLUMNS} float32 each, written through the cache. What "
        "comes near to the size of the memory waits for the disk: not judged.",
        "images",
        SIZES,
        QUICK,
        lambda folder, rows: None,
        {"write": Part(write, judged=False)},
    ),
    "features": Subject(
        f"Features of so many images, {COLUMNS} float32 each: found in the cache; mean and "
        "deviation over all of them; an epoch of the cached probe, one setting, "
        f"{CLASSES} classes.",
        "images",
        SIZES,
        QUICK,
        prepare,
        {
            "find": Part(find),
            "mean and deviation": Part(read_moments),
            "epoch": Part(train_epoch),
        },
    ),
}
