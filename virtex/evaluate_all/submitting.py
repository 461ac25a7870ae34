"""Runs as jobs of a Slurm cluster, through submitit; or of its executor for this machine."""

import importlib.util
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from virtex.engine.signals import RESUME
from virtex.errors import UserError
from virtex.evaluate_all.plan import INTERRUPTED, LOGS, ON_CLUSTER, Run
from virtex.evaluate_all.running import Process, end_processes

LAUNCHERS = {"slurm": "slurm", "submitit-local": "local"}  # ours -> submitit's
TIMEOUT_MINUTES = 24 * 60  # then a job is requeued and resumes
TIMEOUTS = 30
WORKERS = 4  # that load images, for each GPU; the tools' own default
NEWS_SECONDS = 60
NOTICE_SECONDS = 90  # between the signals of a cluster that takes a machine back


@dataclass(frozen=True)
class Submission:
    """A run as a job calls it, wherever that is.

    Attributes:
        gpus: all that it may see; None: those that the cluster gives it.
    """

    run: Run
    gpus: tuple[str, ...] | None

    def __call__(self) -> int:
        """Run the tool. Returns its exit status.

        Raises:
            UserError: an earlier job still does this run.
        """
        self.run.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{self.run.log}.lock", blocking=False):
                process = Process(self.run.command, self.run.log, self.gpus)
                try:
                    status = process.process.wait()
                    if status in (
                        RESUME,
                        -signal.SIGTERM,
                    ):  # told to all before the job is told to leave
                        time.sleep(NOTICE_SECONDS)
                    return status
                finally:  # also where the job is told to leave, to be requeued
                    end_processes([process])
        except Timeout as error:
            raise UserError("an earlier job still does this run; wait for it") from error

    def checkpoint(self) -> Any:
        """The same again where the job is preempted or out of time; the tool resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Submitted:
    """A job."""

    def __init__(self, job: Any, run: Run):
        self.job, self.run = job, run
        self.how = f"submitted as job {job.job_id}"

    def poll(self) -> int | None:
        """See ``virtex.evaluate_all.running.Job``."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not self.job.done():
            return None
        try:
            return self.job.result()
        except (FailedJobError, UncompletedJobError) as error:
            last = ([line for line in str(error).splitlines() if line.strip()] or [""])[-1]
            with open(self.run.log, "a") as file:
                file.write(f"\nerror: job {self.job.job_id} did not end in order: {last}\n")
            return 1


class Submitit:
    """Starts runs as jobs."""

    streams = False

    def __init__(self, launcher: str, out: Path, parameters: dict[str, Any]):
        """
        Args:
            launcher: a key of ``LAUNCHERS``.
            parameters: of submitit's ``AutoExecutor.update_parameters``.

        Raises:
            UserError: submitit has no such parameter.
        """
        import submitit

        self.is_local = launcher != "slurm"
        self.left = INTERRUPTED if self.is_local else ON_CLUSTER
        cluster = LAUNCHERS[launcher]
        self.executor = submitit.AutoExecutor(
            out / LOGS / "submitit", cluster=cluster, **{f"{cluster}_max_num_timeout": TIMEOUTS}
        )
        try:
            self.executor.update_parameters(**parameters)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--slurm: submitit does not take that ({reason}); what only Slurm has is written "
                "slurm_NAME"
            ) from error
        self.said, self.said_at = "", time.monotonic()

    def start(self, started: Sequence[tuple[Run, Sequence[str] | None]]) -> list[Submitted]:
        """Submit them together (on Slurm: as an array).

        Raises:
            UserError: the cluster does not take them.
        """
        from submitit.core.utils import FailedJobError

        jobs = []
        try:
            with self.executor.batch():
                for run, gpus in started:
                    submission = Submission(run, None if gpus is None else tuple(gpus))
                    jobs.append(self.executor.submit(submission))
        except FailedJobError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"sbatch does not take the jobs ({reason}); see --slurm") from error
        return [Submitted(job, run) for job, (run, _) in zip(jobs, started, strict=True)]

    def news(self, jobs: Sequence[Submitted]) -> str:
        """How many jobs are in which state, where that has changed."""
        if self.is_local or not jobs or time.monotonic() - self.said_at < NEWS_SECONDS:
            return ""
        self.said_at = time.monotonic()
        states = Counter(each.job.state.lower() for each in jobs)
        before, self.said = self.said, ", ".join(f"{n} {state}" for state, n in states.items())
        return "" if self.said == before else f"jobs: {self.said}"

    def end(self, jobs: Sequence[Submitted]) -> None:
        """End this machine's jobs; those of a cluster go on without this process."""
        if self.is_local:
            for each in jobs:
                each.job.cancel()
            for each in jobs:
                each.job.wait()
        elif jobs:
            names = " ".join(each.job.job_id for each in jobs)
            print(
                f"the jobs stay on the cluster (end them by: scancel {names}); when they are "
                "through, the same command gathers their results"
            )


def require(launcher: str) -> None:
    """Raise UserError where submitit, or Slurm, is missing."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError(f"--launcher {launcher} needs submitit: pip install submitit")
    missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
    if launcher == "slurm" and missing:
        raise UserError(
            f"--launcher slurm: there is no {missing[0]} on this machine; start it on a login node "
            "of the cluster, or leave --launcher out"
        )


def job_parameters(
    asked: Sequence[str], gpus: int, num_workers: int | None, at_once: int | None
) -> dict[str, Any]:
    """What each job asks for: ``KEY=VALUE …``, and where that does not say it, what a run needs.

    Args:
        gpus: of each job.
        at_once: how many may run at the same time; None: as many as the cluster allows.

    Raises:
        UserError: it is not KEY=VALUE.
    """
    workers = WORKERS if num_workers is None else num_workers
    parameters: dict[str, Any] = {
        "name": "virtex",
        "timeout_min": TIMEOUT_MINUTES,
        "cpus_per_task": max(gpus, 1) * (1 + workers),
    }
    if gpus:
        parameters["gpus_per_node"] = gpus
    if at_once is not None:
        parameters["slurm_array_parallelizm"] = at_once
    for text in asked:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"--slurm {text}: give KEY=VALUE, as slurm_partition=gpu")
        parameters[key] = read_value(value)
    return parameters


def read_value(text: str) -> Any:
    """A whole number, a list or object in JSON, or the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | list | dict) else text
