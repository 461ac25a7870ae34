"""Detection transfer: train a detector on a pretrained backbone and evaluate it."""

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from virtex import run_folder
from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.inputs import saved_input
from virtex.data.detection_sets import DETECTION_SETS
from virtex.detectron import federated
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.checkpointing import CATEGORY_IDS, compare_statements, load_detector
from virtex.detectron.compat import create_local_process_group
from virtex.detectron.custom_data import loaded_set
from virtex.detectron.datasets import (
    check_images,
    class_names,
    custom_overrides,
    custom_sets,
    data_notes,
    read_data,
    require_paths,
)
from virtex.detectron.effects import RecordingConfig, validate_effects
from virtex.detectron.evaluation import build_evaluator, evaluate
from virtex.detectron.gallery import write_gallery
from virtex.detectron.install import describe_installed
from virtex.detectron.keypoints import count_keypoints
from virtex.detectron.loading import check_mask_format
from virtex.detectron.scoring import default_scorer
from virtex.detectron.settings import build_settings
from virtex.detectron.trainer import Trainer, build_detector, check_solver, write_scores
from virtex.detectron.training_step import autocast_dtype, require_compiler
from virtex.detectron.verify import compare_features, load_weights
from virtex.engine.checkpoints import last_checkpoint, validate_training_state
from virtex.engine.distributed import get_device, world_size
from virtex.engine.frozen import freeze, tensors_sha256, verify_unchanged
from virtex.engine.progress import Stopwatch
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError
from virtex.evaluator import Images, Report
from virtex.protocols import Protocol
from virtex.records import Deviation
from virtex.runner import Evaluation

logger = logging.getLogger("virtex.transfer")

# MODEL.META_ARCHITECTURE -> config section of NUM_CLASSES, if it is not ROI_HEADS
HEADS = {"RetinaNet": "RETINANET", "SemanticSegmentor": "SEM_SEG_HEAD"}
MAX_CLASSES = 100  # per-class metrics of larger test sets are only in per_class.csv

# Identity keys that do not affect the evaluation of a trained detector.
TRAINING_KEYS = (
    "options.precision",
    "options.processes",
    "overrides.skip_bad_images",
    "overrides.MODEL.BACKBONE.COMPILE",
    "overrides.MODEL_EMA.",
    "overrides.SOLVER.",
    "overrides.DATALOADER.",
)
# ``MODEL.KEYPOINT_ON`` -> the primary metric of detectors
INSTANCE_METRICS = {False: "bbox/AP", True: "keypoints/AP"}


