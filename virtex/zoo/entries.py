"""The entries of ``model_zoo.yaml``, and of the user's files that ``VIRTEX_ZOO`` names."""

from __future__ import annotations

import difflib
import functools
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from virtex.checkpoints.backbone import InputSpec
from virtex.errors import UserError
from virtex.files import is_path_below
from virtex.resources import resource_path
from virtex.schemas import PlainText, Schema, describe_error
from virtex.zoo.reading import load_yaml

ZOO_FILE = resource_path("model_zoo.yaml")
VARIABLE = "VIRTEX_ZOO"  # further files, separated by os.pathsep
PREFIX = "virtex://"
MAX_NAME = 200  # bytes of a file name; during a download it is longer


def require_url(url: str) -> str:
    """Validate the URL of a file; its host and path become folders of the cache."""
    if not re.fullmatch(r"[!-~\xa1-\uffff]{1,2000}", url):
        raise ValueError("expected a URL without spaces")
    parts = urlsplit(url)
    *folders, file = parts.path.split("/")
    if parts.scheme not in ("http", "https") or parts.port == 0 or file in ("", ".", ".."):
        raise ValueError("expected the URL of a file, https://…")
    if (parts.hostname or ".").startswith(".") or any(
        len(part.encode()) > MAX_NAME for part in (*folders, file, parts.netloc)
    ):
        raise ValueError("expected a URL with a host and short file names")
    return url


def require_file_name(name: str) -> str:
    if not re.fullmatch(r"[^/\\\s.][^/\\\n]*", name) or len(name.encode()) > MAX_NAME:
        raise ValueError("expected a file name without a folder")
    return name


def require_path_below(path: str) -> str:
    if path and not is_path_below(path):
        raise ValueError("expected a path below the folder of this file, or a packaged name")
    return path


Url = Annotated[PlainText, AfterValidator(require_url)]
FileName = Annotated[PlainText, AfterValidator(require_file_name)]
PathBelow = Annotated[PlainText, AfterValidator(require_path_below)]
Positive = Annotated[float, Field(gt=0)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]


class EntrySchema(Schema):
    model_config = ConfigDict(extra="forbid")


class PublishedResult(EntrySchema):
    """A published number of a model, under a protocol of this package.

    Attributes:
        task, protocol, metric: as in a result record (protocol: its name; the current version).
        value: in percent.
        source: the publication.
        model: name of the model.
        arch: name of its backbone's architecture.
        entry: name of the zoo entry; "" if there is none.
    """

    task: PlainText
    protocol: PlainText
    metric: PlainText
    value: float = Field(gt=-1e9, lt=1e9)
    source: PlainText
    model: PlainText = ""
    arch: PlainText = ""
    entry: PlainText = ""


class InputFields(EntrySchema):
    channel_order: Literal["RGB", "BGR"]
    mean: Triple
    std: Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]
    scale: float = 1.0

    @field_validator("scale")
    @classmethod
    def require_scale(cls, scale: float) -> float:
        if scale not in (1, 255):
            raise ValueError("expected 1.0 or 255.0, the value of white")
        return scale


