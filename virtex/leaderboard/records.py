"""The part of a result record that a leaderboard needs, checked and kept small."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from virtex.records import SCHEMA_VERSION

MAX_SIZE = 1e15  # of a metric: beyond it four digits after the point mean nothing
MAX_SEED = 2**64
MAX_METRICS = 10_000  # of a record; each is a column
DATA = ("images", "annotations_sha256", "files_sha256")  # what tells data sets apart
DRAWN = "_semi_supervised"  # the end of tasks whose training images the seed draws
ENVIRONMENT = (
    "virtex", "git_revision", "python", "torch", "torchvision", "detectron2", "scorer",
    "svm_solver", "device", "processes", "gpus", "platform",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """What was evaluated: a file's content, and how it was read. The same under any name.

    Attributes:
        arch: torchvision's name of the architecture.
        read_as: canonical JSON of the whole architecture and of the input (color order, mean, …).
    """

    sha256: str
    format: str
    arch: str
    read_as: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What two numbers must share to be comparable.

    Attributes:
        task: ``coco``, ``voc07_svm``, …
        protocol: its name.
        version: of the protocol.
        deviations: canonical JSON of the sorted deviations; ``"[]"`` for a run as packaged.
        data: canonical JSON of data set -> images, and hashes of annotations and files.
    """

    task: str
    protocol: str
    version: str
    deviations: str = "[]"
    data: str = "{}"

    def listed_departures(self) -> list[dict[str, Any]]:
        """Each with ``key``, ``protocol``, ``run`` and ``why``."""
        return json.loads(self.deviations)


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation.

    Attributes:
        path: of the file, as it was found.
        shown: the same from the name of the given folder on, wherever that lies, as UTF-8 text.
        name: what the user called the model.
        metrics: name -> value; None where it is not defined.
        when: ``created`` in seconds since 1970.
        environment: JSON of versions and hardware.
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


class Unusable(Exception):
    """Why a file is no usable record: kind, reason."""


@dataclass(slots=True)
class Pool:
    """One object for equal ones: of a thousand runs most share protocol and environment."""

    kept: dict[Any, Any] = field(default_factory=dict)

    def one(self, value: Any) -> Any:
        return self.kept.setdefault(value, value)


def as_record(content: Any, path: str, shown: str, pool: Pool) -> Record:
    """The part of a record that a leaderboard needs, checked.

    Raises:
        Unusable: it is another program's file, or of a newer version of this one.
    """
    version = part(content, "schema_version", kind=int)
    if version > SCHEMA_VERSION:
        raise Unusable(
            "future", f"schema_version {version} is newer than {SCHEMA_VERSION}; update virtex"
        )
    if version < 1:
        raise Unusable("foreign", f"there is no schema_version {version}")
    metrics = metrics_of(content)
    primary = part(content, "primary_metric", kind=str)
    if primary not in metrics:
        raise Unusable("foreign", f"metrics has no {primary!r}, the primary_metric")
    seed = part(content, "seed", kind=int)
    if not -MAX_SEED < seed < MAX_SEED:
        raise Unusable("foreign", "seed has more than 64 bits")
    model, created = part(content, "model", kind=dict), part(content, "created", kind=str)
    try:
        return Record(
            path=path,
            shown=shown,
            model=pool.one(
                Model(
                    part(content, "model", "sha256", kind=str),
                    part(content, "model", "format", kind=str),
                    part(content, "model", "arch", "name", kind=str),
                    canonical([model["arch"], model.get("input")]),
                )
            ),
            name=pool.one(part(content, "model", "name", kind=str)),
            conditions=pool.one(conditions_of(content)),
            metrics=metrics,
            primary_metric=sys.intern(primary),
            higher_is_better=part(content, "higher_is_better", kind=bool, default=True),
            seed=seed,
            created=created,
            when=seconds_since_1970(created),
            environment=pool.one(environment_of(content)),
        )
    except RecursionError as error:
        raise Unusable("foreign", "it is nested too deeply") from error
    except ValueError as error:
        raise Unusable("foreign", "it holds a number beyond all measure") from error


