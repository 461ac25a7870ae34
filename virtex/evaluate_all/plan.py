"""Plan the runs that a command line requests, with the status of each. Writes nothing."""

import argparse
import contextlib
import importlib
import io
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from virtex.data.layouts import require_layout
from virtex.errors import UserError
from virtex.evaluate_all.naming import checkpoint_folders, is_uri, normalize_name
from virtex.evaluate_all.records import comparable, find_record, to_json_types
from virtex.run_folder import RUN_FILE
from virtex.tasks import TASKS, Task
from virtex.text import redact

# Statuses of planned runs
COMPLETE, RESUMABLE, PENDING, INVALID = "complete", "resumable", "pending", "invalid"
UNSUPPORTED = "unsupported"  # the task cannot evaluate the checkpoint
# Statuses of runs that have been started
DONE, FAILED, INTERRUPTED, SUBMITTED = "done", "failed", "interrupted", "submitted"

LOGS = "logs"
# Arguments that evaluate_all sets, and that --arguments must not change
FIXED_OPTIONS = (
    *("checkpoint", "task", "protocol", "data_root", "output_dir", "seed"),
    *("num_gpus", "num_machines", "machine_rank", "dist_url", "resume", "eval_only", "list_cache"),
    *("format", "trust_pickle", "zoo"),
)


class TaskChoice(NamedTuple):
    """A task and one of its protocols."""

    name: str
    protocol: str  # its short name

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def folder(self) -> str:
        """The folder name: the task, followed by the protocol unless it is the default."""
        is_default = self.protocol == next(iter(self.task.protocols))
        return self.name if is_default else f"{self.name}_{self.protocol}"


@dataclass
class Run:
    """One evaluation: a checkpoint on a task with a seed.

    Attributes:
        name: folder of the checkpoint, task and seed, for messages.
        base: arguments of the task's command that evaluate_all sets.
        extra: arguments that ``--arguments`` adds.
        model: expected entries of the record's ``model``, as far as they are known.
        reason: why the run is invalid, unsupported or failed.
        seconds: duration in this invocation.
        record: the record of a complete run.
    """

    name: str
    checkpoint: str
    task: Task
    seed: int
    folder: Path
    log: Path
    base: tuple[str, ...]
    extra: tuple[str, ...]
    status: str = PENDING
    reason: str = ""
    seconds: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] | None = None

    @property
    def command(self) -> tuple[str, ...]:
        module = f"virtex.eval_tools.{self.task.command}"
        return (sys.executable, "-m", module, *self.base, *self.extra)

    @cached_property
    def args(self) -> argparse.Namespace:
        """The arguments, parsed by the task's command.

        Raises:
            UserError: they are invalid, or ``--arguments`` sets a fixed option.
        """
        args = parse(self.task, [*self.base, *self.extra])
        if self.extra:
            base = parse(self.task, self.base)
            for key in (*FIXED_OPTIONS, *self.task.fixed_options):
                if getattr(base, key, None) != getattr(args, key, None):
                    raise invalid_arguments(
                        self.task, f"--{key.replace('_', '-')} is not allowed here; remove it"
                    )
        return args

    @cached_property
    def expected_fields(self) -> dict[str, Any]:
        """The fields that the run's record must have, see ``comparable``."""
        jobs: Sequence[Any] = self.task.jobs(self.args)
        if len(jobs) > 1 or jobs[0].protocol.task != self.task.name:
            raise invalid_arguments(
                self.task, f"they select another task; run {self.task.command} directly"
            )
        protocol, deviations = jobs[0].protocol, jobs[0].deviations
        overrides = {d.key: d.run for d in deviations if d.reason == "override"}
        if self.args.skip_bad_images:
            overrides["skip_bad_images"] = True
        return comparable(self.task.name, protocol.name, protocol.version, overrides, self.seed)

    @property
    def is_runnable(self) -> bool:
        """Whether the run can be started or resumed."""
        return self.status in (PENDING, RESUMABLE)

    @property
    def has_failed(self) -> bool:
        return self.status in (INVALID, FAILED)


