"""Where runs are executed: processes on this machine, or jobs of a Slurm cluster (submitit)."""

import contextlib
import ctypes
import functools
import json
import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import virtex
from virtex.engine.signals import GRACE_SECONDS, RESUME
from virtex.errors import UserError
from virtex.evaluate_all.plan import INTERRUPTED, LOGS, SUBMITTED, Run
from virtex.files import open_append, read_file, replace_file
from virtex.text import redact

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TAIL_BYTES, TAIL_WIDTH = 4096, 160  # of a log, for its last line
LAUNCHERS = {"slurm": "slurm", "submitit-local": "local"}  # name -> submitit's
TIMEOUT_MINUTES, MAX_TIMEOUTS = 24 * 60, 30  # a job that times out is requeued and resumes
WORKERS = 4  # data loading processes per GPU, the default of the commands
SHARED_SECONDS = 30  # until a file that another machine has written is visible
NOTICE_SECONDS = 90  # from SIGTERM to the signal that requeues a preempted job


class Process:
    """A run as a child process with descendants; its output is appended to a log.

    Attributes:
        label: how the run was started.
    """

    label = "started"

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        gpus: Sequence[str] | None,
        threads: int | None = None,
    ):
        """
        Args:
            gpus: the visible ones; ``None``: those of this process.
            threads: ``OMP_NUM_THREADS``, unless the user sets it.
        """
        self.log = log
        package = str(Path(virtex.__file__).parents[1])  # may be a checkout, not installed
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [package, os.environ.get("PYTHONPATH")])
        )
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        log.parent.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        with open_append(log, "ab") as file:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            file.write(f"=== {now}  {redact(shlex.join(command))}\n".encode())
            file.flush()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process only, which stops them
                preexec_fn=functools.partial(init_child, libc, os.getpid()),
            )

    def poll(self) -> int | None:
        """Return the exit status, negative if killed by a signal; ``None`` while it runs."""
        return self.process.poll()

    def progress(self) -> str:
        """Return the last line of the log, or the last state of a progress bar in it."""
        return last_line(self.log)

    def kill(self, number: int) -> None:
        """Send a signal to the process and its descendants."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def last_line(path: Path) -> str:
    """Return the last line of a file, lines ending with carriage returns, too."""
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        lines = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())
    return lines[-1][:TAIL_WIDTH]


def init_child(libc: ctypes.CDLL | None, parent: int) -> None:
    if libc is not None:  # SIGTERM when this process is killed
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
    # Slurm sends it to all processes of a job; the job itself handles it
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def terminate(processes: Sequence[Process]) -> None:
    """Send SIGTERM to the running ones, then SIGKILL."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.kill(signal.SIGTERM)
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(GRACE_SECONDS)
    for process in running:
        process.kill(signal.SIGKILL)  # also what its group still contains
        process.process.wait()