REQUIRED = object()
KINDS = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def part(content: Any, *keys: str, kind: type, default: Any = REQUIRED) -> Any:
    """``content[keys[0]][keys[1]]…`` of the type that it must have; texts are not empty.

    Raises:
        Unusable: it is missing or of another type.
    """
    name = ".".join(keys)
    for depth, key in enumerate(keys):
        if not isinstance(content, dict):
            above = ".".join(keys[:depth]) or "the file"
            raise Unusable("foreign", f"{above} holds no JSON object")
        if key not in content:
            if default is not REQUIRED:
                return default
            raise Unusable("foreign", f"it has no {name}")
        content = content[key]
    if type(content) is not kind or content == "":
        raise Unusable("foreign", f"{name} is not {KINDS[kind]}")
    return content


def metrics_of(content: Any) -> dict[str, float | None]:
    found = part(content, "metrics", kind=dict)
    if len(found) > MAX_METRICS:
        raise Unusable("foreign", f"metrics has {len(found)} names, more than {MAX_METRICS}")
    for name, value in found.items():
        if value is None:
            continue
        if type(value) not in (int, float) or not name:
            raise Unusable("foreign", f"metrics.{name} is not a number")
        if not -MAX_SIZE < value < MAX_SIZE:  # an int may have thousands of digits
            raise Unusable("foreign", f"metrics.{name} is beyond all measure")
    return {
        sys.intern(name): value if value is None else float(value) for name, value in found.items()
    }


def conditions_of(content: Any) -> Conditions:
    """What a record's numbers are comparable under."""
    protocol = part(content, "protocol", kind=dict)
    key_of_reason = "reason" if "overrides" in protocol else "why"  # schema 1
    deviations = part(
        content, "protocol", "overrides" if "overrides" in protocol else "departures", kind=list
    )
    deviations = [
        {**d, "why": d[key_of_reason]} if isinstance(d, dict) and key_of_reason in d else d
        for d in deviations
    ]
    for number, deviation in enumerate(deviations):
        where = f"protocol.deviations[{number}]"
        if not isinstance(deviation, dict) or not {"protocol", "run"} <= deviation.keys():
            raise Unusable("foreign", f"{where} has no key, protocol, run and why")
        for key in ("key", "why"):
            part({where: deviation}, where, key, kind=str)
    listed = sorted(
        {canonical({key: d[key] for key in ("key", "protocol", "run", "why")}) for d in deviations}
    )
    return Conditions(
        task=part(content, "task", kind=str),
        protocol=part(content, "protocol", "name", kind=str),
        version=part(content, "protocol", "version", kind=str),
        deviations=f"[{','.join(listed)}]",
        data=canonical(data_of(content)),
    )


def data_of(content: Any) -> dict[str, dict[str, Any]]:
    """Each data set's number of images and the hashes of its files and annotations.

    The seed draws the training images of a run on a fraction of the labels, so the hashes of what
    was trained on differ between seeds that belong together.
    """
    drawn = part(content, "task", kind=str).endswith(DRAWN)
    described = {}
    for name, about in part(content, "data", kind=dict, default={}).items():
        if not isinstance(about, dict):
            raise Unusable("foreign", f"data.{name} holds no JSON object")
        keys = DATA[:1] if drawn and name.endswith("_train") else DATA
        described[name] = {key: about[key] for key in keys if key in about}
    return described


def environment_of(content: Any) -> str:
    environment = part(content, "environment", kind=dict, default={})
    return canonical({key: environment[key] for key in ENVIRONMENT if key in environment})


def seconds_since_1970(created: str) -> float:
    """An ISO time; one without a zone is UTC."""
    try:
        time = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        raise Unusable("foreign", f"created is {created[:40]!r}, which is no time") from None
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return ((time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - epoch).total_seconds()


def canonical(content: Any) -> str:
    """The same text for equal JSON.

    Raises:
        ValueError: a number is infinite, as ``1e999`` is when it is read.
    """
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def short_hash(text: str, digits: int = 6) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def printable(text: str) -> str:
    """Text for one line of a terminal or a table: no control characters, single spaces."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in single_spaced(text)
    )


def single_spaced(text: str) -> str:
    return " ".join(text.split())
