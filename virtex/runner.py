"""Run every evaluation and pretraining, from parsed arguments to the record.

A ``Job`` is one run in one output folder. ``run`` claims the folders, starts the processes, loads
the checkpoint and passes each job to ``run_job``: prepare, compare with the content of the folder,
resume or start, run, write the record last. A task implements only the differences.
"""

import argparse
import contextlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from tabulate import tabulate

from virtex import run_folder
from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.loading import load_backbone
from virtex.config import save_config
from virtex.data.layouts import Layout, require_layout
from virtex.engine.distributed import device_of, is_main, launch, rank, synchronize, world_size
from virtex.engine.progress import METRICS, MetricsWriter, log_to
from virtex.errors import UserError
from virtex.evaluator import Evaluator
from virtex.protocols import Protocol
from virtex.records import RECORD_NAME, Deviation, Result, environment, read_record

logger = logging.getLogger("virtex.runner")

CONFIG_NAME = "config.yaml"

Planner = Callable[[argparse.Namespace], Sequence["Job"]]


class Job(ABC):
    """One run in one output folder.

    The runner calls ``prepare``, ``identity``, ``is_finished``, ``setup``, ``write_inputs``,
    ``run`` and ``write_record`` in this order, in every process unless stated otherwise.

    Attributes:
        args: the parsed arguments of the command.
        folder: the output folder.
        loggers: names of the loggers that write to the terminal and to ``log.txt``.
        starts_run: False for a job that evaluates the run in the folder without modifying it.
        ignored_keys: prefixes of identity keys that need not agree with those of that run.
    """

    loggers: tuple[str, ...] = ("virtex",)
    starts_run = True
    ignored_keys: tuple[str, ...] = ()

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder

    @abstractmethod
    def prepare(self, backbone: Backbone | None) -> None:
        """Read and check everything that the run depends on. Writes nothing.

        Args:
            backbone: the loaded ``--checkpoint``; ``None`` for a command without that option.

        Raises:
            UserError: the first problem.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the keys and values that a resumed run must match (JSON types)."""

    def run_file_extra(self) -> dict[str, Any]:
        """Return additional content of ``run.json``, for later runs in the folder."""
        return {}

    @abstractmethod
    def is_finished(self) -> bool:
        """Return whether the folder contains this run's record."""

    def print_finished(self) -> None:
        """Print the record of the finished run; called in the main process."""
        logger.info("this run is finished: %s", self.folder)

    def setup(self) -> None:  # noqa: B027 (optional)
        """Check and build the parts that only an unfinished run needs; load the newest checkpoint.

        Writes nothing.

        Raises:
            UserError: the first problem.
        """

    @abstractmethod
    def write_inputs(self) -> None:
        """Write the settings and other inputs of the run; called in the main process."""

    def log_start(self) -> None:  # noqa: B027 (optional)
        """Log the run and its deviations from the protocol."""

    @abstractmethod
    def run(self) -> dict[str, float] | None:
        """Run and return the metrics; ``None`` if there is nothing to record."""

    @abstractmethod
    def write_record(self, metrics: dict[str, float]) -> None:
        """Write the record and print its path; called in the main process."""


def run(args: argparse.Namespace, planner: Planner) -> int:
    """Run the jobs of a command line, in as many processes as it requests.

    Args:
        planner: parsed arguments -> jobs; a module-level function, as further processes import it.

    Returns:
        The exit status.

    Raises:
        UserError: invalid input.
    """
    inputs, main = run_folder.list_inputs(args), is_main(args)
    resume = args.resume or getattr(args, "eval_only", False)
    with contextlib.ExitStack() as folders:
        for job in planner(args):
            folders.enter_context(
                run_folder.claim_folder(job.folder, resume, args.overwrite, inputs, main)
            )
        args.planner = planner
        return launch(run_jobs, args)


def run_jobs(args: argparse.Namespace) -> None:
    """Run all jobs in one process of the job."""
    log_to(logging.getLogger("virtex"))
    backbone = None
    if hasattr(args, "checkpoint"):
        backbone = load_backbone(args.checkpoint, args.format, args.trust_pickle)
    for job in args.planner(args):
        run_job(job, backbone)