class LocalLauncher:
    """Starts runs as processes of this machine.

    Attributes:
        streams: whether the output of a run also goes to the terminal.
        interrupted: the status of runs that are active when this process is interrupted.
    """

    interrupted = INTERRUPTED

    def __init__(self, max_parallel: int):
        self.streams = max_parallel == 1
        cores = os.cpu_count() or 1
        self.threads = None if self.streams else max(cores // max_parallel, 1)

    def start(self, runs: Sequence[Run], gpus: Sequence[Sequence[str] | None]) -> list[Process]:
        """Start runs, each with its GPUs."""
        return [
            Process(run.command, run.log, each, self.threads)
            for run, each in zip(runs, gpus, strict=True)
        ]

    def stop(self, jobs: Sequence[Any]) -> None:
        """Terminate the active runs of this machine."""
        terminate(jobs)


@dataclass(frozen=True)
class Submission:
    """A run, as submitit pickles and calls it in a job.

    Attributes:
        ended: the file to which its exit status is written.
    """

    command: tuple[str, ...]
    log: Path
    gpus: tuple[str, ...] | None
    ended: Path

    def __call__(self) -> None:
        """Execute the run and write its exit status."""
        process = Process(self.command, self.log, self.gpus)
        try:
            status = process.process.wait()
            if status in (RESUME, -signal.SIGTERM):
                # preemption: all processes get SIGTERM before the job gets its signal
                time.sleep(NOTICE_SECONDS)
            replace_file(self.ended, lambda file: file.write(b"%d" % status))
        finally:  # also when the job is about to be requeued
            terminate([process])

    def checkpoint(self) -> Any:
        """Requeue a preempted or timed out job; submitit calls this. The run resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SubmittedJob:
    """A job of submitit.

    submitit's own results are not read: unpickling them would execute what they contain.
    """

    def __init__(self, job: Any, log: Path, ended: Path, delay: float):
        """
        Args:
            ended: see ``Submission``.
            delay: seconds after which another machine's files are visible on this one.
        """
        self.job, self.log, self.ended, self.delay = job, log, ended, delay
        self.label = f"submitted as job {job.job_id}"
        self.lost = math.inf  # when the job was found to be over without an exit status

    def poll(self) -> int | None:
        """Return the exit status of the run; ``None`` while it runs."""
        is_over = self.job.done()
        if self.ended.exists():
            return int(read_file(self.ended))
        self.lost = min(self.lost, time.monotonic()) if is_over else math.inf
        if time.monotonic() < self.lost + self.delay:
            return None
        errors = self.job.paths.stderr
        reason = last_line(errors) if errors.exists() else f"it is {self.progress()}"
        with open_append(self.log) as file:
            file.write(f"\nerror: job {self.job.job_id} failed: {reason}\n")
        return 1

    def progress(self) -> str:
        return self.job.state.lower()


class SubmititLauncher:
    """Starts runs as jobs of Slurm, or of submitit's executor for this machine.

    Attributes:
        folder: new and private: the jobs unpickle what they find there.
    """

    streams = False

    def __init__(self, launcher: str, out: Path, parameters: dict[str, Any]):
        """
        Args:
            launcher: a key of ``LAUNCHERS``.
            parameters: of submitit's ``AutoExecutor.update_parameters``.

        Raises:
            UserError: submitit or Slurm is missing, or submitit rejects the parameters or the name
                of the output folder.
        """
        missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
        if launcher == "slurm" and missing:
            raise UserError(
                f"--launcher slurm requires {missing[0]}, which was not found; run this on a "
                "login node of the cluster",
                "environment.slurm",
            )
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                f"--launcher {launcher} requires submitit; pip install submitit",
                "environment.missing_package",
            ) from error
        self.is_local = launcher != "slurm"
        self.interrupted = INTERRUPTED if self.is_local else SUBMITTED
        cluster = LAUNCHERS[launcher]
        self.folder = Path(os.path.abspath(out / LOGS / "submitit" / secrets.token_hex(8)))
        if re.search(r"[\x00-\x1f\x7f%\\]", str(self.folder)):
            raise UserError(
                f"--launcher {launcher}: the path of --output-dir must not contain control "
                "characters, % or \\, which job scripts interpret, but is "
                f"{self.folder.parents[2]}; choose another",
                "arguments.slurm",
            )
        self.executor = submitit.AutoExecutor(
            self.folder, cluster=cluster, **{f"{cluster}_max_num_timeout": MAX_TIMEOUTS}
        )
        try:
            self.executor.update_parameters(**parameters)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--slurm: submitit rejects the parameters ({reason}); parameters that only Slurm "
                "has are named slurm_NAME",
                "arguments.slurm",
            ) from error

    def start(
        self, runs: Sequence[Run], gpus: Sequence[Sequence[str] | None]
    ) -> list[SubmittedJob]:
        """Submit runs together (on Slurm: as an array).

        Raises:
            UserError: the cluster rejects them.
        """
        from submitit.core.utils import FailedJobError

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        ended = [self.folder / f"{run.log.stem}.status" for run in runs]
        try:
            with self.executor.batch():
                jobs = [
                    self.executor.submit(
                        Submission(
                            run.command, run.log, None if each is None else tuple(each), path
                        )
                    )
                    for run, each, path in zip(runs, gpus, ended, strict=True)
                ]
        except FailedJobError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"sbatch rejects the jobs ({reason}); check --slurm", "environment.slurm"
            ) from error
        delay = 0 if self.is_local else SHARED_SECONDS
        return [
            SubmittedJob(job, run.log, path, delay)
            for job, run, path in zip(jobs, runs, ended, strict=True)
        ]

    def stop(self, jobs: Sequence[Any]) -> None:
        """Terminate the active jobs of this machine; those of a cluster continue."""
        if self.is_local:
            for each in jobs:
                each.job.cancel()
            for each in jobs:
                each.job.wait()
        elif jobs:
            names = " ".join(each.job.job_id for each in jobs)
            print(
                f"the jobs continue on the cluster (cancel them with: scancel {names}); run the "
                "same command again to collect their results"
            )


def job_parameters(
    options: Sequence[str], gpus: int, num_workers: int | None, max_parallel: int | None
) -> dict[str, Any]:
    """Return submitit's parameters: defaults that fit a run, replaced by ``KEY=VALUE …``.

    Args:
        gpus: of each job.
        max_parallel: the number of jobs that run at the same time; ``None``: no limit.

    Raises:
        UserError: an option is not KEY=VALUE.
    """
    workers = WORKERS if num_workers is None else num_workers
    parameters: dict[str, Any] = {
        "name": "virtex",
        "timeout_min": TIMEOUT_MINUTES,
        "cpus_per_task": max(gpus, 1) * (1 + workers),
    }
    if gpus:
        parameters["gpus_per_node"] = gpus
    if max_parallel is not None:
        parameters["slurm_array_parallelism"] = max_parallel
    for text in options:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(
                f"--slurm {text}: expected KEY=VALUE, as in slurm_partition=gpu", "arguments.slurm"
            )
        try:  # integers, lists and objects in JSON; anything else is a string
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    return parameters


def visible_gpus(number: int | None) -> list[str]:
    """Return the first ``number`` GPUs (``None``: all) as ``CUDA_VISIBLE_DEVICES`` names them.

    Raises:
        UserError: there are fewer.
    """
    if number == 0:
        return []
    import torch

    available = torch.cuda.device_count()
    if number is not None and number > available:
        raise UserError(
            f"--num-gpus {number}, but this machine has {available}; use --num-gpus 0 for the CPU",
            "device.too_few_gpus",
        )
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = own.split(",") if own else [str(index) for index in range(available)]
    return [name.strip() for name in names[: available if number is None else number]]


def split_gpus(gpus: Sequence[str], max_parallel: int) -> list[tuple[str, ...]]:
    """Return the GPUs of each of ``max_parallel`` runs: equally many, none on the CPU.

    Raises:
        UserError: the GPUs cannot be divided evenly.
    """
    if len(gpus) % max_parallel:
        raise UserError(
            f"--max-parallel {max_parallel} does not divide {len(gpus)} GPUs; use a divisor, or "
            "another --num-gpus",
            "arguments.max_parallel",
        )
    each = len(gpus) // max_parallel
    return [tuple(gpus[place * each : (place + 1) * each]) for place in range(max_parallel)]
