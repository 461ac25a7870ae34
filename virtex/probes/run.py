"""One evaluation from the command line to its record; the same for every probe.

A task plans its evaluations; each is checked whole before a file is written, runs in its own
folder, and is recorded once it is finished.
"""

import argparse
import contextlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from tabulate import tabulate

from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.loading import load_backbone
from virtex.config import save_config
from virtex.engine import run_folder
from virtex.engine.distributed import device_of, is_main, launch, rank, synchronize, world_size
from virtex.engine.progress import METRICS, MetricsWriter, log_to
from virtex.errors import UserError
from virtex.probes.feature_cache import GB, FeatureCache
from virtex.probes.features import Extraction
from virtex.probes.report import Evaluator
from virtex.protocols import Protocol
from virtex.records import RECORD_NAME, Deviation, Result, read_record

logger = logging.getLogger("virtex.probes")

SETTINGS = "config.yaml"


@dataclass(frozen=True)
class Plan:
    """One evaluation that the command line asks for.

    Attributes:
        settings: the protocol's, with the user's overrides.
        deviations: where they differ.
        folder: of its record.
        evaluator: makes it, which reads and checks the data; writes nothing.
        identity: what a resumed run must agree on beside protocol, checkpoint, seed and data.
        model_identity: the same of what belongs to the backbone's whole model.
    """

    protocol: Protocol
    settings: CfgNode
    deviations: list[Deviation]
    folder: Path
    evaluator: Callable[[], Evaluator]
    identity: dict[str, Any] = field(default_factory=dict)
    model_identity: Callable[[Backbone], dict[str, Any]] = lambda backbone: {}


Planner = Callable[[argparse.Namespace], list[Plan]]


def run_or_list(args: argparse.Namespace, planner: Planner) -> int:
    """A tool's main: run what the command line asks for, or list the cache of features.

    Raises:
        UserError: something the user must fix.
    """
    if args.list_cache:
        print(feature_cache_of(args).table())
        return 0
    if not args.checkpoint:
        raise UserError(
            "--checkpoint is missing; give a file, virtex://NAME, torchvision://NAME, …"
        )
    return run(args, planner)


def run(args: argparse.Namespace, planner: Planner) -> int:
    """Run what the command line asks for, in as many processes as it asks for.

    Args:
        planner: importable by its name, for other processes.

    Returns:
        the exit status.

    Raises:
        UserError: something the user must fix.
    """
    inputs, main = run_folder.inputs_of(args), is_main(args)
    with contextlib.ExitStack() as folders:
        for plan in planner(args):
            claimed = run_folder.claimed(plan.folder, args.resume, args.overwrite, inputs, main)
            folders.enter_context(claimed)
        args.planner = planner
        return launch(run_plans, args)


def run_plans(args: argparse.Namespace) -> None:
    """One process of the job."""
    log_to(logging.getLogger("virtex"))
    backbone = load_backbone(args.checkpoint, args.format, args.trust_pickle)
    for plan in args.planner(args):
        evaluate(plan, backbone, args)


def evaluate(plan: Plan, backbone: Backbone, args: argparse.Namespace) -> None:
    """Check, run and record one evaluation."""
    log_to(logging.getLogger("virtex"))  # and no longer into the folder of the plan before
    evaluator = plan.evaluator()
    data = {name: images.describe() for name, images in evaluator.images.items()}
    deviations = plan.deviations + data_deviations(plan.protocol, data)
    deviations += evaluator.report.deviations
    if args.skip_bad_images:
        deviations.append(Deviation("skip bad images", False, True, "override"))
    identity = identity_of(plan, backbone, data, deviations, args.seed)
    if not args.overwrite:
        run_folder.check_same_run(plan.folder, identity, eval_only=False)
    if args.resume and (plan.folder / RECORD_NAME).is_file():
        logger.info("this run is finished; its record:")
        if rank() == 0:
            print_summary(read_record(plan.folder / RECORD_NAME), plan.folder)
        return
    evaluator.check(backbone)
    open_folder(plan, identity, args.overwrite)
    log_start(plan, backbone, deviations, evaluator)
    try:
        metrics = evaluator(backbone)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory is too small ({str(error).partition('. ')[0]}); free some, lower "
            "--batch-size or PROBE.BATCH_SIZE, or run with --num-gpus 0"
        ) from error
    for note in evaluator.report.notes:
        logger.warning("%s", note)
    if rank() == 0 and metrics is not None:
        deviations += evaluator.report.found
        record(plan, backbone, evaluator, metrics, deviations, data, args)
    synchronize()


def data_deviations(protocol: Protocol, data: dict[str, Any]) -> list[Deviation]:
    """Data sets of another size than the protocol's."""
    return [
        Deviation(f"{name}: images", expected, data[name]["images"], "data")
        for name, expected in protocol.images.items()
        if data[name]["images"] != expected
    ]


