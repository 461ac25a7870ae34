"""Whether a folder holds the finished record that a command line would give."""

import argparse
import contextlib
import importlib.util
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtex.errors import UserError
from virtex.evaluate_all.tasks import Task
from virtex.protocols import Protocol
from virtex.records import Deviation, write_json
from virtex.run_folder import abbreviate as brief

OVERRIDE = "override"
# What this tool decides; ``--arguments`` may not.
DECIDED = (
    *("checkpoint", "task", "protocol", "data_root", "output_dir", "seed"),
    *("num_gpus", "num_machines", "machine_rank", "dist_url", "resume", "eval_only", "list_cache"),
    *("format", "trust_pickle", "zoo"),
)
# What changes how a run is done, not what it gives.
WITHOUT_EFFECT = (
    *("checkpoint", "format", "trust_pickle", "zoo", "output_dir", "resume", "overwrite"),
    *("num_gpus", "num_machines", "machine_rank", "dist_url", "num_workers", "batch_size"),
    *("cache_dir", "cache_limit", "checkpoint_every", "log_every", "overrides"),
)


@dataclass(frozen=True)
class DetectionPlan:
    """Of ``virtex.runner.Evaluation`` what records are compared with."""

    protocol: Protocol
    deviations: list[Deviation]


def detection_plans(args: argparse.Namespace) -> list[DetectionPlan]:
    """What ``detectron2_transfer.py`` runs for these arguments.

    Raises:
        UserError: a setting that there is not.
    """
    from virtex.tasks import packaged_protocol

    protocol, deviations = packaged_protocol(args.task, args.protocol), []
    if args.overrides:
        from virtex.detectron.settings import build_settings

        device = "cpu" if args.num_gpus == 0 else "cuda"
        deviations = build_settings(protocol, args.overrides, 1, device).deviations()
    return [DetectionPlan(protocol, deviations)]


@dataclass(frozen=True)
class Expected:
    """What the finished record of a run says, and how it was asked for.

    Attributes:
        overrides: setting -> value the user gives it.
        options: the tool's other arguments, of which the record does not tell all: data, solver, …
    """

    task: str
    protocol: str
    version: str
    seed: int
    overrides: dict[str, Any]
    options: dict[str, Any]


def expected_record(
    task: Task, tools: Path, arguments: Sequence[str], more: Sequence[str]
) -> Expected:
    """The record that the tool would write.

    Args:
        tools: the folder of the tools.
        arguments: of the tool.
        more: what the user adds to them.

    Raises:
        UserError: the user adds what the tool does not know or what is decided here.
    """
    alone, args = (parsed(task, tools, [*arguments, *words]) for words in ((), more))
    for key in (*DECIDED, *task.decided):
        if getattr(alone, key, None) != getattr(args, key, None):
            flag = f"--{key.replace('_', '-')}"
            raise UserError(f"--arguments {task.name}: {flag} is not for there; leave it out")
    plans = task.plans(args)
    plan = plans[0]
    if len(plans) > 1 or plan.protocol.task != task.name:
        raise UserError(
            f"--arguments {task.name} make it another task; run {task.tool} itself for that"
        )
    overrides = {d.key: plain(d.run) for d in plan.deviations if d.reason == OVERRIDE}
    if args.skip_bad_images:
        overrides["skip_bad_images"] = True
    protocol = plan.protocol
    options = {k: v for k, v in vars(args).items() if k not in WITHOUT_EFFECT}
    options["data_root"] = os.path.realpath(args.data_root)
    return Expected(
        task.name, protocol.name, protocol.version, args.seed, overrides, plain(options)
    )


def parsed(task: Task, tools: Path, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments as the tool understands them.

    Raises:
        UserError: it does not.
    """
    path = tools / task.tool
    spec = importlib.util.spec_from_file_location(f"virtex_tool_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it is a Python file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return module.build_parser().parse_intermixed_args(arguments)
    except SystemExit as error:
        if not error.code:
            raise UserError(
                f"--arguments {task.name}: --help is not for there; run {task.tool} --help"
            ) from error
        reason = said.getvalue().strip().rpartition("error: ")[2].partition("\n")[0]
        raise UserError(f"--arguments {task.name}: {reason}") from error


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def write_options(expected: Expected, path: Path) -> None:
    """Keep beside a run's log what its record does not tell.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_json(path, expected.options)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); fix that, or name another "
            "--output-dir"
        ) from error


def other_options(expected: Expected, path: Path) -> str:
    """How a run was asked for otherwise, in words; "" where it was not, or that is not known."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ""
    return differences(found, expected.options)


def whats_other(record: dict[str, Any], expected: Expected, model: dict[str, Any]) -> str:
    """How a record differs from the one expected, in words; "" where it does not.

    Args:
        model: what is known of the checkpoint: entries of the record's ``model``.
    """
    found = {
        "task": record["task"],
        "protocol": record["protocol"]["name"],
        "version of the protocol": record["protocol"]["version"],
        "seed": record["seed"],
        **{f"checkpoint {key}": record["model"].get(key) for key in model},
        **overridden(record["protocol"]["overrides"]),
    }
    wanted = {
        "task": expected.task,
        "protocol": expected.protocol,
        "version of the protocol": expected.version,
        "seed": expected.seed,
        **{f"checkpoint {key}": value for key, value in model.items()},
        **{f"setting {key}": value for key, value in expected.overrides.items()},
    }
    return differences(found, wanted)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {brief(found.get(key))}, not {brief(wanted.get(key))}"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    )


def overridden(deviations: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"setting {d['key']}": d["run"] for d in deviations if d["reason"] == OVERRIDE}
