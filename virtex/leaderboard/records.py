"""Find result records, read the fields of the leaderboard, and keep the newest of each run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from virtex.errors import UserError
from virtex.files import read_file
from virtex.records import RECORD_NAME
from virtex.text import one_line, redact
from virtex.text import printable as without_control

DATA = ("images", "annotations_sha256", "files_sha256")  # keys that identify a dataset
MAX_TEXT = 300  # characters
DRAWN = "_semi_supervised"  # suffix of tasks whose training images depend on the seed
ENVIRONMENT = (
    "virtex", "git_revision", "python", "torch", "torchvision", "detectron2", "scorer",
    "svm_solver", "device", "processes", "gpus", "platform",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """An evaluated model: a file's content and how it was read, regardless of the file's name.

    Attributes:
        arch: name of the architecture.
        read_as: canonical JSON of the whole architecture and of the input (channel order, mean, …).
    """

    sha256: str
    format: str
    arch: str
    read_as: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions that two numbers must share to be comparable.

    Attributes:
        overrides: canonical JSON of the sorted overrides; ``"[]"`` for the packaged protocol.
        data: canonical JSON of dataset -> images, and hashes of annotations and files.
    """

    task: str
    protocol: str
    version: str
    overrides: str = "[]"
    data: str = "{}"


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation.

    Attributes:
        path: path of the file.
        shown: the displayed path, relative to the parent of the given folder, in UTF-8.
        name: the name the user gave the model.
        metrics: name -> value; None if undefined.
        when: ``created`` as a Unix timestamp.
        environment: canonical JSON of versions and hardware.
    """

    path: str
    shown: str
    model: Model
    name: str
    conditions: Conditions
    metrics: dict[str, float | None]
    primary_metric: str
    higher_is_better: bool
    seed: int
    created: str
    when: float
    environment: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not a valid record."""

    path: str
    reason: str

    def __str__(self) -> str:
        return printable(f"skipped {self.path}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record with the model, task, protocol and seed of a newer one, which is kept."""

    path: str
    newer: str

    def __str__(self) -> str:
        return printable(
            f"ignored duplicate {self.path}: same model, task, protocol and seed as the newer "
            f"{self.newer}"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The records below some folders, without duplicates."""

    records: list[Record]
    skipped: list[Skipped]
    duplicates: list[Duplicate]


def read_records(roots: Sequence[str | os.PathLike[str]]) -> Found:
    """Read every ``result.json`` below ``roots``, which are folders or single files.

    Raises:
        UserError: one of ``roots`` does not exist.
    """
    errors: list[OSError] = []
    # A file name need not be valid UTF-8.
    found = {
        (os.fsencode(shown).decode(errors="replace"), path) for path, shown in _find(roots, errors)
    }
    skipped = {Skipped(error.filename, error.strerror or "") for error in errors}
    records: list[Record] = []
    pool: dict[Any, Any] = {}
    seen = set()
    for shown, path in sorted(found):
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:  # overlapping folders, links
                continue
            seen.add((status.st_dev, status.st_ino))
            records.append(_read_record(path, shown, pool))
        except OSError as error:
            skipped.add(Skipped(path, error.strerror or str(error)))
        except ValueError as error:
            skipped.add(Skipped(path, str(error)))
    kept, duplicates = _keep_newest(records)
    return Found(kept, sorted(skipped, key=lambda file: file.path), duplicates)


def _find(
    roots: Sequence[str | os.PathLike[str]], errors: list[OSError]
) -> Iterator[tuple[str, str]]:
    """Yield the path of each record, and its path relative to the parent of its root.

    Args:
        errors: list to which unreadable folders are appended.
    """
    visited = set()
    for root in map(os.path.expanduser, roots):
        if not os.path.exists(root):
            raise UserError(
                f"{printable(root)} does not exist; specify a folder with results",
                "leaderboard.not_found",
            )
        top = os.path.abspath(root)
        if not os.path.isdir(root):
            yield root, os.path.join(os.path.basename(os.path.dirname(top)), os.path.basename(top))
            continue
        for folder, subfolders, files in os.walk(root, onerror=errors.append, followlinks=True):
            status = os.stat(folder)
            if (
                status.st_dev,
                status.st_ino,
            ) in visited:  # a link to a visited folder
                subfolders.clear()
            elif RECORD_NAME in files:
                path = os.path.join(folder, RECORD_NAME)
                yield path, os.path.join(os.path.basename(top), os.path.relpath(path, root))
            visited.add((status.st_dev, status.st_ino))


def _read_record(path: str, shown: str, pool: dict[Any, Any]) -> Record:
    """Read one record.

    Args:
        pool: interned objects; most records share protocol and environment.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a valid record; the message is shown to the user.
    """
    from pydantic import ValidationError

    from virtex.schemas import ResultRecord, describe_error, parse_time

    try:
        record = ResultRecord.model_validate_json(read_file(path))
    except ValidationError as error:
        raise ValueError(describe_error(error)) from error
    model, protocol = record.model, record.protocol
    overrides = sorted(
        {canonical({k: bound(v) for k, v in override}) for override in protocol.overrides}
    )
    conditions = Conditions(
        bound(record.task),
        bound(protocol.name),
        bound(protocol.version),
        f"[{','.join(overrides)}]",
        canonical(_data_identity(record.task, record.data)),
    )
    known = record.environment
    environment = {key: bound(known[key]) for key in ENVIRONMENT if key in known}
    read_as = canonical([model.arch.model_dump(), model.input])
    return Record(
        path=path,
        shown=shown,
        model=_shared(
            pool, Model(*map(bound, (model.sha256, model.format, model.arch.name, read_as)))
        ),
        name=_shared(pool, bound(redact(model.name))),
        conditions=_shared(pool, conditions),
        metrics={sys.intern(bound(name)): value for name, value in record.metrics.items()},
        primary_metric=sys.intern(bound(record.primary_metric)),
        higher_is_better=record.higher_is_better,
        seed=record.seed,
        created=bound(record.created),
        when=parse_time(record.created),
        environment=_shared(pool, canonical(environment)),
    )


def _shared(pool: dict[Any, Any], value: Any) -> Any:
    return pool.setdefault(value, value)


def _data_identity(task: str, data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each dataset's number of images and the hashes of its files and annotations.

    With a fraction of the labels, the seed draws the training images: their hashes differ between
    seeds that belong together.
    """
    identity = {}
    for name, about in data.items():
        drawn = task.endswith(DRAWN) and name.endswith("_train")
        keys = DATA[: 1 if drawn else None]
        identity[bound(name)] = {key: bound(about[key]) for key in keys if key in about}
    return identity


def _keep_newest(records: Iterable[Record]) -> tuple[list[Record], list[Duplicate]]:
    """Keep one record of each model, conditions and seed: the newest, or the last by path."""
    kept: dict[tuple[Model, Conditions, int], Record] = {}
    replaced = []
    for record in sorted(records, key=lambda record: (record.when, record.shown, record.path)):
        key = record.model, record.conditions, record.seed
        if key in kept:
            replaced.append((kept[key], key))
        kept[key] = record
    duplicates = [Duplicate(record.path, kept[key].path) for record, key in replaced]
    return list(kept.values()), sorted(duplicates, key=lambda duplicate: duplicate.path)


def canonical(content: Any) -> str:
    """Return canonical JSON: the same text for equal content.

    Raises:
        ValueError: a number is infinite, as ``1e999`` is once parsed.
    """
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def bound(value: Any, limit: int = MAX_TEXT) -> Any:
    """Return a JSON value; its beginning and a hash if it is longer than ``limit`` as text.

    Every text of a record passes through this function: a table repeats and pads it in each row.
    """
    text = value if isinstance(value, str) else canonical(value)
    return value if len(text) <= limit else f"{text[: limit - 8]}…#{short_hash(text)}"


def short_hash(text: str, digits: int = 6) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def printable(text: str) -> str:
    """Return text for one line of a terminal or a table, without control characters."""
    return without_control(one_line(text))
