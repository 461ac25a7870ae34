"""Run evaluation and pretraining jobs, from parsed arguments to the record.

A ``Job`` is one run in one output folder. ``run`` locks the output folders and launches the
processes, which load the checkpoint and pass each job to ``run_job``: prepare, compare with an
earlier run in the folder, start or resume, run, and write the record last. Tasks override only what
differs.
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
from virtex.data.decoding import conversions, count_conversions
from virtex.data.layouts import Layout, require_layout
from virtex.engine.distributed import (
    all_gather_object,
    get_device,
    is_main,
    launch,
    rank,
    synchronize,
    world_size,
)
from virtex.engine.memory import peak_memory
from virtex.engine.progress import METRICS, MetricsWriter, log_to
from virtex.errors import UserError
from virtex.evaluator import Evaluator
from virtex.files import Manifest
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
        ignored_keys: prefixes of identity keys that are not compared with those of that run.
        converted: conversion -> number of images; set by the runner.
        peak_memory: see ``virtex.engine.memory``; set by the runner.
    """

    loggers: tuple[str, ...] = ("virtex",)
    starts_run = True
    ignored_keys: tuple[str, ...] = ()
    converted: Mapping[str, int] = {}
    peak_memory: Mapping[str, Any] = {}

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder

    @abstractmethod
    def prepare(self, backbone: Backbone | None) -> None:
        """Read and check everything that the run depends on. Writes nothing.

        Args:
            backbone: the loaded ``--checkpoint``; ``None`` for a command without that option.

        Raises:
            UserError: the first problem found.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the keys and values that a resumed run must match (JSON types)."""

    def extra_run_info(self) -> dict[str, Any]:
        """Return additional entries of ``run.json``, read by later runs in the folder."""
        return {}

    @abstractmethod
    def is_finished(self) -> bool:
        """Return whether the folder contains this run's record."""

    def print_finished(self) -> None:
        """Print the record of the finished run; called in the main process."""
        logger.info("the run is already finished: %s", self.folder)

    def setup(self) -> None:  # noqa: B027 (optional)
        """Check and build the parts that only an unfinished run needs; load the latest checkpoint.

        Writes nothing.

        Raises:
            UserError: the first problem found.
        """

    @abstractmethod
    def write_inputs(self) -> None:
        """Write the settings and other inputs of the run; called in the main process."""

    def log_start(self) -> None:  # noqa: B027 (optional)
        """Log the settings of the run and its deviations from the protocol."""

    @abstractmethod
    def run(self) -> dict[str, float] | None:
        """Run and return the metrics; ``None`` if there is nothing to record."""

    @abstractmethod
    def write_record(self, metrics: dict[str, float]) -> None:
        """Write the record and print its path; called in the main process."""


def run(args: argparse.Namespace, planner: Planner) -> int:
    """Run the jobs of a command line, in as many processes as it requests.

    Args:
        planner: maps parsed arguments to jobs; a module-level function, so that spawned processes
            can import it.

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
    """Load the checkpoint and run all jobs; the entry point of every process."""
    log_to(logging.getLogger("virtex"))
    backbone = None
    if hasattr(args, "checkpoint"):
        backbone = load_backbone(args.checkpoint, args.format, args.trust_pickle)
    for job in args.planner(args):
        run_job(job, backbone)


def run_job(job: Job, backbone: Backbone | None) -> None:
    """Run one job, from its arguments to its record.

    Raises:
        UserError: invalid input, detected before anything is written where possible.
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
    manifest = Manifest(job.folder, rank())
    job.setup()
    with manifest.record():
        prepare_folder(job)
        job.log_start()
        try:
            metrics = job.run()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU ran out of memory ({str(error).partition('. ')[0]}); reduce the batch "
                "size, free GPU memory, or run with --num-gpus 0",
                "device.out_of_memory",
            ) from error
        job.peak_memory = peak_memory(get_device(args))
        job.converted = count_conversions(all_gather_object(conversions()))
        for kind, count in job.converted.items():
            logger.warning("%d images are %s", count, kind)
        if rank() == 0 and metrics is not None:
            job.write_record(metrics)
    synchronize()


def setup_logging(job: Job, folder: Path | None = None) -> None:
    """Log to the terminal and, with ``folder``, to its ``log.txt``."""
    for name in job.loggers:
        log_to(logging.getLogger(name), folder)


