"""Whether a folder contains the record that a run would write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.errors import UserError
from virtex.files import parse_json, read_file
from virtex.records import RECORD_NAME, read_record, write_json
from virtex.run_folder import abbreviate

if TYPE_CHECKING:
    from virtex.evaluate_all.plan import Run

# Arguments that do not change the result
WITHOUT_EFFECT = (
    *("checkpoint", "format", "trust_pickle", "zoo", "output_dir", "resume", "overwrite"),
    *("num_gpus", "num_machines", "machine_rank", "dist_url", "num_workers", "batch_size"),
    *("cache_dir", "cache_limit", "checkpoint_every", "log_every", "overrides"),
)


def find_record(run: Run) -> dict[str, Any] | None:
    """Return the record of a complete run, or ``None`` if there is no record.

    Raises:
        UserError: the record is invalid, or that of another evaluation.
    """
    path = run.folder / RECORD_NAME
    if not path.is_file():
        return None
    record = read_record(path)
    found = {f"checkpoint {key}": record["model"].get(key) for key in run.model} | recorded(record)
    expected = {
        f"checkpoint {key}": value for key, value in run.model.items()
    } | run.expected_fields
    options = result_options(run)
    different = diff(found, expected) or diff(read_options(run) or options, options)
    if different:
        raise UserError(
            f"{run.folder} contains the result of another evaluation: {different}; move it away, "
            "or choose another --output-dir",
            "run.exists",
        )
    return record


def recorded(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``comparable`` from a record."""
    protocol = record["protocol"]
    overrides = {d["key"]: d["run"] for d in protocol["overrides"] if d["reason"] == "override"}
    return comparable(
        record["task"], protocol["name"], protocol["version"], overrides, record["seed"]
    )


def comparable(
    task: str, protocol: str, version: str, overrides: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Return what makes two results comparable, as flat fields."""
    fields = {"task": task, "protocol": protocol, "version": version, "seed": seed}
    return to_json_types(fields | {f"override {key}": value for key, value in overrides.items()})


def diff(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Describe where two sets of fields differ; "" if nowhere."""
    return ", ".join(
        f"expected {key} {abbreviate(expected.get(key))}, found {abbreviate(found.get(key))}"
        for key in dict.fromkeys([*expected, *found])
        if found.get(key) != expected.get(key)
    )


def result_options(run: Run) -> dict[str, Any]:
    """Return the arguments that can change the result; the record does not contain all of them."""
    options = {key: value for key, value in vars(run.args).items() if key not in WITHOUT_EFFECT}
    return to_json_types(options | {"data_root": os.path.realpath(run.args.data_root)})


def options_path(run: Run) -> Path:
    return run.log.with_suffix(".json")


def write_options(run: Run) -> None:
    """Store the arguments of a run beside its log."""
    write_json(options_path(run), result_options(run))


def read_options(run: Run) -> dict[str, Any] | None:
    """Return what ``write_options`` stored; ``None`` where the folder comes from elsewhere.

    Raises:
        UserError: the file is invalid.
    """
    path = options_path(run)
    try:
        options = parse_json(read_file(path))
        if not isinstance(options, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected the arguments of a run in {path}, but it is invalid ({error}); delete it",
            "run.unreadable",
        ) from error
    return options


def to_json_types(value: Any) -> Any:
    """Return a value as it is read back from JSON."""
    return json.loads(json.dumps(value))