def make_plan(args: argparse.Namespace, gpus: int) -> list[Run]:
    """Return all runs, ordered by seed, task and checkpoint.

    In this order, parallel runs use different checkpoints and never extract the same features.

    Args:
        args: parsed arguments of ``eval_tools/evaluate_all.py``.
        gpus: number of GPUs of each run.

    Raises:
        UserError: the command line is invalid. Problems of individual runs are stored in
            ``Run.reason``.
    """
    if args.format != "auto":
        from virtex.checkpoints.formats import get_format

        get_format(args.format)
    if not Path(args.data_root).is_dir():
        raise UserError(
            f"--data-root must be an existing folder, not {args.data_root}; specify the folder "
            "that contains the datasets",
            "data.missing",
        )
    choices = choose_tasks(args.tasks, args.protocol)
    extra = extra_arguments(args.arguments, choices)
    names = list(dict.fromkeys(map(normalize_name, args.checkpoint)))
    folders = checkpoint_folders(names)
    runs = [
        make_run(args, gpus, name, folders[name], choice, seed, extra[choice])
        for seed, choice, name in itertools.product(dict.fromkeys(args.seeds), choices, names)
        if seed in distinct_seeds(choice.task, args.seeds, extra[choice])
    ]
    for run in {run.folder.parent.name: run for run in runs if run.extra}.values():
        run.expected_fields  # noqa: B018 (report invalid --arguments before anything else)
    models = {name: inspect_model(name, args) for name in names}
    for run in runs:
        set_status(run, models[run.checkpoint])
        if not isinstance(models[run.checkpoint], UserError):
            # after the data check, which it overrides: an unsupported run needs no data
            mark_unsupported(run, may_open=not (args.dry_run and is_uri(run.checkpoint)))
    return runs


def evaluable_tasks() -> list[str]:
    """Return the evaluation tasks whose runs write a single record."""
    return [n for n, task in TASKS.items() if task.is_evaluation and task.has_single_record]


def choose_tasks(names: Sequence[str], protocol: str | None) -> list[TaskChoice]:
    """Parse ``TASK[:PROTOCOL] …``, without duplicates.

    Args:
        protocol: for tasks that name none; ``None`` for the default of each.

    Raises:
        UserError: unknown task or protocol.
    """
    choices = []
    for text in names:
        name, _, explicit = text.partition(":")
        if name not in evaluable_tasks():
            raise UserError(
                f"--tasks: unknown task {name!r}; choose from {', '.join(evaluable_tasks())}",
                "arguments.unknown_task",
            )
        task = TASKS[name]
        short = explicit or protocol or next(iter(task.protocols))
        task.protocol(short)  # raises if unknown
        choices.append(TaskChoice(name, short))
    return list(dict.fromkeys(choices))


def make_run(
    args: argparse.Namespace,
    gpus: int,
    checkpoint: str,
    slug: str,
    choice: TaskChoice,
    seed: int,
    extra: tuple[str, ...],
) -> Run:
    task, out = choice.task, Path(args.output_dir)
    folder = out / slug / choice.folder / f"seed_{seed}"
    base = (
        *("--checkpoint", checkpoint, *task.arguments, "--protocol", choice.protocol),
        *("--data-root", args.data_root, "--output-dir", str(folder), "--seed", str(seed)),
        *("--num-gpus", str(gpus), "--resume"),
        *(() if args.format == "auto" else ("--format", args.format)),
        *(("--trust-pickle",) if args.trust_pickle else ()),
        *(word for file in args.zoo for word in ("--zoo", file)),
        *(() if args.num_workers is None else (task.workers_option, str(args.num_workers))),
    )
    log = out / LOGS / f"{slug}_{choice.folder}_seed_{seed}.log"
    name = f"{slug} {choice.folder} seed {seed}"
    return Run(name, checkpoint, task, seed, folder, log, base, extra)


