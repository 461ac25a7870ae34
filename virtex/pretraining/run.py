"""Pretraining as a job of the runner: config, data, training, ``pretraining.json``."""

import argparse
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from virtex import run_folder
from virtex.checkpoints.backbone import Backbone
from virtex.config import (
    flatten,
    load_config,
    save_config,
    with_overrides,
)
from virtex.data.annotations import read_json
from virtex.data.layouts import (
    COCO_CAPTION_PRETRAINING,
    COCO_MULTILABEL_PRETRAINING,
    require_layout,
)
from virtex.data.loading import Batch, training_loader
from virtex.data.tokenizer import Tokenizer
from virtex.engine.distributed import get_device, rank, world_size
from virtex.engine.loop import LoopSettings, TrainingLoop, amp_dtype
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError
from virtex.files import replace_file
from virtex.optim import Lookahead, build_optimizer, build_schedule
from virtex.pretraining.data import PretrainingSet, build_pretraining_set
from virtex.pretraining.models.build import build_model
from virtex.pretraining.models.visual import last_stride, visual_arch
from virtex.pretraining.validation import validate
from virtex.pretraining.vocabulary import (
    PATH_KEYS,
    TOKENIZER,
    open_tokenizer,
    replace_data_root,
)
from virtex.records import SCHEMA_VERSION, Deviation, environment, write_json
from virtex.runner import Job

logger = logging.getLogger(__name__)

RECORD = "pretraining.json"
CONFIG = "pretrain_config.yaml"  # the published name
# Settings that a resumed run may change, to train longer or to recover from a loss that is not
# finite; the record lists the changes.
CHANGEABLE = (
    *("OPTIM.NUM_ITERATIONS", "OPTIM.LR", "OPTIM.CNN_LR", "OPTIM.WARMUP_STEPS"),
    "OPTIM.CLIP_GRAD_NORM",
)


