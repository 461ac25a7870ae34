"""What a pretraining run consists of: read, checked, written down in its folder."""

import argparse
import hashlib
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from virtex import run_folder
from virtex.config import (
    flatten,
    get_setting,
    load_config,
    save_config,
    with_overrides,
    with_settings,
)
from virtex.data.annotations import read_json
from virtex.data.layouts import (
    COCO_CAPTION_PRETRAINING,
    COCO_MULTILABEL_PRETRAINING,
    require_layout,
)
from virtex.data.tokenizer import Tokenizer
from virtex.engine.distributed import device_of, world_size
from virtex.errors import UserError
from virtex.files import replace_file, sha256_of
from virtex.pretraining.data import PretrainingSet, build_pretraining_set
from virtex.records import Deviation, environment, write_json

logger = logging.getLogger(__name__)

RECORD = "pretraining.json"
CONFIG = "pretrain_config.yaml"  # the published name
TOKENIZER = "tokenizer.model"
STRIDE = 32  # pixels of a place in a ResNet's last feature map
PATH_KEYS = ("DATA.ROOT", "DATA.TOKENIZER_MODEL")
# What a resumed run may change, to train longer or to get past a loss that is not finite; each
# change is written down.
CHANGEABLE = (
    *("OPTIM.NUM_ITERATIONS", "OPTIM.LR", "OPTIM.CNN_LR", "OPTIM.WARMUP_STEPS"),
    "OPTIM.CLIP_GRAD_NORM",
)


@dataclass
class Run:
    """A pretraining, checked before a file is written.

    Attributes:
        name: the config as the user named it.
        config: with the user's paths and overrides.
        deviations: settings that differ from the named config.
        changes: settings that a resumed run changed, and from which iteration on.
    """

    name: str
    config: CfgNode
    deviations: list[Deviation]
    seed: int
    device: torch.device
    tokenizer: Tokenizer | None
    train: PretrainingSet
    val: PretrainingSet
    changes: list[dict[str, Any]] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree on."""
        free = (*PATH_KEYS, *CHANGEABLE)
        return {
            **{f"setting {k}": v for k, v in flatten(self.config).items() if k not in free},
            "seed": self.seed,
            "skip_bad_images": self.train.skip_bad_images,
            "tokenizer_sha256": self.tokenizer and sha256_of(self.tokenizer.path),
            "training_images": fingerprint(self.train),
            "validation_images": fingerprint(self.val),
        }


def prepare(args: argparse.Namespace) -> Run:
    """Read and check everything the run needs. Writes nothing.

    Raises:
        UserError: the first thing that the user must fix.
    """
    named = place_data(load_config(args.config), args.data_root)
    config = with_overrides(named, args.overrides)
    before = flatten(named)
    deviations = [
        Deviation(key, before[key], value, "override")
        for key, value in flatten(config).items()
        if value != before[key] and key not in PATH_KEYS
    ]
    root = Path(config.DATA.ROOT)
    if root.name != "coco":
        raise UserError(f"DATA.ROOT {root} must be a folder named coco; rename it, or link to it")
    from_boxes = config.MODEL.NAME == "multilabel_classification"
    if from_boxes:
        require_layout(root.parent, COCO_MULTILABEL_PRETRAINING, "multilabel_pretraining")
    else:
        require_layout(root.parent, COCO_CAPTION_PRETRAINING, "pretraining")
    tokenizer = None if from_boxes else open_tokenizer(config)
    seed = config.RANDOM_SEED if args.seed is None else args.seed
    train, val = (
        build_pretraining_set(config, split, tokenizer, seed, args.skip_bad_images)
        for split in ("train", "val")
    )
    device = torch.device(device_of(args))
    share = config.OPTIM.BATCH_SIZE // world_size()
    if share == 1 and config.DATA.IMAGE_CROP_SIZE <= STRIDE and not config.MODEL.VISUAL.FROZEN:
        raise UserError(
            f"one image of {config.DATA.IMAGE_CROP_SIZE} pixels a process leaves BatchNorm one "
            "value to normalize; raise OPTIM.BATCH_SIZE or DATA.IMAGE_CROP_SIZE"
        )
    return Run(args.config, config, deviations, seed, device, tokenizer, train, val)


def open_tokenizer(config: CfgNode) -> Tokenizer:
    """The vocabulary of the config.

    Raises:
        UserError: it is missing (how to train it is told), or no vocabulary.
    """
    data = config.DATA
    path = Path(data.TOKENIZER_MODEL)
    if not path.exists():
        raise UserError(
            f"there is no vocabulary {path}; train one with: {tokenizer_command(data)} (a small "
            "corpus allows fewer tokens: DATA.VOCAB_SIZE), or name another with "
            "DATA.TOKENIZER_MODEL FILE"
        )
    return Tokenizer(path)


def tokenizer_command(data: CfgNode) -> str:
    """What trains the vocabulary that the section ``DATA`` of a config names."""
    return (
        f"python -m virtex.data.tokenizer --captions {data.ROOT}/annotations/"
        f"captions_train2017.json --vocab-size {data.VOCAB_SIZE} --output {data.TOKENIZER_MODEL}"
    )


def place_data(config: CfgNode, data_root: str | None) -> CfgNode:
    """Let ``data_root`` stand for the leading ``datasets/`` of the config's paths."""
    paths = {key: Path(get_setting(config, key)) for key in PATH_KEYS}
    return with_settings(
        config,
        {
            key: str(Path(data_root, *path.parts[1:]))
            for key, path in paths.items()
            if data_root is not None and path.parts[:1] == ("datasets",)
        },
    )