def distinct_seeds(task: Task, seeds: Sequence[int], extra: Sequence[str]) -> list[int]:
    """Return the seeds that give different results; only the first if the seed has no effect."""
    unique = list(dict.fromkeys(seeds))
    return unique if {"", *extra}.intersection(task.seeded_by) else unique[:1]


def extra_arguments(
    pairs: Sequence[Sequence[str]], choices: Sequence[TaskChoice]
) -> dict[TaskChoice, tuple[str, ...]]:
    """Return what ``--arguments TASK[:PROTOCOL] "…"`` adds to each choice, in order.

    Raises:
        UserError: the task is not among the choices, or a quotation mark is not closed.
    """
    extra: dict[TaskChoice, tuple[str, ...]] = dict.fromkeys(choices, ())
    for name, text in pairs:
        named = [c for c in choices if name in (c.name, f"{c.name}:{c.protocol}")]
        if not named:
            chosen = ", ".join(dict.fromkeys(c.name for c in choices))
            raise UserError(
                f"--arguments must name one of --tasks ({chosen}), not {name}",
                "arguments.unknown_task",
            )
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UserError(
                f"--arguments {name} {text}: {error}; close the quote", "arguments.invalid"
            ) from error
        extra |= {choice: extra[choice] + words for choice in named}
    return extra


def parse(task: Task, argv: Sequence[str]) -> argparse.Namespace:
    """Parse arguments with the parser of a task's command.

    Raises:
        UserError: they are invalid.
    """
    parser = importlib.import_module(f"virtex.eval_tools.{task.command}").build_parser()
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return parser.parse_intermixed_args(argv)
    except SystemExit as error:
        if not error.code:
            raise invalid_arguments(task, "--help is not allowed here; remove it") from error
        reason = output.getvalue().strip().rpartition("error: ")[2].partition(" [")[0]
        raise invalid_arguments(task, reason) from error


def invalid_arguments(task: Task, reason: str) -> UserError:
    return UserError(f"--arguments {task.name}: {reason}", "arguments.invalid")


def inspect_model(name: str, args: argparse.Namespace) -> dict[str, Any] | UserError:
    """Return the record's expected ``model`` entries, or why the checkpoint cannot be evaluated.

    A dry run downloads and creates nothing, so that only the name of a URI is known.
    """
    from virtex.checkpoints.loading import inspect_checkpoint
    from virtex.zoo.entries import find_entry

    try:
        if args.dry_run and is_uri(name):
            find_entry(name)  # reports unknown zoo models without a download
            return {"name": redact(name)}
        found = inspect_checkpoint(name, args.format, args.trust_pickle)
    except OSError as error:
        return UserError(
            f"cannot read checkpoint {name} ({error.strerror or error}); specify a file",
            "checkpoint.unreadable",
        )
    except UserError as error:
        return error
    if found.error:
        return UserError(found.problem, found.error.code)
    assert found.input is not None  # a complete checkpoint has one
    return {
        "sha256": found.sha256,
        "format": found.format,
        "input": to_json_types(asdict(found.input)),
    }


def set_status(run: Run, model: dict[str, Any] | UserError) -> None:
    """Set status, reason, model and record from the files on disk."""
    try:
        if isinstance(model, UserError):
            raise model
        run.model = model
        run.record = find_record(run)
        if run.record is not None:
            run.status = COMPLETE
            return
        require_layout(run.args.data_root, run.task.layout, run.task.name)
        run.status = RESUMABLE if (run.folder / RUN_FILE).is_file() else PENDING
    except UserError as error:
        run.status, run.reason = INVALID, f"{error} [{error.code}]"


def mark_unsupported(run: Run, may_open: bool) -> None:
    """Mark a run whose task cannot evaluate its checkpoint.

    Args:
        may_open: whether the checkpoint may be opened.
    """
    if run.task.unsupported_reason is None or run.status == COMPLETE:
        return
    try:
        if reason := run.task.unsupported_reason(run.args, may_open):
            run.status, run.reason = UNSUPPORTED, reason
    except UserError as error:
        if run.is_runnable:
            run.status, run.reason = INVALID, f"{error} [{error.code}]"