def prepare_folder(job: Job) -> None:
    """Prepare the output folder; the run writes nothing before this.

    Raises:
        UserError: the folder is not writable, or not shared by all machines.
    """
    synchronize()  # other processes may still be reading the folder
    if rank() == 0:
        # before the folder is cleared: the identity may depend on files in it
        identity = job.identity()
        if job.args.overwrite:
            run_folder.clear(job.folder)
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            if job.starts_run:
                run_folder.write_run_file(job.folder, identity, **job.extra_run_info())
            job.write_inputs()
        except OSError as error:
            raise UserError(
                f"--output-dir {job.folder} is not writable ({error.strerror or error}); free disk "
                "space, or choose another folder",
                "run.not_writable",
            ) from error
    synchronize()
    if not job.folder.is_dir():
        raise UserError(
            f"--output-dir must be on a filesystem shared by all machines, but {job.folder} does "
            "not exist on this one; choose a shared folder",
            "run.not_shared",
        )
    setup_logging(job, job.folder)


class Evaluation(Job):
    """The evaluation of a backbone under a protocol, recorded in ``result.json``.

    Attributes:
        protocol: a packaged protocol, or a variant of it.
        settings: the protocol's settings with the user's overrides applied.
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
            layout: files required below ``--data-root``.
            model_identity: returns identity keys for parts of the model outside the backbone.
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
            "data": data_identity(self.data),
        }

    def extra_run_info(self) -> dict[str, Any]:
        return {"deviations": [asdict(d) for d in self.deviations]}

    def is_finished(self) -> bool:
        return (self.folder / RECORD_NAME).is_file()

    def print_finished(self) -> None:
        logger.info("the run is already finished; its result:")
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
            "task %s, protocol %s, checkpoint %s (%s, %s), images: %s, processes: %d",
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
        """Return the entries that this run adds to the record's ``environment``."""
        return {
            "device": get_device(self.args),
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
                f"{self.folder / RECORD_NAME} is not writable ({error.strerror or error}); free "
                "disk space, then rerun with --resume",
                "run.not_writable",
            ) from error
        print_summary(result.record(), self.folder)

    def build_result(self, metrics: dict[str, float]) -> Result:
        report = self.evaluator.report
        return Result(
            task=self.protocol.task,
            protocol={
                "name": self.protocol.name,
                "version": self.protocol.version,
                "preprocessing": {**self.settings.get("DATA", {}), **report.preprocessing},
            },
            deviations=[*self.deviations, *report.late_deviations],
            metrics=metrics,
            primary_metric=self.protocol.primary_metric,
            model=self.backbone.record(),
            seed=self.args.seed,
            timing={name: round(value, 3) for name, value in report.timing.items()},
            data=self.data,
            verification=report.verification,
            setup=self.run_setup() | {"peak_memory": self.peak_memory},
            details=report.details
            | ({"converted_images": self.converted} if self.converted else {}),
            notes=report.notes,
        )


def data_deviations(protocol: Protocol, data: Mapping[str, Any]) -> list[Deviation]:
    """Return a deviation for each dataset whose size differs from the protocol's."""
    return [
        Deviation(f"{name}: images", expected, data[name]["images"], "data")
        for name, expected in protocol.images.items()
        if name in data and data[name]["images"] != expected
    ]


def data_identity(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data descriptions that a resumed run must match.

    File hashes are compared only for the first dataset, the training set. The others are read again
    on resume, so that a corrupt image that stopped the evaluation can be replaced.
    """
    first = next(iter(data))
    return {
        name: {k: v for k, v in described.items() if name == first or k != "files_sha256"}
        for name, described in data.items()
    }


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write the final metrics to metrics.json, unless training has logged its metrics there."""
    path = folder / METRICS
    if path.is_file() and b"\n" in path.read_bytes():  # more than a partial line
        return
    path.unlink(missing_ok=True)
    writer = MetricsWriter(folder, 0)
    writer.write(0, dict(metrics))
    writer.close()


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """Print the metrics of a record and its path."""
    protocol, metrics = record["protocol"], record["metrics"]
    print(f"\n{record['model']['name']}: {record['task']}, protocol {protocol['name']}")
    if all("/" in name for name in metrics):
        groups = list(dict.fromkeys(name.rpartition("/")[0] for name in metrics))
        names = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
        rows = [[group, *(metrics.get(f"{group}/{name}") for name in names)] for group in groups]
        print(tabulate(rows, headers=["", *names], floatfmt=".2f", missingval="-"))
    else:
        print(tabulate(metrics.items(), floatfmt=".2f", missingval="-", tablefmt="plain"))
    for dataset, rows in record.get("details", {}).get("per_class", {}).items():
        print(f"\n{dataset}, per class")
        print(tabulate(rows, headers="keys", floatfmt=".2f", missingval="-", disable_numparse=[0]))
    print(f"deviations from the protocol: {len(protocol['overrides'])}")
    if (folder / run_folder.GALLERY).is_dir():
        print(f"gallery: {folder / run_folder.GALLERY}")
    print(f"record:  {folder / RECORD_NAME}", flush=True)
