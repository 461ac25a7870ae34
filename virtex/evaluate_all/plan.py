"""Which runs the command line asks for, and how far each is: nothing is run or written here."""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from virtex import run_folder
from virtex.errors import UserError
from virtex.evaluate_all.naming import checkpoint_folders, is_address, normal_name
from virtex.evaluate_all.records import (
    Expected,
    expected_record,
    other_options,
    parsed,
    plain,
    whats_other,
)
from virtex.evaluate_all.tasks import Choice, Task, choose_tasks
from virtex.records import RECORD_NAME, read_record

COMPLETE, TO_RESUME, TO_RUN, CANNOT_RUN = "complete", "to resume", "to run", "cannot run"
NOT_FOR_IT = "not for it"  # a task that a checkpoint of its kind cannot do
DONE, FAILED, INTERRUPTED, NOT_STARTED = "done", "failed", "interrupted", "not started"
ON_CLUSTER = "on the cluster"
LOGS = "logs"


@dataclass(frozen=True)
class Run:
    """One evaluation: a checkpoint on a task with a seed.

    Attributes:
        name: what people are told: folder of the checkpoint, task, seed.
        tools: the folder of the tools.
        arguments: of the tool.
        more: what the user adds to them.
    """

    name: str
    checkpoint: str
    task: Task
    seed: int
    folder: Path
    log: Path
    tools: Path
    arguments: tuple[str, ...]
    more: tuple[str, ...]

    @property
    def options(self) -> Path:
        """How it was asked for, beside its log."""
        return self.log.with_suffix(".json")

    @property
    def command(self) -> tuple[str, ...]:
        tool = str(self.tools / self.task.tool)
        return (sys.executable, tool, *self.arguments, *self.more)

    @cached_property
    def expected(self) -> Expected:
        """The record it should leave. Raises UserError as ``expected_record``."""
        return expected_record(self.task, self.tools, self.arguments, self.more)


