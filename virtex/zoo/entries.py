"""The entries of ``model_zoo.yaml``, and of files of one's own that ``VIRTEX_ZOO`` names."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virtex.checkpoints.backbone import InputSpec
from virtex.errors import UserError
from virtex.resources import resource_path
from virtex.zoo.reading import read_zoo_file

ZOO_FILE = resource_path("model_zoo.yaml")
VARIABLE = "VIRTEX_ZOO"  # further files, with os.pathsep between them
PREFIX = "virtex://"


@dataclass(frozen=True)
class PublishedResult:
    """A number that somebody published of a model, under a protocol of this package.

    Attributes:
        model: what the model is called.
        task, protocol, metric: as in a result record (protocol: its name, version 1).
        value: in percent.
        source: where it is published.
        arch: its backbone, by torchvision's name.
        entry: the model's name in the zoo; "" if it has no entry.
    """

    model: str
    task: str
    protocol: str
    metric: str
    value: float
    source: str
    arch: str = ""
    entry: str = ""


@dataclass(frozen=True)
class Entry:
    """One downloadable model.

    Attributes:
        urls: where its file is; mirrors in the order they are tried.
        file: the file's name.
        sha256: its hash, or its first digits; "" if unknown.
        size: bytes; 0 if unknown.
        format: of the checkpoint, by the format table; "auto" if it is to be recognized.
        arch: its backbone, by torchvision's name; "" if unknown.
        holds: "backbone", or "model": a whole pretraining model.
        config: the pretraining config it was trained with, packaged or a file; "" if none.
        tokenizer: the vocabulary of its captions, a file; "" where the config says where it is.
        input: what it expects of an image; ``None``: what its format says.
        pretraining_data, license, source: for people; source is where the address is published.
        results: published numbers.
        zoo_file: the file the entry is in.
    """

    name: str
    urls: tuple[str, ...]
    file: str
    sha256: str
    size: int
    format: str
    arch: str
    holds: str
    config: str
    tokenizer: str
    input: InputSpec | None
    pretraining_data: str
    license: str
    source: str
    results: tuple[PublishedResult, ...]
    zoo_file: Path

    def as_dict(self) -> dict[str, Any]:
        """JSON types only; None for what is unknown."""
        known = {key: None if value in ("", 0) else value for key, value in asdict(self).items()}
        return {**known, "zoo_file": str(self.zoo_file)}


def entries() -> dict[str, Entry]:
    """Every entry by name: of ``model_zoo.yaml``, then of the files in ``VIRTEX_ZOO``.

    Raises:
        UserError: a file is broken (with line and key), or a name is in two of them.
    """
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    found = dict(entries_of(ZOO_FILE))
    for path in dict.fromkeys(map(absolute, filter(None, named))):
        for name, entry in entries_of(path).items():
            if name in found:
                raise UserError(
                    f"{path} has a model {name!r}, and {found[name].zoo_file} too; rename yours"
                )
            found[name] = entry
    return found


def absolute(name: str) -> Path:
    """The path that a name stands for, links followed; one that is a link to itself as it is."""
    return Path(os.path.realpath(os.path.expanduser(name)))


def entries_of(path: Path) -> dict[str, Entry]:
    """The entries of one file.

    Raises:
        UserError: it is not there or broken.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"the zoo file {path} cannot be read: {error.strerror}") from error
    return _entries_of(path, changed)


@functools.lru_cache(maxsize=8)
def _entries_of(path: Path, changed: int) -> dict[str, Entry]:
    return {name: entry_from(name, row, path) for name, row in read_zoo_file(path).items()}


def of_channels(numbers: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = map(float, numbers)
    return first, second, third


def entry_from(name: str, row: Mapping[str, Any], path: Path) -> Entry:
    """An entry from its checked row of the zoo file ``path``."""
    arch = row.get("arch", "")
    said = row.get("input")
    spec = said and InputSpec(
        said["channel_order"],
        of_channels(said["mean"]),
        of_channels(said["std"]),
        float(said.get("scale", 1.0)),
    )
    return Entry(
        name=name,
        urls=tuple(row["urls"]),
        file=row.get("file") or row["urls"][0].partition("?")[0].rpartition("/")[2],
        sha256=row.get("sha256", "").lower(),
        size=row.get("size", 0),
        format=row.get("format", "auto"),
        arch=arch,
        holds=row.get("holds", "backbone"),
        config=row.get("config", ""),
        tokenizer=row.get("tokenizer", ""),
        input=spec,
        pretraining_data=row.get("pretraining_data", ""),
        license=row.get("license", ""),
        source=row.get("source", ""),
        results=tuple(
            PublishedResult(
                name, **{**result, "value": float(result["value"])}, arch=arch, entry=name
            )
            for result in row.get("results", ())
        ),
        zoo_file=path,
    )


def find(name: str) -> Entry:
    """The entry of this name; its last part alone is enough where no other model's ends so.

    Raises:
        UserError: there is none, or there are several; the names are listed.
    """
    known, wanted = entries(), name.removeprefix(PREFIX).removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    named = [entry for key, entry in known.items() if key.rpartition("/")[2] == wanted]
    if len({entry.urls for entry in named}) > 1:
        several = " or ".join(entry.name for entry in named)
        raise UserError(f"the model zoo has several models {wanted!r}; give {several}")
    if named:
        return named[0]
    last_parts = {key.rpartition("/")[2]: key for key in known}
    near = difflib.get_close_matches(wanted, [*known, *last_parts], n=3, cutoff=0.5)
    near = list(dict.fromkeys(last_parts.get(key, key) for key in near))
    hint = f"near it: {', '.join(near)}" if near else "eval_tools/model_zoo.py list shows them"
    raise UserError(f"the model zoo has no {wanted!r}; {hint}")


def entry_named(checkpoint: str) -> Entry | None:
    """The entry that a checkpoint's name asks for; ``None`` if it asks for something else.

    Raises:
        UserError: it is of the form ``virtex://NAME``, and there is no such entry.
    """
    return find(checkpoint) if checkpoint.startswith(PREFIX) else None