def identity_of(
    plan: Plan, backbone: Backbone, data: dict[str, Any], deviations: list[Deviation], seed: int
) -> dict[str, Any]:
    """What a resumed run must agree on."""
    return {
        "checkpoint sha256": backbone.source.sha256,
        "checkpoint format": backbone.source.format,
        "input": asdict(backbone.input),
        "arch": asdict(backbone.arch),
        "task": plan.protocol.task,
        "protocol": [plan.protocol.name, plan.protocol.version],
        **{f"setting {d.key}": d.run for d in deviations},
        "seed": seed,
        **plan.identity,
        **plan.model_identity(backbone),
        **{f"data set {name}": described for name, described in same_data(data).items()},
        run_folder.DEVIATIONS: [asdict(d) for d in deviations],
    }


def same_data(data: dict[str, Any]) -> dict[str, Any]:
    """What must be the same of each data set: all of the first, which is trained on or captioned.

    Of the others the files may change, for they are read anew: a broken image that stopped the
    scoring may be restored.
    """
    first = next(iter(data))
    return {
        name: {k: v for k, v in described.items() if name == first or k != "files_sha256"}
        for name, described in data.items()
    }


def open_folder(plan: Plan, identity: dict[str, Any], overwrite: bool) -> None:
    """From here on the run writes: what it was started with, its settings, its log."""
    synchronize()  # the others may still be looking at what the folder holds
    if rank() == 0:
        if overwrite:
            run_folder.clear(plan.folder)
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            run_folder.write_identity(plan.folder, identity)
            save_config(plan.settings, plan.folder / SETTINGS)
        except OSError as error:
            raise UserError(
                f"--output-dir {plan.folder} cannot be written ({error.strerror or error}); "
                "name another"
            ) from error
    synchronize()
    if not plan.folder.is_dir():
        raise UserError(f"the machines do not see the same {plan.folder}; share --output-dir")
    log_to(logging.getLogger("virtex"), plan.folder)


def log_start(
    plan: Plan, backbone: Backbone, deviations: list[Deviation], evaluator: Evaluator
) -> None:
    """Say what is run, and how it differs from its protocol."""
    sizes = ", ".join(f"{name} {len(images)}" for name, images in evaluator.images.items())
    logger.info(
        "%s, protocol %s: %s (%s, %s), images: %s, %d process(es)",
        plan.protocol.task,
        plan.protocol.name,
        backbone.source.requested,
        backbone.arch.name,
        backbone.source.format,
        sizes,
        world_size(),
    )
    if deviations:
        rows = [(d.key, d.protocol, d.run, d.why) for d in deviations]
        heads = ["setting", "protocol", "this run", "why"]
        table = tabulate(rows, headers=heads, disable_numparse=True)
        logger.warning("This run deviates from its protocol:\n%s", table)


def record(
    plan: Plan,
    backbone: Backbone,
    evaluator: Evaluator,
    metrics: dict[str, float],
    deviations: list[Deviation],
    data: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Write ``result.json`` and the metrics' curves, and print where everything is."""
    report = evaluator.report
    result = Result(
        task=plan.protocol.task,
        protocol={"name": plan.protocol.name, "version": plan.protocol.version},
        deviations=deviations,
        metrics=metrics,
        primary_metric=plan.protocol.primary_metric,
        model=backbone.record(),
        seed=args.seed,
        timing={name: round(value, 3) for name, value in report.timing.items()},
        data=data,
        verification=report.verification,
        setup={"device": device_of(args), "processes": world_size(), **report.setup},
        details=report.details,
        notes=report.notes,
    )
    if not has_lines(plan.folder / METRICS):  # a training has written its own curves
        (plan.folder / METRICS).unlink(missing_ok=True)
        writer = MetricsWriter(plan.folder, 0)
        writer.numbers(0, metrics)
        writer.close()
    try:
        result.write(plan.folder)
    except OSError as error:
        raise UserError(
            f"{plan.folder / RECORD_NAME} cannot be written ({error.strerror or error}); make room "
            "there, then go on with --resume"
        ) from error
    print_summary(result.record(), plan.folder)


def has_lines(path: Path) -> bool:
    """Whether there is a whole line; a killed process may have left none, or a torn one."""
    return path.is_file() and b"\n" in path.read_bytes()


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """The scores, and where everything is."""
    protocol, metrics = record["protocol"], record["metrics"]
    print(f"\n{record['model']['name']}: {record['task']}, protocol {protocol['name']}")
    print(tabulate(metrics.items(), floatfmt=".2f", missingval="-", tablefmt="plain"))
    print(f"deviations from the protocol: {len(protocol['deviations'])}")
    print(f"record:  {folder / RECORD_NAME}", flush=True)


def extraction_of(args: argparse.Namespace) -> Extraction:
    """How the command line wants features to be computed and kept."""
    return Extraction(
        torch.device(device_of(args)),
        feature_cache_of(args),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )


def feature_cache_of(args: argparse.Namespace) -> FeatureCache:
    folder = Path(args.cache_dir) if args.cache_dir else None
    return FeatureCache(folder, int(args.cache_limit * GB))