def fingerprint(data: PretrainingSet) -> dict[str, Any]:
    """The number of images, and a hash of what they are paired with."""
    digest = hashlib.sha256()
    for item in data.items:
        digest.update(repr((item.image_id, item.file.name, item.target)).encode())
    return {"images": len(data), "sha256": digest.hexdigest()}


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run in ``folder`` has been recorded with as many iterations as asked for."""
    record = folder / RECORD
    content = read_json(record, "a pretraining record") if record.is_file() else {}
    done = content.get("iterations") if isinstance(content, dict) else None
    return isinstance(done, int) and done >= run.config.OPTIM.NUM_ITERATIONS


def open_folder(run: Run, folder: Path, overwrite: bool, done: int) -> None:
    """From here on the run writes: what it was started with, config, tokenizer.

    Args:
        done: iterations done before.

    Raises:
        UserError: the folder cannot be written.
    """
    # before the folder is cleared: the vocabulary may be the one that lies there
    identity, vocabulary = run.identity(), run.tokenizer and run.tokenizer.path.read_bytes()
    if overwrite:
        run_folder.clear(folder)
    run.changes = changes_since(run.config, folder, done)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_run_file(folder, identity, changes=run.changes)
        save_config(run.config, folder / CONFIG)
        if vocabulary:
            replace_file(folder / TOKENIZER, lambda file: file.write(vocabulary))
    except OSError as error:
        raise UserError(
            f"--output-dir {folder} cannot be written ({error.strerror or error}); make room "
            "there, or name another"
        ) from error


def changes_since(config: CfgNode, folder: Path, done: int) -> list[dict[str, Any]]:
    """All changes of a resumed run so far, those of this time included."""
    if not done or not (folder / CONFIG).is_file():
        return []
    earlier = (run_folder.read_run_file(folder) or {}).get("changes", [])
    before, now = flatten(load_config(folder / CONFIG)), flatten(config)
    return earlier + [
        {"iteration": done, "setting": key, "before": before[key], "now": now[key]}
        for key in CHANGEABLE
        if before[key] != now[key]
    ]


def write_record(run: Run, folder: Path, seconds: float, metrics: dict[str, float]) -> None:
    """``pretraining.json``: what was trained, on what, and how well."""
    optim = run.config.OPTIM
    images = optim.NUM_ITERATIONS * optim.BATCH_SIZE
    content = {
        "config": run.name,
        "overrides": [asdict(deviation) for deviation in run.deviations],
        "changes": run.changes,
        "task": run.config.MODEL.NAME,
        "iterations": optim.NUM_ITERATIONS,
        "seed": run.seed,
        "metrics": metrics,
        "data": {"train": fingerprint(run.train), "val": fingerprint(run.val)},
        "environment": {
            **environment(),
            "device": run.device.type,
            "processes": world_size(),
        },
        "timing": {
            "train_seconds": round(seconds, 3),
            "train_images_per_second": round(images / max(seconds, 1e-9), 3),
        },
    }
    write_json(folder / RECORD, content)
    logger.info("record:     %s", folder / RECORD)
