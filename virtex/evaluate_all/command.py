"""The command: plan, execute what is missing, write the leaderboard."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from virtex.cli import program_name
from virtex.engine.signals import RESUME
from virtex.errors import UserError
from virtex.evaluate_all import report
from virtex.evaluate_all.execution import run_all
from virtex.evaluate_all.launchers import (
    LocalLauncher,
    SubmititLauncher,
    job_parameters,
    split_gpus,
    visible_gpus,
)
from virtex.evaluate_all.plan import INTERRUPTED, LOGS, PENDING, UNSUPPORTED, Run, make_plan
from virtex.evaluate_all.records import write_options
from virtex.run_folder import acquire_lock, foreign_file, require_folder

LOCK = ".evaluate_all.lock"


def evaluate_all(args: argparse.Namespace) -> int:
    """Plan the runs, execute the open ones, report the outcome and write the leaderboard.

    Args:
        args: of ``eval_tools/evaluate_all.py``.

    Returns:
        The exit status: 0 all complete; 1 some failed; 2 nothing can be run; 130 interrupted by
        Ctrl-C, 75 by SIGTERM.

    Raises:
        UserError: invalid input, before anything is run.
    """
    prog = program_name()
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            f"{prog} starts processes itself; start it without torchrun", "environment.torchrun"
        )
    if args.slurm and args.launcher == "local":
        raise UserError("--slurm requires --launcher slurm", "arguments.conflict")
    out = Path(args.output_dir)
    require_folder(out)
    shares = assign_gpus(args)
    gpus = args.num_gpus if shares is None else len(shares[0])
    parameters = job_parameters(
        args.slurm, gpus, args.num_workers, args.max_parallel if shares is None else None
    )
    launcher: LocalLauncher | SubmititLauncher = LocalLauncher(args.max_parallel or 1)
    if args.launcher != "local" and not args.dry_run:
        launcher = SubmititLauncher(args.launcher, out, parameters)
    runs = make_plan(args, gpus)
    print_single_seed_tasks(runs, args.seeds)
    if args.dry_run:
        parallel = args.max_parallel or "all" if shares is None else len(shares)
        on = f"{gpus} GPU(s) each" if gpus else "on the CPU"
        report.print_plan(runs, f"{parallel} in parallel, {on}")
        return conclude(runs, prog)
    if all(run.has_failed or run.status == UNSUPPORTED for run in runs):
        return conclude(runs, prog)
    with lock_folder(out):
        stopped = 0
        if any(run.is_runnable for run in runs):
            for run in runs:
                if run.status == PENDING:
                    write_options(run)
            stopped = run_all(runs, shares or [None] * len(runs), launcher)
        report.print_summary(runs)
        leaderboard = 0 if stopped else write_leaderboard(runs, out, args.published, prog)
    status = conclude(runs, prog)
    if stopped or (not status and any(run.status == INTERRUPTED for run in runs)):
        print(f"{prog}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130 if stopped == signal.SIGINT else RESUME
    return max(status, leaderboard)


def assign_gpus(args: argparse.Namespace) -> list[tuple[str, ...]] | None:
    """Return the GPUs of each parallel run; ``None`` if a cluster assigns them.

    Raises:
        UserError: they cannot be divided, or the cluster needs ``--num-gpus``.
    """
    if args.launcher != "slurm":
        return split_gpus(visible_gpus(args.num_gpus), args.max_parallel or 1)
    if args.num_gpus is None:
        raise UserError(
            "--launcher slurm requires --num-gpus N, the GPUs of each job (0: CPU)",
            "arguments.missing",
        )
    return None


def print_single_seed_tasks(runs: Sequence[Run], seeds: Sequence[int]) -> None:
    """Name the tasks that run with one of several seeds."""
    used: dict[str, set[int]] = {}
    for run in runs:
        used.setdefault(run.task.name, set()).add(run.seed)
    names = [name for name, found in used.items() if len(found) < len(set(seeds))]
    if names:
        print(f"one seed, as the result does not depend on it: {', '.join(names)}")


@contextlib.contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Create an output folder and keep other processes of this command out of it.

    Raises:
        UserError: another one is using it, or its logs are elsewhere.
    """
    if (out / LOGS).is_symlink():
        raise foreign_file(out / LOGS, "is not a folder")
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(out / LOCK)
    try:
        yield
    finally:
        os.close(lock)


def write_leaderboard(runs: Sequence[Run], out: Path, published: bool, prog: str) -> int:
    """Write the leaderboard if there is a record; return 1 if that fails."""
    try:
        if any(run.record for run in runs):
            report.write_leaderboard(out, published)
    except UserError as error:
        print(f"{prog}: error: no leaderboard: {error} [{error.code}]", file=sys.stderr)
        return 1
    return 0


def conclude(runs: Sequence[Run], prog: str) -> int:
    """Print what failed or is unsupported, and return the exit status."""
    report.print_problems(runs, prog)
    supported = [run for run in runs if run.status != UNSUPPORTED]
    failed = [run for run in supported if run.has_failed]
    if supported and not failed:
        return 0
    return 2 if len(failed) == len(supported) and all(r.seconds is None for r in failed) else 1