@dataclass
class Entry:
    """A run and what has become of it.

    Attributes:
        status: one of the words above.
        reason: why it failed, or is not run.
        seconds: that it took this time.
        model: what is known of the checkpoint, see ``whats_other``.
        record: once it is complete or done.
    """

    run: Run
    status: str = TO_RUN
    reason: str = ""
    seconds: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is to be run."""
        return self.status in (TO_RUN, TO_RESUME)

    @property
    def has_failed(self) -> bool:
        return self.status in (CANNOT_RUN, FAILED)


def make_plan(args: argparse.Namespace, tools: Path, gpus: int) -> list[Entry]:
    """Every run, in an order in which neighbors share nothing: by seed, task and checkpoint.

    Args:
        args: of ``eval_tools/evaluate_all.py``.
        gpus: of each run.

    Raises:
        UserError: the command line cannot be right. What only some runs lack is their reason.
    """
    if args.format != "auto":
        from virtex.checkpoints.formats import get_format

        get_format(args.format)
    if not Path(args.data_root).is_dir():
        raise UserError(f"--data-root {args.data_root} is no folder; name the one with the data")
    choices = choose_tasks(args.tasks, args.protocol)
    more = added_arguments(args.arguments, choices)
    names = list(dict.fromkeys(map(normal_name, args.checkpoint)))
    folders = checkpoint_folders(names)
    runs = [
        make_run(args, tools, gpus, name, folders[name], choice, seed, more[choice])
        for seed, choice, name in itertools.product(dict.fromkeys(args.seeds), choices, names)
        if seed in choice.task.seeds(args.seeds, more[choice])
    ]
    for run in {run.folder.parent.name: run for run in runs if run.more}.values():
        run.expected  # noqa: B018 (a wrong argument is told at once)
    models = {name: look_up(name, args) for name in names}
    lacking = {choice.task: whats_lacking(choice.task, args.data_root) for choice in choices}
    entries = [look_at(run, models[run.checkpoint], lacking[run.task]) for run in runs]
    for entry in entries:
        # before what is lacking is a failure: data that it would not need may well lack
        if entry.is_open or (entry.status == CANNOT_RUN and not is_unknown(entry, models)):
            elsewhere = args.dry_run and is_address(entry.run.checkpoint)
            leave_out_unsuited(entry, at_hand=not elsewhere)
    return entries


def make_run(
    args: argparse.Namespace,
    tools: Path,
    gpus: int,
    checkpoint: str,
    slug: str,
    choice: Choice,
    seed: int,
    more: tuple[str, ...],
) -> Run:
    task, out = choice.task, Path(args.output_dir)
    folder = out / slug / choice.folder / f"seed_{seed}"
    arguments = (
        *("--checkpoint", checkpoint, *task.arguments, "--protocol", choice.protocol),
        *("--data-root", args.data_root, "--output-dir", str(folder), "--seed", str(seed)),
        *("--num-gpus", str(gpus), "--resume"),
        *(() if args.format == "auto" else ("--format", args.format)),
        *(("--trust-pickle",) if args.trust_pickle else ()),
        *(word for file in args.zoo for word in ("--zoo", file)),
        *(() if args.num_workers is None else (task.workers, str(args.num_workers))),
    )
    log = out / LOGS / f"{slug}_{choice.folder}_seed_{seed}.log"
    name = f"{slug} {choice.folder} seed {seed}"
    return Run(name, checkpoint, task, seed, folder, log, tools, arguments, more)


def added_arguments(
    pairs: Sequence[Sequence[str]], choices: Sequence[Choice]
) -> dict[Choice, tuple[str, ...]]:
    """What ``--arguments TASK "…"`` adds to each task, in the order given.

    Raises:
        UserError: no such task is asked for, or a quote is not closed.
    """
    added: dict[Choice, tuple[str, ...]] = dict.fromkeys(choices, ())
    for name, text in pairs:
        named = [c for c in choices if name in (c.task.name, f"{c.task.name}:{c.protocol}")]
        if not named:
            there_are = ", ".join(dict.fromkeys(c.task.name for c in choices))
            raise UserError(f"--arguments {name}: no such task is asked for, only {there_are}")
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UserError(f"--arguments {name} {text}: {error}; close the quote") from error
        added |= {choice: added[choice] + words for choice in named}
    return added


def look_up(name: str, args: argparse.Namespace) -> dict[str, Any] | UserError:
    """What is known of a checkpoint, or why it cannot be evaluated.

    In a dry run nothing is downloaded or made, so that of an address only the name is known.
    """
    from virtex.checkpoints.loading import inspect_checkpoint
    from virtex.zoo.entries import entry_named

    try:
        if args.dry_run and is_address(name):
            entry_named(name)  # a model that the zoo does not have is known without a network
            return {"name": name}
        found = inspect_checkpoint(name, args.format, args.trust_pickle)
    except OSError as error:
        return UserError(f"{name} cannot be read ({error.strerror or error}); give a file")
    except UserError as error:
        return error
    if found.problem:
        return UserError(found.problem)
    assert found.input is not None  # what is without a problem has one
    spec = plain(asdict(found.input))
    return {"sha256": found.sha256, "format": found.format, "input": spec}


def whats_lacking(task: Task, data_root: str) -> UserError | None:
    from virtex.data.layouts import require_layout

    try:
        require_layout(data_root, task.layout)
    except UserError as error:
        return error
    return None


def look_at(run: Run, model: dict[str, Any] | UserError, lacking: UserError | None) -> Entry:
    """How far a run is."""
    if isinstance(model, UserError):
        return Entry(run, CANNOT_RUN, str(model))
    entry = Entry(run, model=model)
    try:
        if has_record(run):
            entry.record = finished_record(run, model)
            entry.status = COMPLETE
            return entry
        if lacking:
            raise lacking
        entry.status = TO_RESUME if is_begun(run, model) else TO_RUN
    except UserError as error:
        entry.status, entry.reason = CANNOT_RUN, str(error)
    return entry


def is_unknown(entry: Entry, models: dict[str, Any]) -> bool:
    """Whether its checkpoint itself cannot be had."""
    return isinstance(models[entry.run.checkpoint], UserError)


def leave_out_unsuited(entry: Entry, at_hand: bool) -> None:
    """Mark a run of a task that the checkpoint is not made for.

    Args:
        at_hand: the checkpoint may be opened.
    """
    run = entry.run
    try:
        args = parsed(run.task, run.tools, [*run.arguments, *run.more])
        if reason := run.task.why_unsuited(args, at_hand):
            entry.status, entry.reason = NOT_FOR_IT, reason
    except UserError as error:
        if entry.is_open:
            entry.status, entry.reason = CANNOT_RUN, str(error)


def has_record(run: Run) -> bool:
    return (run.folder / RECORD_NAME).is_file()


def finished_record(run: Run, model: dict[str, Any]) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        UserError: it is that of another evaluation.
    """
    record = read_record(run.folder / RECORD_NAME)
    other = whats_other(record, run.expected, model) or other_options(run.expected, run.options)
    if other:
        raise UserError(
            f"{run.folder} holds a finished run of another kind ({other}); move it away, or name "
            "another --output-dir"
        )
    return record


def is_begun(run: Run, model: dict[str, Any]) -> bool:
    """Whether there is a run to resume.

    Raises:
        UserError: it is that of another file, or cannot be told.
    """
    found = run_folder.list_run_files(run.folder)
    if not found:
        return False
    remedy = "move it away, or name another --output-dir"
    try:
        identity = (run_folder.read_run_file(run.folder) or {}).get("identity", {})
    except UserError as error:
        raise UserError(f"{run.folder} holds a run that cannot be resumed; {remedy}") from error
    started, now = identity.get("checkpoint", {}).get("sha256"), model.get("sha256")
    if now and started != now:
        raise UserError(
            f"{run.folder} was started with another file of this name (sha256 {started}, now "
            f"{now}); {remedy}"
        )
    return True
