"""What a run consists of, read and checked before a single file is written."""

import argparse
import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import nn

from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.loading import load_backbone
from virtex.detectron import heads  # noqa: F401 (registers the heads that configs name)
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.datasets import describe, read_data, require_paths
from virtex.detectron.evaluation import build_evaluator
from virtex.detectron.protocols import packaged_protocol, protocol_from_config
from virtex.detectron.settings import RunSettings, build_settings
from virtex.detectron.trainer import build_detector, check_solver
from virtex.detectron.verify import compare_features, load_weights
from virtex.engine.distributed import device_of
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError
from virtex.protocols import Protocol
from virtex.records import Deviation


@dataclass
class Run:
    """Everything a run consists of, checked, before a single file is written.

    Attributes:
        settings: the configuration and its deviations from ``protocol``.
        backbone: the checkpoint, complete.
        detector: holds the backbone's tensors, as ``verification`` says.
        train: Detectron2's dicts of the training images (empty with ``--eval-only``).
        test: test set -> its Detectron2 dicts.
        data: data set -> number of images and hash of the annotations.
        verification: tensors compared, and each stage's feature difference.
        skip_bad_images: whether training goes on without images that cannot be read.
    """

    protocol: Protocol
    settings: RunSettings
    backbone: Backbone
    detector: nn.Module
    train: list[dict[str, Any]]
    test: dict[str, list[dict[str, Any]]]
    data: dict[str, Any]
    verification: dict[str, Any]
    skip_bad_images: bool

    @property
    def cfg(self) -> CfgNode:
        return self.settings.cfg

    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree on."""
        return {
            "checkpoint": {
                "sha256": self.backbone.source.sha256,
                "format": self.backbone.source.format,
            },
            "input": asdict(self.backbone.input),
            "arch": asdict(self.backbone.arch),
            "protocol": [self.protocol.name, self.protocol.version],
            "overrides": {d.key: d.run for d in self.settings.deviations()},
            "seed": self.cfg.SEED,
            "processes": comm.get_world_size(),
            "skip_bad_images": self.skip_bad_images,
            "data": self.data,
        }

    def deviations(self) -> list[Deviation]:
        """Settings that differ from the protocol's, data of another size, images left out."""
        skipped = Deviation("skip_bad_images", False, True, "override")
        return (
            self.settings.deviations()
            + [
                Deviation(f"{name}: images", expected, self.data[name]["images"], "data")
                for name, expected in self.protocol.images.items()
                if name in self.data and self.data[name]["images"] != expected
            ]
            + ([skipped] if self.skip_bad_images else [])
        )


def prepare(args: argparse.Namespace) -> Run:
    """Read and check everything that the run needs. Writes nothing.

    Raises:
        UserError: the first thing that the user must fix.
    """
    if args.config:
        protocol = protocol_from_config(args.config)
    else:
        protocol = packaged_protocol(args.task, args.protocol)
    settings = build_settings(protocol, args.overrides, comm.get_world_size(), device_of(args))
    cfg = settings.cfg
    cfg.SEED, cfg.OUTPUT_DIR = args.seed, args.output_dir
    backbone = load_backbone(args.checkpoint, args.format, args.trust_pickle)
    converted = convert_backbone(backbone, cfg)
    settings.set_by_checkpoint(converted.settings)
    train_set, test_sets = read_data(cfg, Path(args.data_root), args.eval_only)
    checked = itertools.chain([] if args.skip_bad_images else train_set, *test_sets.values())
    require_paths((sample["file_name"] for sample in checked), os.path.isfile)
    set_classes(settings)
    seed_everything("detector", cfg.SEED)
    detector = build_detector(cfg)
    check_solver(cfg, detector)
    for name in cfg.DATASETS.TEST:
        build_evaluator(cfg, name, None)
    verification = {
        "tensors": load_weights(detector, converted),
        "features": compare_features(detector, converted, backbone.input),
    }
    cfg.freeze()
    names = (*cfg.DATASETS.TEST, *(() if args.eval_only else cfg.DATASETS.TRAIN))
    data = {n: describe(n, Path(args.data_root), DatasetCatalog.get(n)) for n in names}
    return Run(
        protocol, settings, backbone, detector, train_set, test_sets, data, verification,
        args.skip_bad_images,
    )  # fmt: skip


def set_classes(settings: RunSettings) -> None:
    """The number of classes is the data's.

    Raises:
        UserError: training and test sets do not have the same classes.
    """
    cfg = settings.cfg
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    classes = {name: list(found) for name, found in classes.items() if found}
    first = next(iter(classes), None)
    for name, found in classes.items():
        if found != classes[first]:
            raise UserError(f"{name} and {first} have different classes; they must be the same")
    if first is not None:
        part = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
        settings.set_by_data(f"MODEL.{part}.NUM_CLASSES", len(classes[first]))