class PretrainingJob(Job):
    """Pretrain the model of one config in one output folder."""

    config: CfgNode
    overrides: list[Deviation]
    seed: int
    device: torch.device
    tokenizer: Tokenizer | None
    train: PretrainingSet
    val: PretrainingSet
    loop: TrainingLoop
    batches: Iterator[Batch]
    vocabulary: bytes | None
    changes: list[dict[str, Any]]

    def __init__(self, args: argparse.Namespace):
        super().__init__(args, Path(args.output_dir))

    def prepare(self, backbone: Backbone | None) -> None:
        args = self.args
        named = replace_data_root(load_config(args.config), args.data_root)
        self.config = config = with_overrides(named, args.overrides)
        before = flatten(named)
        self.overrides = [
            Deviation(key, before[key], value, "override")
            for key, value in flatten(config).items()
            if value != before[key] and key not in PATH_KEYS
        ]
        root = Path(config.DATA.ROOT)
        if root.name != "coco":
            raise UserError(
                f"DATA.ROOT must be a folder named coco, not {root}; rename it or link to it",
                "config.invalid_value",
            )
        has_labels = config.MODEL.NAME == "multilabel_classification"
        if has_labels:
            require_layout(root.parent, COCO_MULTILABEL_PRETRAINING, "multilabel_pretraining")
        else:
            require_layout(root.parent, COCO_CAPTION_PRETRAINING, "pretraining")
        self.tokenizer = None if has_labels else open_tokenizer(config)
        self.seed = config.RANDOM_SEED if args.seed is None else args.seed
        self.train, self.val = (
            build_pretraining_set(config, split, self.tokenizer, self.seed, args.skip_bad_images)
            for split in ("train", "val")
        )
        self.device = torch.device(get_device(args))
        share = config.OPTIM.BATCH_SIZE // world_size()
        visual = config.MODEL.VISUAL
        # a feature map with a single location
        is_single = last_stride(visual_arch(visual.NAME)) >= config.DATA.IMAGE_CROP_SIZE
        if share == 1 and is_single and not visual.FROZEN:
            raise UserError(
                f"BatchNorm cannot normalize one image of {config.DATA.IMAGE_CROP_SIZE} pixels per "
                "process; increase OPTIM.BATCH_SIZE or DATA.IMAGE_CROP_SIZE",
                "config.invalid_value",
            )

    def identity(self) -> dict[str, Any]:
        free = (*PATH_KEYS, *CHANGEABLE)
        return {
            "settings": {k: v for k, v in flatten(self.config).items() if k not in free},
            "seed": self.seed,
            "skip_bad_images": self.train.skip_bad_images,
            "tokenizer_sha256": self.tokenizer and self.tokenizer.sha256,
            "data": self.describe_data(),
        }

    def extra_run_info(self) -> dict[str, Any]:
        return {"changes": self.changes}

    def describe_data(self) -> dict[str, Any]:
        return {"train": describe(self.train), "val": describe(self.val)}

    def is_finished(self) -> bool:
        """Return whether a record covers as many iterations as requested."""
        record = self.folder / RECORD
        content = read_json(record, "a pretraining record") if record.is_file() else {}
        done = content.get("iterations") if isinstance(content, dict) else None
        return isinstance(done, int) and done >= self.config.OPTIM.NUM_ITERATIONS

    def print_finished(self) -> None:
        logger.info("the run is already finished: %s", self.folder / RECORD)

    def setup(self) -> None:
        config, optim, args = self.config, self.config.OPTIM, self.args
        torch.backends.cudnn.benchmark = config.CUDNN_BENCHMARK
        torch.backends.cudnn.deterministic = config.CUDNN_DETERMINISTIC
        seed_everything("weights", self.seed)
        model = build_model(config).to(self.device)
        optimizer = build_optimizer(config, model)
        more_state = {}
        if optim.LOOKAHEAD.USE:
            more_state["lookahead"] = Lookahead(
                optimizer, k=optim.LOOKAHEAD.STEPS, alpha=optim.LOOKAHEAD.ALPHA
            )
        settings = LoopSettings(
            iterations=optim.NUM_ITERATIONS,
            batch_size=optim.BATCH_SIZE,
            seed=self.seed,
            clip_norm=optim.CLIP_GRAD_NORM,
            amp_dtype=amp_dtype(config, self.device),
            checkpoint_every=args.checkpoint_every,
            log_every=args.log_every,
            keep=args.keep,
        )
        self.loop = TrainingLoop(
            model,
            optimizer,
            build_schedule(config, optimizer),
            settings,
            self.folder,
            more_state,
            partial(
                validate, model, self.val, config, self.tokenizer, self.device, args.num_workers
            ),
        )
        if args.resume:
            self.loop.resume()
        self.changes = list_changes(config, self.folder, self.loop.done)
        # read before the folder is cleared, which may contain it
        self.vocabulary = self.tokenizer.path.read_bytes() if self.tokenizer else None
        self.batches = training_loader(
            self.train,
            optim.BATCH_SIZE,
            self.loop.done,
            self.seed,
            rank(),
            world_size(),
            args.num_workers,
        )

    def write_inputs(self) -> None:
        save_config(self.config, self.folder / CONFIG)
        if self.vocabulary is not None:
            content = self.vocabulary
            replace_file(self.folder / TOKENIZER, lambda file: file.write(content))

    def log_start(self) -> None:
        if self.loop.done:
            logger.info("resuming after iteration %d", self.loop.done)
        elif self.args.resume:
            logger.info("%s contains no checkpoint; starting from iteration 0", self.folder)
        for change in self.changes:
            logger.warning("%(setting)s is changed to %(now)s at iteration %(iteration)d", change)
        logger.info(
            "%s: %d training images, %d validation images, processes: %d, %.1f M parameters, "
            "output in %s",
            self.config.MODEL.NAME,
            len(self.train),
            len(self.val),
            world_size(),
            sum(p.numel() for p in self.loop.model.parameters()) / 1e6,
            self.folder,
        )

    def run(self) -> dict[str, float]:
        return self.loop.run(self.batches)

    def write_record(self, metrics: dict[str, float]) -> None:
        optim, seconds = self.config.OPTIM, self.loop.stopwatch.seconds()
        images = optim.NUM_ITERATIONS * optim.BATCH_SIZE
        content = {
            "schema_version": SCHEMA_VERSION,
            "config": self.args.config,
            "overrides": [asdict(override) for override in self.overrides],
            "changes": self.changes,
            "task": self.config.MODEL.NAME,
            "iterations": optim.NUM_ITERATIONS,
            "seed": self.seed,
            "metrics": metrics,
            "data": self.describe_data(),
            "environment": {
                **environment(),
                "device": self.device.type,
                "processes": world_size(),
                "peak_memory": self.peak_memory,
            },
            "timing": {
                "train_seconds": round(seconds, 3),
                "train_images_per_second": round(images / max(seconds, 1e-9), 3),
            },
        }
        write_json(self.folder / RECORD, content)
        logger.info("record: %s", self.folder / RECORD)


def describe(data: PretrainingSet) -> dict[str, Any]:
    """Return the number of images and a hash of their ids, file names and targets."""
    digest = hashlib.sha256()
    for item in data.items:
        digest.update(repr((item.image_id, item.file.name, item.target)).encode())
    return {"images": len(data), "sha256": digest.hexdigest()}


def list_changes(config: CfgNode, folder: Path, done: int) -> list[dict[str, Any]]:
    """List the changes of settings of a resumed run, those of this session last.

    Args:
        done: completed iterations; 0 for a new run.
    """
    if not done or not (folder / CONFIG).is_file():
        return []
    earlier = (run_folder.read_run_file(folder) or {}).get("changes", [])
    before, now = flatten(load_config(folder / CONFIG)), flatten(config)
    return earlier + [
        {"iteration": done, "setting": key, "before": before[key], "now": now[key]}
        for key in CHANGEABLE
        if before[key] != now[key]
    ]
