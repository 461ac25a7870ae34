"""Whether a folder holds the finished record that a command line would give."""

import argparse
import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtex.errors import UserError
from virtex.evaluate_all.tasks import Task
from virtex.protocols import Protocol
from virtex.results import Departure
from virtex.training.run_folder import brief

OVERRIDE = "override"
# What this tool decides; ``--arguments`` may not.
DECIDED = (
    *("checkpoint", "task", "protocol", "data_root", "output_dir", "seed"),
    *("num_gpus", "num_machines", "machine_rank", "dist_url", "resume", "eval_only", "list_cache"),
)


@dataclass(frozen=True)
class DetectionPlan:
    """Of ``virtex.evaluation.run.Plan`` what records are compared with."""

    protocol: Protocol
    departures: list[Departure]


def detection_plans(args: argparse.Namespace) -> list[DetectionPlan]:
    """What ``detectron2_transfer.py`` runs for these arguments.

    Raises:
        UserError: a setting that there is not.
    """
    from virtex.detectron.protocols import packaged_protocol

    protocol, departures = packaged_protocol(args.task, args.protocol), []
    if args.overrides:
        from virtex.detectron.settings import build_settings

        device = "cpu" if args.num_gpus == 0 else "cuda"
        departures = build_settings(protocol, args.overrides, 1, device).departures()
    return [DetectionPlan(protocol, departures)]


@dataclass(frozen=True)
class Expected:
    """What the finished record of a run says; ``overrides``: setting -> value the user gives it."""

    task: str
    protocol: str
    version: str
    seed: int
    overrides: dict[str, Any]


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
    for key in DECIDED:
        if getattr(alone, key, None) != getattr(args, key, None):
            flag = f"--{key.replace('_', '-')}"
            raise UserError(f"--arguments {task.name}: {flag} is not for there; leave it out")
    (plan,) = task.plans(args)
    if plan.protocol.task != task.name:
        raise UserError(
            f"--arguments {task.name} make it {plan.protocol.task}, another task; run "
            f"{task.tool} itself for that"
        )
    overrides = {d.key: plain(d.run) for d in plan.departures if d.why == OVERRIDE}
    if args.skip_bad_images:
        overrides["skip bad images"] = True
    protocol = plan.protocol
    return Expected(task.name, protocol.name, protocol.version, args.seed, overrides)


def parsed(task: Task, tools: Path, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments as the tool understands them.

    Raises:
        UserError: it does not.
    """
    path = tools / task.tool
    spec = importlib.util.spec_from_file_location(f"virtex_tool_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return module.build_parser().parse_intermixed_args(arguments)
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2].partition("\n")[0]
        raise UserError(f"--arguments {task.name}: {reason}") from error


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def read_record(path: Path) -> dict[str, Any]:
    """A finished run's record.

    Raises:
        UserError: it is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["metrics"][record["primary_metric"]], record["model"]["sha256"]
        [(d["key"], d["run"], d["why"]) for d in record["protocol"]["departures"]]
        record["task"], record["seed"], record["protocol"]["name"], record["protocol"]["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no readable record ({type(error).__name__}: {error}); move {path.parent} "
            "away, or name another --output-dir"
        ) from error
    return record


def whats_other(record: dict[str, Any], expected: Expected, model: dict[str, str]) -> str:
    """How a record differs from the one expected, in words; "" where it does not.

    Args:
        model: what is known of the checkpoint: its ``sha256``, or its ``name`` alone.
    """
    found = {
        "task": record["task"],
        "protocol": record["protocol"]["name"],
        "version of the protocol": record["protocol"]["version"],
        "seed": record["seed"],
        **{f"checkpoint {key}": record["model"].get(key) for key in model},
        **overridden(record["protocol"]["departures"]),
    }
    wanted = {
        "task": expected.task,
        "protocol": expected.protocol,
        "version of the protocol": expected.version,
        "seed": expected.seed,
        **{f"checkpoint {key}": value for key, value in model.items()},
        **{f"setting {key}": value for key, value in expected.overrides.items()},
    }
    return ", ".join(
        f"{key} {brief(found.get(key))}, not {brief(wanted.get(key))}"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    )


def overridden(departures: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"setting {d['key']}": d["run"] for d in departures if d["why"] == OVERRIDE}
