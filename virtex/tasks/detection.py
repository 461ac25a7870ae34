"""Shared by the tasks of ``detectron2_transfer``: registration, datasets, plan of the command."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.data.detection_sets import DetectionSet, register_sets
from virtex.data.layouts import Layout
from virtex.protocols import Protocol
from virtex.resources import resource_path
from virtex.tasks.registry import TASKS, Task, packaged_protocol, register_task

if TYPE_CHECKING:
    from virtex.runner import Job

CONFIG_FOLDER = resource_path("detectron_configs")


def plan_detection(args: argparse.Namespace) -> Sequence[Job]:
    """Plan ``detectron2_transfer`` for its parsed arguments."""
    from virtex.detectron.transfer import DetectorTransfer

    if args.config:
        protocol = protocol_from_config(args.config)
    else:
        protocol = packaged_protocol(args.task, args.protocol)
    return [DetectorTransfer(args, protocol)]


def protocol_from_config(config: str) -> Protocol:
    """Return the protocol defined by a Detectron2 YAML file.

    The file of a packaged protocol yields that protocol. Any other file defines one named after
    it and versioned by its hash, so that an edited file is a different protocol.

    Args:
        config: a path, or a name in Detectron2's model zoo.

    Raises:
        UserError: the file does not exist.
    """
    from virtex.detectron.settings import find_config

    path = find_config(config)
    for protocol in (p for task in TASKS.values() for p in task.protocols.values()):
        if protocol.config.resolve() == path.resolve():
            return protocol
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Protocol("custom", path.stem, digest, path)


def unsupported_reason(
    c4_protocols: Collection[str],
    vit_protocols: Collection[str],
    args: argparse.Namespace,
    may_open: bool,
) -> str:
    """See ``Task.unsupported_reason``: C4 detectors need a converter, ViTDet needs a transformer.

    All families have a converter to detectors with a feature pyramid.

    Args:
        c4_protocols: short names of the task's protocols with C4 detectors.
        vit_protocols: short names of those for vision transformers only.
    """
    protocols = TASKS[args.task].protocols
    chosen = args.protocol or next(iter(protocols))
    special = (*c4_protocols, *vit_protocols)
    if not may_open or chosen not in special:
        return ""
    from virtex.backbones.registry import get_family
    from virtex.checkpoints.loading import inspect_checkpoint

    arch = inspect_checkpoint(args.checkpoint, args.format, args.trust_pickle).arch
    if arch is None:
        return ""
    is_vit = chosen in vit_protocols
    if arch.family == "vit" if is_vit else "C4" in get_family(arch).detectron2_converters:
        return ""
    others = [f"{args.task}:{name}" for name in protocols if name not in special]
    detectors = "ViTDet protocols" if is_vit else "C4 detectors"
    return f"{arch.name} cannot be used in {detectors}; choose {' or '.join(others)}"


def register_detection(
    name: str,
    title: str,
    layout: Layout,
    images: Mapping[str, int],
    configs: Mapping[str, str],
    sets: Sequence[DetectionSet],
    read_data: Callable[[Path], Any],
    c4_protocols: Collection[str] = (),
    vit_protocols: Collection[str] = (),
    primary_metric: str = "bbox/AP",
    version: str = "2",  # 1 decayed the biases of norm layers with Detectron2 v0.5
    is_default: bool = True,
) -> Task:
    """Register a task of ``detectron2_transfer``, and its datasets.

    The protocols' names in records are those of their YAML files.

    Args:
        images: dataset -> number of images in the published data.
        configs: short name -> YAML file in ``detectron_configs`` without suffix; the first is
            the default.
        sets: the splits that the configs name.
        c4_protocols: short names of the configs with C4 detectors.
        vit_protocols: short names of the configs for vision transformers only.
        primary_metric, is_default: see ``Protocol`` and ``Task``.
        version: see ``Protocol``.
    """
    register_sets(name, layout, sets, primary_metric)
    return register_task(
        Task(
            name=name,
            title=title,
            layout=layout,
            protocols={
                short: Protocol(
                    name,
                    config,
                    version,
                    Path(CONFIG_FOLDER, f"{config}.yaml"),
                    {} if short.startswith("toy") else dict(images),
                    primary_metric,
                )
                for short, config in configs.items()
            },
            plan=plan_detection,
            read_data=read_data,
            command="detectron2_transfer",
            arguments=("--task", name),
            is_default=is_default,
            workers_option="DATALOADER.NUM_WORKERS",
            # each would change the protocol or its data
            fixed_options=("weights", "config", "train_json", "val_json"),
            unsupported_reason=partial(unsupported_reason, c4_protocols, vit_protocols)
            if c4_protocols or vit_protocols
            else None,
        )
    )
