"""The command: plan, run what is missing, gather the results."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from virtex.engine.signals import RESUME
from virtex.errors import UserError
from virtex.evaluate_all.gpus import share_out, visible_gpus
from virtex.evaluate_all.plan import INTERRUPTED, LOGS, NOT_FOR_IT, TO_RUN, Entry, make_plan
from virtex.evaluate_all.records import write_options
from virtex.evaluate_all.report import (
    print_failures,
    print_plan,
    print_summary,
    print_unsuited,
    write_leaderboard,
)
from virtex.evaluate_all.running import Here, Launcher, run_all
from virtex.evaluate_all.submitting import Submitit, job_parameters, require

LOCK = ".evaluate_all.lock"
Shares = list[tuple[str, ...]]


def evaluate_all(args: argparse.Namespace, tools: Path, prog: str) -> int:
    """Plan the runs, run what is open, tell what became of them and write the leaderboard.

    Args:
        args: of ``eval_tools/evaluate_all.py``.
        tools: the folder of the tools.
        prog: the command's name, for what is said on stderr.

    Returns:
        the exit status: 0 all complete; 1 some failed; 2 none can be run; 130 interrupted by
        Ctrl-C; 75 by SIGTERM, as a run alone may be.

    Raises:
        UserError: something the user must fix before anything can run.
    """
    if "LOCAL_RANK" in os.environ:
        raise UserError(f"{prog} starts the processes itself; start it without torchrun")
    if args.slurm and args.launcher == "here":
        raise UserError("--slurm belongs to --launcher slurm")
    out = Path(args.output_dir)
    if out.exists() and not out.is_dir():
        raise UserError(f"--output-dir {out} is a file; name a folder")
    if args.launcher != "here" and not args.dry_run:
        require(args.launcher)
    shares = shares_of(args)
    gpus = args.num_gpus if shares is None else len(shares[0])
    parameters = job_parameters(args.slurm, gpus, args.num_workers, jobs_at_once(args))
    entries = make_plan(args, tools, gpus)
    say_once(args, entries)
    if args.dry_run:
        print_plan(entries, in_words(shares, args.at_once, gpus))
        return conclude(entries, prog)
    if all(entry.has_failed or entry.status == NOT_FOR_IT for entry in entries):
        return conclude(entries, prog)
    with held(out):
        stopped = 0
        if any(entry.is_open for entry in entries):
            launcher = launcher_of(args, out, parameters)
            each = [None] * len(entries) if shares is None else list(shares)
            for entry in entries:
                if entry.status == TO_RUN:
                    write_options(entry.run.expected, entry.run.options)
            stopped = run_all(entries, each, launcher)
        print_summary(entries)
        gathered = 0 if stopped else gather(entries, out, args.published, prog)
    status = conclude(entries, prog)
    if stopped or (not status and any(entry.status == INTERRUPTED for entry in entries)):
        print(f"{prog}: interrupted; the same command goes on", file=sys.stderr)
        return 130 if stopped == signal.SIGINT else RESUME
    return max(status, gathered)


def shares_of(args: argparse.Namespace) -> Shares | None:
    """The GPUs of each run at the same time; None where a cluster shares them out.

    Raises:
        UserError: they cannot be shared out so.
    """
    if args.launcher != "slurm":
        return share_out(visible_gpus(args.num_gpus), args.at_once or 1)
    if args.num_gpus is None:
        raise UserError("--launcher slurm needs --num-gpus N, the GPUs of each job (0: CPU)")
    return None


def jobs_at_once(args: argparse.Namespace) -> int | None:
    """How many jobs the cluster is to run at the same time; None: as many as it allows."""
    return args.at_once if args.launcher == "slurm" else None


def launcher_of(args: argparse.Namespace, out: Path, parameters: dict[str, Any]) -> Launcher[Any]:
    if args.launcher == "here":
        return Here(args.at_once or 1)
    return Submitit(args.launcher, out, parameters)


def say_once(args: argparse.Namespace, entries: Sequence[Entry]) -> None:
    """Name the tasks that are run with one seed of several."""
    wanted = len(set(args.seeds))
    seeds: dict[str, set[int]] = {}
    for entry in entries:
        seeds.setdefault(entry.run.task.name, set()).add(entry.run.seed)
    once = [name for name, found in seeds.items() if len(found) < wanted]
    if once:
        print(f"run with one seed, on which the result does not depend: {', '.join(once)}")


def in_words(shares: Shares | None, at_once: int | None, gpus: int) -> str:
    """How the runs would be run."""
    on = f"{gpus} GPU(s) each" if gpus else "on the CPU"
    number = at_once if shares is None else len(shares)
    return f"{number or 'all'} at once, {on}"


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other evaluations out of an output folder, which is made.

    Raises:
        UserError: another one is at work in it, or it cannot be written.
    """
    lock = FileLock(out / LOCK, blocking=False)
    try:
        (out / LOGS).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another evaluate_all.py is at work in {out}; wait for it, or name another "
            "--output-dir"
        ) from error
    except OSError as error:
        raise UserError(
            f"--output-dir {out} cannot be written ({error.strerror or error}); name another"
        ) from error
    try:
        yield
    finally:
        lock.release()


def gather(entries: Sequence[Entry], out: Path, published: bool, prog: str) -> int:
    """Write the leaderboard, if there is a record. Returns 1 if that cannot be."""
    try:
        if any(entry.record for entry in entries):
            write_leaderboard(out, published)
    except UserError as error:
        print(f"{prog}: error: no leaderboard: {error}", file=sys.stderr)
        return 1
    return 0


def conclude(entries: Sequence[Entry], prog: str) -> int:
    """Say what failed, and what was left out. Returns the exit status."""
    print_unsuited(entries)
    print_failures(entries, prog)
    suited = [entry for entry in entries if entry.status != NOT_FOR_IT]
    failed = [entry for entry in suited if entry.has_failed]
    if suited and not failed:
        return 0
    return 2 if len(failed) == len(suited) and all(e.seconds is None for e in failed) else 1