def run_job(job: Job, backbone: Backbone | None) -> None:
    """Take one job from its arguments to its record.

    Raises:
        UserError: invalid input; if it can be detected early, nothing has been written.
    """
    args = job.args
    setup_logging(job)
    job.prepare(backbone)
    if not args.overwrite:
        run_folder.check_same_run(job.folder, job.identity(), job.ignored_keys)
    if args.resume and job.is_finished():
        if rank() == 0:
            job.print_finished()
        return
    job.setup()
    open_folder(job)
    job.log_start()
    try:
        metrics = job.run()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU ran out of memory ({str(error).partition('. ')[0]}); reduce the batch size, "
            "free GPU memory, or run with --num-gpus 0",
            "device.out_of_memory",
        ) from error
    if rank() == 0 and metrics is not None:
        job.write_record(metrics)
    synchronize()


def setup_logging(job: Job, folder: Path | None = None) -> None:
    """Log to the terminal and, with ``folder``, to its ``log.txt``."""
    for name in job.loggers:
        log_to(logging.getLogger(name), folder)


def open_folder(job: Job) -> None:
    """Prepare the output folder: the first write of the run.

    Raises:
        UserError: it cannot be written.
    """
    synchronize()  # other processes may still be reading what the folder contains
    if rank() == 0:
        # before the folder is cleared: the identity may depend on files in it
        identity = job.identity()
        if job.args.overwrite:
            run_folder.clear(job.folder)
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            if job.starts_run:
                run_folder.write_run_file(job.folder, identity, **job.run_file_extra())
            job.write_inputs()
        except OSError as error:
            raise UserError(
                f"--output-dir {job.folder} cannot be written ({error.strerror or error}); free "
                "some space, or give another folder",
                "run.not_writable",
            ) from error
    synchronize()
    if not job.folder.is_dir():
        raise UserError(
            f"--output-dir {job.folder} must be on a filesystem that all machines share",
            "run.not_shared",
        )
    setup_logging(job, job.folder)


class Evaluation(Job):
    """The evaluation of a backbone under a protocol, recorded in ``result.json``.

    Attributes:
        protocol: the packaged one, or a renamed variant of it.
        settings: the protocol's, with the user's overrides.
        deviations: where the run differs from the protocol; complete after ``prepare``.
        options: additional identity keys, besides protocol, checkpoint, seed and data.
        evaluator, backbone, data: set by ``prepare``.
    """

    evaluator: Evaluator
    backbone: Backbone

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path,
        protocol: Protocol,
        settings: CfgNode,
        deviations: Sequence[Deviation],
        build_evaluator: Callable[["Evaluation"], Evaluator],
        layout: Layout | None = None,
        options: Mapping[str, Any] | None = None,
        model_identity: Callable[[Backbone], dict[str, Any]] | None = None,
    ):
        """
        Args:
            build_evaluator: reads and checks the data of this job; writes nothing.
            layout: files that must be below ``--data-root``.
            model_identity: identity keys of the parts of the model other than the backbone.
        """
        super().__init__(args, folder)
        self.protocol, self.settings = protocol, settings
        self.deviations = list(deviations)
        self.build_evaluator, self.layout = build_evaluator, layout
        self.options = dict(options or {})
        self.model_identity = model_identity
        self.data: dict[str, Any] = {}

    def prepare(self, backbone: Backbone | None) -> None:
        assert backbone is not None  # every evaluation has --checkpoint
        self.backbone = backbone
        if self.layout is not None:
            require_layout(self.args.data_root, self.layout, self.protocol.task)
        self.evaluator = self.build_evaluator(self)
        self.data = {name: images.describe() for name, images in self.evaluator.images.items()}
        self.deviations += data_deviations(self.protocol, self.data)
        self.deviations += self.evaluator.report.deviations
        if getattr(self.args, "skip_bad_images", False):
            self.deviations.append(Deviation("skip_bad_images", False, True, "override"))
        if self.model_identity is not None:
            self.options |= self.model_identity(backbone)

    def identity(self) -> dict[str, Any]:
        source = self.backbone.source
        return {
            "checkpoint": {"sha256": source.sha256, "format": source.format},
            "input": asdict(self.backbone.input),
            "arch": asdict(self.backbone.arch),
            "task": self.protocol.task,
            "protocol": {"name": self.protocol.name, "version": self.protocol.version},
            "overrides": {d.key: d.run for d in self.deviations},
            "seed": self.args.seed,
            "options": self.options,
            "data": comparable_data(self.data),
        }

    def run_file_extra(self) -> dict[str, Any]:
        return {"deviations": [asdict(d) for d in self.deviations]}

    def is_finished(self) -> bool:
        return (self.folder / RECORD_NAME).is_file()

    def print_finished(self) -> None:
        logger.info("this run is finished; its record:")
        print_summary(read_record(self.folder / RECORD_NAME), self.folder)

    def setup(self) -> None:
        self.evaluator.check(self.backbone)

    def write_inputs(self) -> None:
        save_config(self.settings, self.folder / CONFIG_NAME)

    def log_start(self) -> None:
        source = self.backbone.source
        logger.info("environment: %s", json.dumps({**environment(), **self.run_setup()}, indent=1))
        logger.info("backbone: %s", json.dumps(self.backbone.record(), indent=1))
        logger.info(
            "%s, protocol %s: %s (%s, %s), images: %s, %d process(es)",
            self.protocol.task,
            self.protocol.name,
            source.requested,
            self.backbone.arch.name,
            source.format,
            ", ".join(f"{name} {found['images']}" for name, found in self.data.items()),
            world_size(),
        )
        if self.deviations:
            rows = [(d.key, d.protocol, d.run, d.reason) for d in self.deviations]
            header = ["setting", "protocol", "this run", "reason"]
            table = tabulate(rows, headers=header, disable_numparse=True)
            logger.warning("This run deviates from its protocol:\n%s", table)

    def run(self) -> dict[str, float] | None:
        metrics = self.evaluator(self.backbone)
        for note in self.evaluator.report.notes:
            logger.warning("%s", note)
        return metrics

    def run_setup(self) -> dict[str, Any]:
        """Return this run's entries of the record's ``environment``."""
        return {
            "device": device_of(self.args),
            "processes": world_size(),
            **self.evaluator.report.setup,
        }

    def write_record(self, metrics: dict[str, float]) -> None:
        result = self.build_result(metrics)
        write_metrics(self.folder, metrics)
        try:
            result.write(self.folder)
        except OSError as error:
            raise UserError(
                f"{self.folder / RECORD_NAME} cannot be written ({error.strerror or error}); free "
                "some space, then continue with --resume",
                "run.not_writable",
            ) from error
        print_summary(result.record(), self.folder)

    def build_result(self, metrics: dict[str, float]) -> Result:
        report = self.evaluator.report
        return Result(
            task=self.protocol.task,
            protocol={"name": self.protocol.name, "version": self.protocol.version},
            deviations=[*self.deviations, *report.late_deviations],
            metrics=metrics,
            primary_metric=self.protocol.primary_metric,
            model=self.backbone.record(),
            seed=self.args.seed,
            timing={name: round(value, 3) for name, value in report.timing.items()},
            data=self.data,
            verification=report.verification,
            setup=self.run_setup(),
            details=report.details,
            notes=report.notes,
        )


