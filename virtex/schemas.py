"""Pydantic models of the JSON files that the toolkit reads, and their error messages.

Import this module inside functions: pydantic takes longer to import than ``--help`` may take.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from virtex.records import SCHEMA_VERSION
from virtex.text import short_repr

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # except tabs and line ends
MAX_METRIC = 1e15  # above it, four decimal places exceed the precision of a float
MAX_SEED = 2**64
MAX_PATH = 300  # characters of a field's path in a message


def require_printable(text: str) -> str:
    """Reject control characters and lone surrogates, which cannot be written."""
    if CONTROL.search(text):
        raise ValueError("expected text without control characters")
    return text


Text = Annotated[str, Field(min_length=1)]
PlainText = Annotated[str, AfterValidator(require_printable)]
Metric = Annotated[float, Field(gt=-MAX_METRIC, lt=MAX_METRIC)]


class Schema(BaseModel):
    """Base of all models: no conversion between types (an int is a valid float)."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class OverrideSchema(Schema):
    """One setting of a run that differs from its protocol; see ``records.Deviation``."""

    key: Text
    protocol: Any
    run: Any
    reason: Text


class ProtocolSchema(Schema):
    name: Text
    version: Text
    overrides: list[OverrideSchema] = Field(max_length=1_000)


class ChangeSchema(Schema):
    """A setting that a resumed pretraining has changed."""

    iteration: int
    setting: Text
    before: Any
    now: Any


class RunFile(Schema):
    """A ``run.json``: see ``run_folder.write_run_file``. Version 1 had other fields."""

    version: int | None = None
    identity: dict[str, Any] = {}
    deviations: list[OverrideSchema] = []
    changes: list[ChangeSchema] = []


class ArchSchema(Schema):
    model_config = ConfigDict(extra="allow")

    name: Text


class ModelSchema(Schema):
    name: Text
    sha256: Text
    format: Text
    arch: ArchSchema
    input: Any = None


class ResultRecord(Schema):
    """A ``result.json`` of schema 1 or 2: the fields that are read back."""

    schema_version: int = Field(ge=1)
    task: Text
    protocol: ProtocolSchema
    # each metric is a column of the leaderboard
    metrics: dict[Text, Metric | None] = Field(max_length=10_000)
    primary_metric: Text
    higher_is_better: bool = True
    model: ModelSchema
    data: dict[str, dict[str, Any]] = Field({}, max_length=100)
    environment: dict[str, Any] = {}
    seed: int = Field(gt=-MAX_SEED, lt=MAX_SEED)
    created: str

    @model_validator(mode="before")
    @classmethod
    def convert_schema_1(cls, content: Any) -> Any:
        """Rename ``departures`` to ``overrides``, and ``why`` in each of them to ``reason``."""
        try:
            if content["schema_version"] == 1:
                protocol = {**content["protocol"]}
                protocol["overrides"] = [
                    {**one, "reason": one["why"]} for one in protocol.pop("departures")
                ]
                content = {**content, "protocol": protocol}
        except (TypeError, KeyError):
            pass  # reported below
        return content

    @field_validator("schema_version")
    @classmethod
    def require_known_schema(cls, version: int) -> int:
        if version > SCHEMA_VERSION:
            raise ValueError(f"expected at most {SCHEMA_VERSION}; update virtex to read it")
        return version

    @field_validator("primary_metric")
    @classmethod
    def require_primary_metric(cls, name: str, info: ValidationInfo) -> str:
        if name not in info.data.get("metrics", {name: None}):
            raise ValueError("expected a key of metrics")
        return name

    @field_validator("created")
    @classmethod
    def require_time(cls, text: str) -> str:
        parse_time(text)
        return text


def parse_time(text: str) -> float:
    """Return seconds since 1970 of an ISO 8601 time; UTC if it has no time zone.

    Raises:
        ValueError: ``text`` is not a time.
    """
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("expected an ISO 8601 time") from None
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return ((time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - epoch).total_seconds()


def describe_error(error: ValidationError) -> str:
    """Return the first error as one line: path of the field, expected, found."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return message
    if first["type"] not in ("missing", "extra_forbidden"):
        message = f"{message}, found {short_repr(first['input'])}"
    path = ".".join(str(step) for step in first["loc"] if step != "[key]")
    if not path.isprintable() or len(path) > MAX_PATH:
        path = short_repr(path)
    return f"{path}: {message}" if path else message
