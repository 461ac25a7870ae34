"""Result records found on disk: read, or skipped with the reason; of two the newest kept."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from virtex.errors import UserError
from virtex.leaderboard.records import (
    Conditions,
    Model,
    Pool,
    Record,
    Unusable,
    as_record,
    canonical,
    printable,
)
from virtex.records import RECORD_NAME

MAX_BYTES = 8 * 1024**2  # a record has a few thousand; read, a byte may take twenty


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no usable record.

    Attributes:
        kind: ``"corrupt"``, ``"foreign"`` or ``"future"``.
        why: in plain words.
    """

    path: str
    kind: str
    why: str

    def __str__(self) -> str:
        return f"skipped {self.reason()}"

    def reason(self) -> str:
        """Path, kind and why, for one line."""
        return printable(f"{self.path}: {self.kind}: {self.why}")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record that another one replaces: the same model, task, protocol and seed, but newer."""

    path: str
    newer: str

    def __str__(self) -> str:
        return printable(
            f"duplicate {self.path}: the same model, task, protocol and seed as {self.newer}, "
            "the newest, which is kept"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The records below some folders, duplicates left out, in an order of their own."""

    records: list[Record]
    skipped: list[Skipped]
    duplicates: list[Duplicate]


def read_records(results: Sequence[str | os.PathLike[str]]) -> Found:
    """Every record below ``results``, folders or single files, each file once.

    Raises:
        UserError: one of ``results`` does not exist.
    """
    files, skipped = [], []
    for place in results:
        for path, shown, error in record_files(place):
            if error:
                skipped.append(Skipped(path, "corrupt", error))
            else:
                # a file's name may be any bytes
                files.append((os.fsencode(shown).decode(errors="replace"), path))
    records, pool, seen = [], Pool(), set()
    for shown, path in sorted(files):
        try:
            found = os.stat(path)
            if (found.st_dev, found.st_ino) in seen:  # overlapping folders, links
                continue
            seen.add((found.st_dev, found.st_ino))
            records.append(as_record(load(path, found), path, shown, pool))
        except OSError as error:
            skipped.append(Skipped(path, "corrupt", f"it cannot be read ({error.strerror})"))
        except Unusable as error:
            skipped.append(Skipped(path, *error.args))
    kept, duplicates = newest(records)
    return Found(kept, sorted(set(skipped), key=lambda skip: skip.path), duplicates)


def record_files(place: str | os.PathLike[str]) -> Iterator[tuple[str, str, str]]:
    """Path, path as it is shown, and what is wrong with it (mostly "") of each ``result.json``.

    Links are followed, each folder once, so that a link to a parent does not loop.
    """
    place = os.path.expanduser(place)
    top = os.path.basename(os.path.abspath(place))
    if not os.path.isdir(place):
        if not os.path.exists(place):
            raise UserError(f"{printable(place)} does not exist; name a folder with results")
        yield (
            place,
            os.path.join(os.path.basename(os.path.dirname(os.path.abspath(place))), top),
            "",
        )
        return
    seen, folders = set(), [(place, top)]
    while folders:
        folder, shown = folders.pop()
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as entries:
                there = sorted((entry.name, opens_as_folder(entry)) for entry in entries)
        except OSError as error:
            yield folder, shown, f"the folder cannot be read ({error.strerror})"
            continue
        for name, is_folder in there:
            if is_folder:
                folders.append((os.path.join(folder, name), f"{shown}/{name}"))
            elif name == RECORD_NAME:
                yield os.path.join(folder, name), f"{shown}/{name}", ""


def opens_as_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def load(path: str, found: os.stat_result) -> Any:
    """The JSON in a file.

    Raises:
        OSError: it cannot be read.
        Unusable: it is not JSON.
    """
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("corrupt", "it is not a file")
    if found.st_size > MAX_BYTES:
        raise Unusable("corrupt", f"{found.st_size} bytes are too many for a record")
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = data.decode()
        content = json.loads(text, parse_constant=refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            # half a surrogate pair is JSON, but no text that can be written
            canonical(content).encode()
    except UnicodeError as error:
        raise Unusable("corrupt", "it is not UTF-8 text") from error
    except RecursionError as error:
        raise Unusable("corrupt", "it is nested too deeply") from error
    except ValueError as error:
        raise Unusable("corrupt", f"it is not JSON ({error})") from error
    return content


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def newest(records: Iterable[Record]) -> tuple[list[Record], list[Duplicate]]:
    """One record of each model, conditions and seed: the newest, or the last by path."""
    kept: dict[tuple[Model, Conditions, int], Record] = {}
    replaced = []
    for record in sorted(records, key=lambda record: (record.when, record.shown, record.path)):
        key = record.model, record.conditions, record.seed
        if key in kept:
            replaced.append((kept[key], key))
        kept[key] = record
    duplicates = [Duplicate(record.path, kept[key].path) for record, key in replaced]
    return list(kept.values()), sorted(duplicates, key=lambda duplicate: duplicate.path)
