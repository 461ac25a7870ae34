"""Build the job of a probe from its parsed command line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode

from virtex import runner
from virtex.checkpoints.backbone import Backbone
from virtex.data.layouts import Layout
from virtex.engine.distributed import get_device, world_size
from virtex.errors import UserError
from virtex.evaluator import Evaluator
from virtex.probes.feature_cache import GB, FeatureCache
from virtex.probes.features import FeatureExtractor
from virtex.probes.pooled import resolve_representation
from virtex.probes.settings import load_settings
from virtex.protocols import Protocol
from virtex.runner import Evaluation, Planner
from virtex.tasks.registry import Task

if TYPE_CHECKING:
    from virtex.probes.classifier_training import TrainingOptions


def run_probe(args: argparse.Namespace, planner: Planner) -> int:
    """Run the command of a probe, or list the feature cache.

    Returns:
        The exit status.

    Raises:
        UserError: invalid input.
    """
    if args.list_cache:
        print(build_feature_cache(args).table())
        return 0
    if not args.checkpoint:
        raise UserError(
            "--checkpoint is missing; specify a file, virtex://NAME, torchvision://NAME, …",
            "arguments.missing",
        )
    return runner.run(args, planner)


def plan_probe(
    args: argparse.Namespace,
    task: Task,
    build_evaluator: Callable[[Evaluation], Evaluator],
    protocol: Protocol | None = None,
    layout: Layout | None = None,
    folder: Path | None = None,
    overrides: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    model_identity: Callable[[Backbone], dict[str, Any]] | None = None,
) -> Evaluation:
    """Build the job of a task with the user's overrides.

    Args:
        build_evaluator: see ``Evaluation``.
        protocol: default: the one that ``--protocol`` selects.
        layout: default: the task's, unless a protocol for other data is given.
        folder: default: ``--output-dir``.
        overrides: ``KEY VALUE …``; default: those of the command line.

    Raises:
        UserError: unknown protocol, or an invalid override.
    """
    if protocol is None or protocol.task == task.name:
        layout = layout or task.layout
    protocol = protocol or task.protocol(args.protocol)
    overrides = args.overrides if overrides is None else overrides
    settings, deviations = load_settings(protocol, overrides)
    return Evaluation(
        args,
        folder or Path(args.output_dir),
        protocol,
        settings,
        deviations,
        build_evaluator,
        layout,
        options,
        model_identity,
    )


def build_extractor(job: Evaluation) -> FeatureExtractor:
    """Build the feature extractor of a job from its settings and the command line's options.

    Raises:
        UserError: the network does not have the representation that the settings name.
    """
    args, representation = job.args, job.settings.MODEL.REPRESENTATION
    resolve_representation(job.backbone, representation)
    return FeatureExtractor(
        torch.device(get_device(args)),
        build_feature_cache(args),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        representation=representation,
    )


def build_feature_cache(args: argparse.Namespace) -> FeatureCache:
    folder = Path(args.cache_dir) if args.cache_dir else None
    return FeatureCache(folder, int(args.cache_limit * GB))


def build_training_options(job: Evaluation) -> "TrainingOptions":
    """Build the options of a job's training from the command line; settings are separate.

    Raises:
        UserError: the network does not have the representation that the settings name.
    """
    from virtex.probes.classifier_training import TrainingOptions

    args = job.args
    resolve_representation(job.backbone, job.settings.MODEL.REPRESENTATION)
    return TrainingOptions(
        job.folder,
        torch.device(get_device(args)),
        args.seed,
        args.num_workers,
        args.checkpoint_every,
        args.log_every,
        args.resume,
        args.skip_bad_images,
    )


def count_processes(settings: CfgNode) -> dict[str, int]:
    """Return the number of processes as an identity key, if batch norm depends on it."""
    return {} if settings.MODEL.FROZEN else {"processes": world_size()}
