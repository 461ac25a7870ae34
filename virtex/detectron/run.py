"""What a run consists of, read and checked before a single file is written."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import nn

from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.loading import load_backbone
from virtex.data.layouts import require_layout
from virtex.detectron import heads  # noqa: F401 (registers the heads that configs name)
from virtex.detectron.adapters import adapt
from virtex.detectron.datasets import DETECTION_SETS, describe, register_detection_sets
from virtex.detectron.evaluation import test_samples
from virtex.detectron.launch import device_of
from virtex.detectron.loading import seed_everything, training_samples
from virtex.detectron.protocols import Protocol, packaged_protocol, protocol_from_config
from virtex.detectron.settings import RunSettings, build_settings
from virtex.detectron.trainer import build_detector
from virtex.detectron.verify import compare_features, load_weights
from virtex.errors import UserError
from virtex.results import Departure


@dataclass
class Run:
    """Everything a run consists of, checked, before a single file is written.

    Attributes:
        settings: the configuration and its departures from ``protocol``.
        backbone: the checkpoint, complete.
        detector: holds the backbone's tensors, as ``verification`` says.
        train: Detectron2's dicts of the training images (empty with ``--eval-only``).
        test: test set -> its Detectron2 dicts.
        data: data set -> number of images and hash of the annotations.
        verification: tensors compared, and each stage's feature difference.
    """

    protocol: Protocol
    settings: RunSettings
    backbone: Backbone
    detector: nn.Module
    train: list[dict[str, Any]]
    test: dict[str, list[dict[str, Any]]]
    data: dict[str, Any]
    verification: dict[str, Any]

    @property
    def cfg(self) -> CfgNode:
        return self.settings.cfg

    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree on."""
        return {
            "checkpoint sha256": self.backbone.source.sha256,
            "protocol": [self.protocol.name, self.protocol.version],
            "departures": [asdict(d) for d in self.departures()],
            "seed": self.cfg.SEED,
            **{f"data set {name}": content for name, content in self.data.items()},
        }

    def departures(self) -> list[Departure]:
        """Settings that differ from the protocol's, and data of another size."""
        return self.settings.departures() + [
            Departure(f"{name}: images", expected, self.data[name]["images"], "data")
            for name, expected in self.protocol.images.items()
            if name in self.data and self.data[name]["images"] != expected
        ]


def prepare(args: argparse.Namespace) -> Run:
    """Read and check everything that the run needs. Writes nothing.

    Raises:
        UserError: the first thing that the user must mend.
    """
    if args.config:
        protocol = protocol_from_config(args.config)
    else:
        protocol = packaged_protocol(args.task, args.protocol)
    settings = build_settings(protocol, args.overrides, comm.get_world_size(), device_of(args))
    cfg = settings.cfg
    cfg.SEED, cfg.OUTPUT_DIR = args.seed, args.output_dir
    backbone = load_backbone(args.checkpoint, args.format, args.trust_pickle)
    adaptation = adapt(backbone, cfg)
    settings.set_by_checkpoint(adaptation.settings)
    train_set, test_sets = read_data(cfg, Path(args.data_root), args.eval_only)
    set_classes(settings)
    seed_everything(cfg.SEED)
    detector = build_detector(cfg)
    verification = {
        "tensors": load_weights(detector, adaptation),
        "features": compare_features(detector, adaptation, backbone.input),
    }
    cfg.freeze()
    names = (*cfg.DATASETS.TEST, *(() if args.eval_only else cfg.DATASETS.TRAIN))
    data = {n: describe(n, Path(args.data_root), DatasetCatalog.get(n)) for n in names}
    return Run(protocol, settings, backbone, detector, train_set, test_sets, data, verification)


def read_data(cfg: CfgNode, data_root: Path, eval_only: bool) -> tuple[list, dict[str, list]]:
    """The training images and, by set, the test images.

    Raises:
        UserError: files are missing (all are listed) or broken.
    """
    register_detection_sets(data_root)
    names = {*cfg.DATASETS.TEST, *(() if eval_only else cfg.DATASETS.TRAIN)}
    known = [DETECTION_SETS[name] for name in names if name in DETECTION_SETS]
    for task in sorted({entry.task for entry in known}):
        require_layout(data_root, task)
    if not cfg.DATASETS.TEST:
        raise UserError("the config names no test set (DATASETS.TEST), so there is no score")
    return ([] if eval_only else training_samples(cfg)), test_samples(cfg)


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