class Entry(EntrySchema):
    """One downloadable model.

    Attributes:
        urls: of its file; mirrors in the order they are tried.
        file: name of the file.
        sha256: its hash, or the first digits; "" if unknown.
        size: bytes; 0 if unknown.
        format: of the checkpoint, by the format table; "auto" to detect it.
        arch: name of its backbone's architecture; "" if unknown.
        holds: "backbone", or "model" for a whole pretraining model.
        config: the pretraining config it was trained with, packaged or a file; "" if none.
        tokenizer: the vocabulary of its captions, a file; "" for that of the config.
        input_fields: see ``input``.
        pretraining_data, license, source: informational; source publishes the URL.
        results: published numbers.
        name: in the zoo.
        zoo_file: the file that contains the entry.
    """

    urls: Annotated[tuple[Url, ...], Field(strict=False, min_length=1, max_length=100)]
    file: FileName = ""
    sha256: str = Field("", pattern=r"^[0-9a-fA-F]{8,64}$")
    size: int = Field(0, gt=0, lt=2**63)
    format: PlainText = "auto"
    arch: PlainText = ""
    holds: Literal["backbone", "model"] = "backbone"
    config: PathBelow = ""
    tokenizer: PathBelow = ""
    input_fields: InputFields | None = Field(None, validation_alias="input")
    pretraining_data: PlainText = ""
    license: PlainText = Field("", validation_alias=AliasChoices("license", "licence"))
    source: PlainText = ""
    results: Annotated[tuple[PublishedResult, ...], Field(strict=False)] = ()
    name: str = ""
    zoo_file: Path = Path()

    @model_validator(mode="after")
    def require_config(self) -> Entry:
        if self.holds == "model" and not self.config:
            raise ValueError("expected a config, because the file contains a whole model")
        return self

    @property
    def input(self) -> InputSpec | None:
        """Return the input that the model expects; None for that of its format."""
        return InputSpec(**dict(self.input_fields)) if self.input_fields else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; None for unknown values."""
        known = {key: value or None for key, value in self.model_dump(mode="json").items()}
        known["input"] = known.pop("input_fields")
        return known


class ZooFile(EntrySchema):
    models: dict[Annotated[PlainText, Field(pattern=r"^\w[\w.+-]*(/\w[\w.+-]*)*$")], Entry]


def entries() -> dict[str, Entry]:
    """Return all entries by name, from ``model_zoo.yaml`` and the files in ``VIRTEX_ZOO``.

    Raises:
        UserError: a file is invalid, or two files define the same name.
    """
    paths = os.environ.get(VARIABLE, "").split(os.pathsep)
    found = dict(entries_of(ZOO_FILE))
    for path in dict.fromkeys(resolve_path(path) for path in paths if path):
        for name, entry in entries_of(path).items():
            if name in found:
                raise UserError(
                    f"{path}: models.{name} is also in {found[name].zoo_file}; rename yours",
                    "zoo.duplicate",
                )
            found[name] = entry
    return found


def resolve_path(path: str) -> Path:
    """Return the absolute path with links resolved, except a link to itself."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def entries_of(path: Path) -> dict[str, Entry]:
    """Return the entries of one file.

    Raises:
        UserError: it is missing or invalid.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "zoo.not_found") from error
    return _entries_of(path, changed)


@functools.lru_cache(maxsize=8)
def _entries_of(path: Path, changed: int) -> dict[str, Entry]:
    try:
        models = ZooFile.model_validate(load_yaml(path)).models
    except ValidationError as error:
        raise UserError(
            f"{path}: {describe_error(error)}; the head of model_zoo.yaml describes all keys",
            "zoo.invalid",
        ) from error
    found = {}
    for name, entry in models.items():
        identity = {"model": name, "entry": name, "arch": entry.arch}
        found[name] = entry.model_copy(
            update={
                "name": name,
                "zoo_file": path,
                "file": entry.file or entry.urls[0].partition("?")[0].rpartition("/")[2],
                "sha256": entry.sha256.lower(),
                "results": tuple(one.model_copy(update=identity) for one in entry.results),
            }
        )
    return found


def find(name: str) -> Entry:
    """Return the entry with this name; its last part is sufficient if unique.

    Raises:
        UserError: no entry or several entries match; the message lists names.
    """
    known, wanted = entries(), name.removeprefix(PREFIX).removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    named = [entry for key, entry in known.items() if key.rpartition("/")[2] == wanted]
    if len({entry.urls for entry in named}) > 1:
        several = " or ".join(entry.name for entry in named)
        raise UserError(
            f"several zoo models are named {wanted!r}; choose {several}", "zoo.ambiguous"
        )
    if named:
        return named[0]
    last_parts = {key.rpartition("/")[2]: key for key in known}
    near = difflib.get_close_matches(wanted[:MAX_NAME], [*known, *last_parts], n=3, cutoff=0.5)
    names = ", ".join(dict.fromkeys(last_parts.get(key, key) for key in near))
    hint = f"did you mean {names}?" if near else "eval_tools/model_zoo.py list shows all"
    raise UserError(f"unknown zoo model {wanted!r}; {hint}", "zoo.unknown_model")


def find_entry(checkpoint: str) -> Entry | None:
    """Return the entry of ``virtex://NAME``, None for any other name of a checkpoint.

    Raises:
        UserError: the entry does not exist.
    """
    return find(checkpoint) if checkpoint.startswith(PREFIX) else None