def data_deviations(protocol: Protocol, data: Mapping[str, Any]) -> list[Deviation]:
    """Return a deviation for each data set whose size is not the protocol's."""
    return [
        Deviation(f"{name}: images", expected, data[name]["images"], "data")
        for name, expected in protocol.images.items()
        if name in data and data[name]["images"] != expected
    ]


def comparable_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data descriptions that a resumed run must match.

    The files of all but the first data set, the training set, may change, since they are read
    again: a corrupt image that stopped the evaluation may have been restored.
    """
    first = next(iter(data))
    return {
        name: {k: v for k, v in described.items() if name == first or k != "files_sha256"}
        for name, described in data.items()
    }


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write the final metrics to metrics.json, unless training has written its curves there."""
    path = folder / METRICS
    if path.is_file() and b"\n" in path.read_bytes():  # not a partial line
        return
    path.unlink(missing_ok=True)
    writer = MetricsWriter(folder, 0)
    writer.numbers(0, dict(metrics))
    writer.close()


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """Print the metrics of a record and its path."""
    protocol, metrics = record["protocol"], record["metrics"]
    print(f"\n{record['model']['name']}: {record['task']}, protocol {protocol['name']}")
    if all("/" in name for name in metrics):
        kinds = sorted({name.rpartition("/")[0] for name in metrics})
        names = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
        rows = [[kind, *(metrics.get(f"{kind}/{name}") for name in names)] for kind in kinds]
        print(tabulate(rows, headers=["", *names], floatfmt=".2f", missingval="-"))
    else:
        print(tabulate(metrics.items(), floatfmt=".2f", missingval="-", tablefmt="plain"))
    print(f"deviations from the protocol: {len(protocol['overrides'])}")
    if (folder / run_folder.GALLERY).is_dir():
        print(f"gallery: {folder / run_folder.GALLERY}")
    print(f"record:  {folder / RECORD_NAME}", flush=True)