class DetectorEvaluator:
    """Train a detector on a verified backbone and evaluate it.

    Attributes:
        cfg: the final configuration, frozen.
        detector: initialized from the backbone; with ``--eval-only``, ``DetectorTransfer.setup``
            loads the weights of a trained detector.
        frozen: the backbone's network in the detector with ``MODEL.BACKBONE.FROZEN``.
        train: Detectron2 dataset dicts of the training images, empty with ``--eval-only``.
        test: test set -> its dataset dicts.
        folder: output folder for detections and the gallery.
    """

    def __init__(self, args: argparse.Namespace, protocol: Protocol, backbone: Backbone):
        """Read and check everything that the run depends on. Writes nothing.

        Raises:
            UserError: the first problem.
        """
        overrides = [*custom_overrides(args), *args.overrides]
        settings = build_settings(protocol, overrides, world_size(), get_device(args))
        self.args, self.cfg = args, settings.cfg
        self.folder, self.data_root = Path(args.output_dir), Path(args.data_root)
        self.cfg.SEED, self.cfg.OUTPUT_DIR = args.seed, args.output_dir
        converted = convert_backbone(backbone, self.cfg)
        settings.set_from_checkpoint(converted.settings)
        settings.notes += converted.notes
        self.layer_ids = converted.layer_ids
        custom = custom_sets(args, settings.reference)
        self.train, self.test = read_data(self.cfg, self.data_root, args.eval_only, custom)
        settings.notes += data_notes([entry.name for entry in custom])
        solver = self.cfg.SOLVER
        if solver.WARMUP_ITERS >= solver.MAX_ITER and not args.eval_only:
            settings.notes.append(
                f"warm-up takes {solver.WARMUP_ITERS} iterations (SOLVER.WARMUP_ITERS), but "
                f"training ends after {solver.MAX_ITER}"
            )
        check_mask_format(self.cfg, self.train)
        if self.cfg.MODEL.KEYPOINT_ON:
            keypoints = count_keypoints(self.cfg.DATASETS.TEST[0])
            settings.set_from_data("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", keypoints)
        checked = itertools.chain([] if args.skip_bad_images else self.train, *self.test.values())
        require_paths((sample["file_name"] for sample in checked), os.path.isfile)
        if classes := class_names(self.cfg):
            head = HEADS.get(self.cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS")
            settings.set_from_data(f"MODEL.{head}.NUM_CLASSES", len(classes))
        seed_everything("detector", self.cfg.SEED)
        recording = RecordingConfig(self.cfg, set())
        self.detector = build_detector(recording)
        federated.set_category_weights(self.detector, self.train)
        self.frozen = None
        if recording.MODEL.BACKBONE.FROZEN:
            (prefix,) = converted.prefixes  # convert_backbone rejects C4
            self.frozen = self.detector.get_submodule(prefix.rstrip("."))
            freeze(self.frozen)
        check_solver(recording, self.detector, self.layer_ids)
        validate_effects(recording, settings.overridden)
        for name in self.test:
            build_evaluator(self.cfg, name, None)
        if self.cfg.MODEL_EMA.ENABLED:
            settings.notes.append(
                "metrics and model_final.pth are of the moving average of the weights with decay "
                f"{self.cfg.MODEL_EMA.DECAY}"
            )
        self.report = Report(
            deviations=settings.deviations(),
            notes=settings.notes,
            verification={
                "tensors": load_weights(self.detector, converted),
                "features": compare_features(self.detector, converted, backbone.input),
            },
            setup={
                "detectron2": describe_installed(),
                "scorer": default_scorer(),
                "precision": precision(self.cfg),
            },
        )
        self.sha256 = tensors_sha256(self.frozen) if self.frozen else ""
        self.cfg.freeze()

    @property
    def images(self) -> Mapping[str, Images]:
        train = () if self.args.eval_only else self.cfg.DATASETS.TRAIN
        return {name: loaded_set(name) for name in (*train, *self.cfg.DATASETS.TEST)}

    def check(self, backbone: Backbone) -> None:
        """Check the images before training; ``__init__`` checks everything else."""
        if not self.args.eval_only:
            if self.cfg.MODEL.BACKBONE.COMPILE:
                require_compiler(self.cfg.MODEL.DEVICE)
            check_images(self.cfg, self.train, self.test, self.args.skip_bad_images)

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """Train, unless ``--eval-only``, and evaluate; only the main process returns metrics."""
        if not self.args.eval_only:
            self.fit(backbone)
        if self.frozen:
            verified = verify_unchanged(self.frozen, self.sha256)
            self.report.verification["frozen_backbone"] = verified
        start = time.perf_counter()
        metrics, per_class = evaluate(self.cfg, self.detector, self.test, self.folder)
        if not comm.is_main_process():
            return metrics
        seconds = time.perf_counter() - start
        images = sum(map(len, self.test.values()))
        self.report.timing |= {
            "evaluate_seconds": seconds,
            "evaluate_images_per_second": images / seconds,
        }
        self.report.details["per_class"] = {
            name: table for name, table in per_class.items() if len(table) <= MAX_CLASSES
        }
        for name, samples in self.test.items():
            gallery = self.folder / run_folder.GALLERY / (name if len(self.test) > 1 else "")
            write_gallery(self.cfg, self.detector, name, samples, gallery)
        if not self.args.eval_only:
            write_scores(self.folder, self.cfg.SOLVER.MAX_ITER, metrics)
        return metrics

    def fit(self, backbone: Backbone) -> None:
        """Train up to the last iteration; with ``--resume``, start from the latest checkpoint."""
        trainer = Trainer(
            self.cfg,
            self.detector,
            self.train,
            skip_bad_images=self.args.skip_bad_images,
            evaluate=lambda: evaluate(self.cfg, trainer.detector, self.test, None).metrics,
            extra=saved_input(backbone, class_names(self.cfg)) | self.category_ids(),
            layer_ids=self.layer_ids,
        )
        if self.args.resume:
            logger.info("resuming after iteration %d", trainer.resume())
        trainer.train()
        self.detector = trainer.detector
        self.record_training_time(trainer.stopwatch.seconds(), trainer.max_iter)

    def category_ids(self) -> dict[str, list[int]]:
        """Return the category ids of the classes, for checkpoints; empty for VOC, without ids."""
        metadata = MetadataCatalog.get(self.cfg.DATASETS.TEST[0])
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        return {CATEGORY_IDS: sorted(contiguous, key=contiguous.__getitem__)} if contiguous else {}

    def record_training_time(self, seconds: float, iterations: int) -> None:
        images = self.cfg.SOLVER.IMS_PER_BATCH * iterations
        self.report.timing |= {
            "train_seconds": seconds,
            "train_images_per_second": images / max(seconds, 1e-9),
        }


def precision(cfg: CfgNode) -> str:
    """Return the dtype of training: ``"float32"``, or that of mixed precision."""
    return str(autocast_dtype(cfg) or torch.float32).removeprefix("torch.")


def primary_metric(test_set: str, default: str) -> str:
    """Return the primary metric of a test set: that of built-in sets with the same evaluator."""
    known = DETECTION_SETS.get(test_set)
    kind = known.kind if known else MetadataCatalog.get(test_set).get("evaluator_type")
    metrics = (entry.primary_metric for entry in DETECTION_SETS.values() if entry.kind == kind)
    return next(metrics, default)


class DetectorTransfer(Evaluation):
    """The job of ``detectron2_transfer``.

    With ``--eval-only`` it evaluates the latest checkpoint of the run in the folder, or the
    detector in ``--weights``. The record of a partially trained detector is written to a subfolder,
    so that it is not mistaken for the final result.
    """

    loggers = ("virtex", "detectron2", "fvcore")
    evaluator: DetectorEvaluator

    def __init__(self, args: argparse.Namespace, protocol: Protocol):
        # provisional, for one process; the evaluator builds those for the actual number
        overrides = [*custom_overrides(args), *args.overrides]
        settings = build_settings(protocol, overrides, 1, "cpu" if args.num_gpus == 0 else "cuda")
        train, test = settings.cfg.DATASETS.TRAIN, settings.cfg.DATASETS.TEST
        if test:  # a result on other data is not a result of the protocol's task
            entry = DETECTION_SETS.get(test[0])
            metric = primary_metric(test[0], protocol.primary_metric)
            if metric in INSTANCE_METRICS.values():
                metric = INSTANCE_METRICS[settings.cfg.MODEL.KEYPOINT_ON]
            task = entry.task if entry else "custom"
            protocol = replace(protocol, task=task, primary_metric=metric)
        if len(test) > 1:
            protocol = replace(protocol, primary_metric=f"{test[0]}/{protocol.primary_metric}")
        super().__init__(
            args,
            Path(args.output_dir),
            protocol,
            settings.cfg,
            settings.deviations(),
            lambda job: DetectorEvaluator(args, protocol, job.backbone),
        )
        self.starts_run = not args.eval_only
        # a corrupt image that stopped the run can be restored
        self.ignored_keys = tuple(f"data.{name}.files_sha256" for name in (*train, *test))
        if args.eval_only:
            names = [name for name in train if name not in test]
            keys = [key for name in names for key in (f"data.{name}.", f"overrides.{name}: images")]
            self.ignored_keys += (*TRAINING_KEYS, *keys)

    def prepare(self, backbone: Backbone | None) -> None:
        start = time.perf_counter()
        if self.args.weights and run_folder.read_run_file(self.folder) is not None:
            raise UserError(
                f"--weights requires an --output-dir without a run, but {self.folder} contains "
                "one; choose another",
                code="run.exists",
            )
        create_local_process_group()
        # optimizer states and details of training differ between distributions
        self.options = {"processes": world_size(), "detectron2": describe_installed()}
        self.deviations = []  # the evaluator's replace the provisional ones
        super().prepare(backbone)
        self.settings = self.evaluator.cfg
        if self.settings.SOLVER.AMP.ENABLED:  # "auto" depends on the GPU
            self.options["precision"] = precision(self.settings)
        self.evaluator.report.timing["prepare_seconds"] = time.perf_counter() - start

    def setup(self) -> None:
        if self.args.weights:
            path = Path(self.args.weights)
            content, sha256 = load_detector(self.evaluator.detector, path)
            classes = class_names(self.settings)
            if missing := compare_statements(self.settings, content, path, classes):
                note = f"{path} does not state {', '.join(missing)}; that of --checkpoint is used"
                logger.warning("%s", note)
                self.evaluator.report.notes.append(note)
            self.deviations.append(
                Deviation("weights_sha256", "trained by this run", sha256, "override")
            )
        elif self.args.eval_only:
            self.load_checkpoint()
        super().setup()

    def load_checkpoint(self) -> None:
        """Load the run's latest checkpoint, and its data and deviations from ``run.json``.

        Raises:
            UserError: the folder contains no checkpoint, or a damaged one.
        """
        run, path = run_folder.read_run_file(self.folder), last_checkpoint(self.folder)
        if run is None or path is None:
            raise UserError(
                f"{self.folder} contains no checkpoint to evaluate; train first, or pass --weights",
                code="run.no_checkpoint",
            )
        detector, stopwatch = self.evaluator.detector, Stopwatch()
        content, _ = load_detector(detector, path)
        validate_training_state(
            path, content, detector, {"stopwatch": stopwatch}, sys.maxsize, zero_based=True
        )
        logger.info("evaluating checkpoint %s", path)
        done, max_iter = content["iteration"] + 1, self.settings.SOLVER.MAX_ITER
        stopwatch.load_state_dict(content["stopwatch"])
        self.deviations = [Deviation(**found) for found in run["deviations"]]
        self.data = run["identity"]["data"] | self.data
        self.evaluator.record_training_time(stopwatch.seconds(), done)
        if done != max_iter:
            self.deviations.append(Deviation("iterations_trained", max_iter, done, "override"))
            self.folder = self.evaluator.folder = self.folder / f"evaluation_{done:07d}"

    def log_start(self) -> None:
        super().log_start()
        report = self.evaluator.report
        logger.info("backbone verification: %s", json.dumps(report.verification))
        for note in report.notes:
            logger.warning("%s", note)

    def run(self) -> dict[str, float] | None:
        return self.evaluator(self.backbone)
