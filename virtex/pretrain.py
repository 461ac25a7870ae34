"""Pretrain a visual backbone with language: VirTex (arXiv 2006.06666) and its ablations.

examples:
  # once: the vocabulary of the captions
  python -m virtex.data.tokenizer --captions datasets/coco/annotations/captions_train2017.json \\
      --vocab-size 10000 --output datasets/vocab/coco_10k.model

  # the best published model, on all GPUs there are
  python -m virtex.pretrain --config bicaptioning_R_50_L1_H2048 --data-root datasets \\
      --output-dir output/virtex

  # an ablation, a YAML file of one's own, any setting
  python -m virtex.pretrain --config task_ablations/masked_lm_R_50_L1_H2048 ...
  python -m virtex.pretrain --config pretrain_config.yaml ... OPTIM.BATCH_SIZE 128

  # two machines of 8 GPUs, started on each; or torchrun
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 -m virtex.pretrain ...

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py toy --train-images 2000
  python -m virtex.data.tokenizer --captions toy/coco/annotations/captions_train2017.json \\
      --vocab-size 200 --output toy/vocab/toy.model
  python -m virtex.pretrain --config toy/bicaptioning_R_18_L1_H256 --data-root toy \\
      --output-dir output/toy_pretraining --num-gpus 0

  # go on where it stopped
  ... --resume

OUTPUT_DIR then holds model_final.pth (a checkpoint every tool here takes), pretrain_config.yaml
and tokenizer.model beside it, pretraining.json (losses, data, environment), log.txt,
metrics.json and tensorboard events. Exit status: 0 done, 2 something to mend, said in one
sentence.
"""

import argparse
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.tool import add_training_arguments, non_negative, positive, run_tool, tool_parser

if TYPE_CHECKING:
    import torch
    from fvcore.common.config import CfgNode

    from virtex.data.pretraining import Batch, PretrainingSet
    from virtex.data.tokenizer import Tokenizer
    from virtex.training.loop import TrainingLoop

logger = logging.getLogger("virtex.training")

RECORD = "pretraining.json"
CONFIG = "pretrain_config.yaml"  # the published name
TOKENIZER = "tokenizer.model"
# What a resumed run may change: its length, and what does not change a loss.
FREE_KEYS = ("OPTIM.NUM_ITERATIONS", "DATA.ROOT", "DATA.TOKENIZER_MODEL")
SAMPLES = 8  # predictions shown at each validation


@dataclass
class Run:
    """What a pretraining consists of, read and checked before a file is written."""

    config: "CfgNode"
    seed: int
    device: "torch.device"
    tokenizer: "Tokenizer | None"
    train: "PretrainingSet"
    val: "PretrainingSet"

    def identity(self) -> dict[str, Any]:
        """What a resumed run must agree on."""
        from virtex.checkpoints.opening import sha256_of
        from virtex.config import leaves

        return {
            **{f"setting {k}": v for k, v in leaves(self.config) if k not in FREE_KEYS},
            "seed": self.seed,
            "tokenizer sha256": self.tokenizer and sha256_of(self.tokenizer.path),
            "training images": fingerprint(self.train),
            "validation images": fingerprint(self.val),
        }


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.prog = "python -m virtex.pretrain"
    parser.add_argument("--config", required=True, metavar="NAME_OR_YAML", help="what to train")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="holds coco/ and vocab/; stands for the leading datasets/ of paths in the config "
        "(default: datasets)",
    )
    parser.add_argument("--output-dir", default="output/pretraining", metavar="DIR")
    parser.add_argument(
        "--seed", type=non_negative, metavar="N", help="default: the config's RANDOM_SEED"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=positive,
        default=2000,
        metavar="N",
        help="iterations between checkpoints, each validated (default: 2000)",
    )
    parser.add_argument(
        "--keep", type=positive, default=2, metavar="N", help="newest checkpoints kept (default: 2)"
    )
    parser.add_argument("--log-every", type=positive, default=20, metavar="N", help="default: 20")
    parser.add_argument(
        "--num-workers",
        type=non_negative,
        default=4,
        metavar="N",
        help="processes that load images, for each GPU (default: 4)",
    )
    add_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.training import run_folder
    from virtex.training.processes import launch

    run_folder.claim(Path(args.output_dir), args.resume, args.overwrite)
    return launch(pretrain, args)


def pretrain(args: argparse.Namespace) -> None:
    """One process of the job: prepare, train, record.

    Raises:
        UserError: something the user must mend.
    """
    from virtex.training import run_folder
    from virtex.training.processes import rank, wait_for_all
    from virtex.training.progress import log_to

    log_to(logger)
    run, folder = prepare(args), Path(args.output_dir)
    if not args.overwrite:
        run_folder.check_same_run(folder, run.identity(), eval_only=False)
    if args.resume and is_finished(run, folder):
        logger.info("this run is finished: %s", folder / RECORD)
        return
    loop, batches = build_training(run, folder, args)
    wait_for_all()  # the others may still be looking at what the folder holds
    if rank() == 0:
        open_folder(run, folder, args.overwrite)
    wait_for_all()
    log_to(logger, folder)
    train(run, folder, args, loop, batches)


def prepare(args: argparse.Namespace) -> Run:
    """Read and check everything the run needs. Writes nothing.

    Raises:
        UserError: the first thing that the user must mend.
    """
    import torch

    from virtex.config import load_config
    from virtex.data.layouts import require_layout
    from virtex.data.pretraining import build_pretraining_set
    from virtex.data.tokenizer import Tokenizer
    from virtex.errors import UserError
    from virtex.training.processes import device_of

    config = place_data(load_config(args.config, args.overrides), args.data_root, args.overrides)
    root = Path(config.DATA.ROOT)
    if root.name != "coco":
        raise UserError(f"DATA.ROOT {root} must be a folder named coco; or give --data-root")
    from_boxes = config.MODEL.NAME == "multilabel_classification"
    require_layout(root.parent, "multilabel_pretraining" if from_boxes else "pretraining")
    tokenizer = None if from_boxes else Tokenizer(config.DATA.TOKENIZER_MODEL)
    seed = config.RANDOM_SEED if args.seed is None else args.seed
    train, val = (
        build_pretraining_set(config, split, tokenizer, seed) for split in ("train", "val")
    )
    return Run(config, seed, torch.device(device_of(args)), tokenizer, train, val)


def place_data(config: "CfgNode", data_root: str | None, overrides: list[str]) -> "CfgNode":
    """Let ``data_root`` stand for the leading ``datasets/`` of the config's own paths."""
    if data_root is None:
        return config
    config = config.clone()
    config.defrost()
    for key in ("ROOT", "TOKENIZER_MODEL"):
        path = Path(config.DATA[key])
        if f"DATA.{key}" not in overrides and path.parts[:1] == ("datasets",):
            config.DATA[key] = str(Path(data_root, *path.parts[1:]))
    config.freeze()
    return config


def fingerprint(data: "PretrainingSet") -> dict[str, Any]:
    """The number of images, and a hash of what they are paired with."""
    digest = hashlib.sha256()
    for item in data.items:
        digest.update(repr((item.image_id, item.file.name, item.target)).encode())
    return {"images": len(data), "sha256": digest.hexdigest()}


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run in ``folder`` has been recorded with as many iterations as asked for."""
    from virtex.data.layouts import read_json

    record = folder / RECORD
    done = read_json(record, "a pretraining record")["iterations"] if record.is_file() else 0
    return done >= run.config.OPTIM.NUM_ITERATIONS


def open_folder(run: Run, folder: Path, overwrite: bool) -> None:
    """From here on the run writes: what it was started with, config, tokenizer.

    Raises:
        UserError: the folder cannot be written.
    """
    from virtex.atomic import replace_file
    from virtex.config import save_config
    from virtex.errors import UserError
    from virtex.training import run_folder

    identity = run.identity()
    # read before the folder is cleared: it may be the one that lies there
    vocabulary = run.tokenizer and run.tokenizer.path.read_bytes()
    if overwrite:
        run_folder.clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / run_folder.IDENTITY).exists():
            run_folder.write_identity(folder, identity)
        save_config(run.config, folder / CONFIG)
        if vocabulary:
            replace_file(folder / TOKENIZER, lambda file: file.write(vocabulary))
    except OSError as error:
        raise UserError(f"--output-dir {folder} cannot be written: {error}") from error


def build_training(
    run: Run, folder: Path, args: argparse.Namespace
) -> "tuple[TrainingLoop, Iterator[Batch]]":
    """The loop, with ``--resume`` at the newest checkpoint, and its batches. Writes nothing.

    Raises:
        UserError: there is no such backbone, nothing is left to train, the checkpoint does not
            fit, or the processes cannot share a batch.
    """
    import torch

    from virtex.data.pretraining import training_loader
    from virtex.models.build import build_model
    from virtex.optim import Lookahead, build_optimizer, build_schedule
    from virtex.training.loop import LoopSettings, TrainingLoop
    from virtex.training.processes import rank, world_size
    from virtex.training.randomness import seed_everything

    config, optim = run.config, run.config.OPTIM
    torch.backends.cudnn.benchmark = config.CUDNN_BENCHMARK
    torch.backends.cudnn.deterministic = config.CUDNN_DETERMINISTIC
    seed_everything("weights", run.seed)
    model = build_model(config).to(run.device)
    optimizer = build_optimizer(config, model)
    more_state = {}
    if optim.LOOKAHEAD.USE:
        more_state["lookahead"] = Lookahead(
            optimizer, k=optim.LOOKAHEAD.STEPS, alpha=optim.LOOKAHEAD.ALPHA
        )
    loop = TrainingLoop(
        model,
        optimizer,
        build_schedule(config, optimizer),
        LoopSettings(
            iterations=optim.NUM_ITERATIONS,
            batch_size=optim.BATCH_SIZE,
            seed=run.seed,
            clip_norm=optim.CLIP_GRAD_NORM,
            amp_dtype=amp_dtype(config, run.device),
            checkpoint_every=args.checkpoint_every,
            log_every=args.log_every,
            keep=args.keep,
        ),
        folder,
        more_state,
        partial(validate, run, model, args.num_workers),
    )
    if args.resume:
        loop.resume()
    batches = training_loader(
        run.train,
        optim.BATCH_SIZE,
        loop.done,
        run.seed,
        rank(),
        world_size(),
        args.num_workers,
    )
    return loop, batches


def train(
    run: Run,
    folder: Path,
    args: argparse.Namespace,
    loop: "TrainingLoop",
    batches: "Iterator[Batch]",
) -> None:
    """Train to the end and record it."""
    from virtex.training.processes import rank, world_size

    if args.resume:
        logger.info("starting after iteration %d", loop.done)
    logger.info(
        "%s: %d images in training, %d in validation, %d process(es), %.1f M parameters",
        run.config.MODEL.NAME,
        len(run.train),
        len(run.val),
        world_size(),
        sum(p.numel() for p in loop.model.parameters()) / 1e6,
    )
    metrics = loop.run(batches)
    if rank() == 0:
        write_record(run, folder, args.config, loop.stopwatch.seconds(), metrics)


def amp_dtype(config: "CfgNode", device: "torch.device") -> "torch.dtype | None":
    """What to compute in on a GPU: bfloat16 where it has it, else float16; None on the CPU."""
    import torch

    if not config.AMP or device.type != "cuda":
        return None
    if config.AMP_DTYPE == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return getattr(torch, config.AMP_DTYPE)


def validate(run: Run, model, num_workers: int, iteration: int, writer) -> dict[str, float]:
    """Losses over every validation image exactly once, and a few predictions.

    Returns:
        ``val/loss``, ``val/<name>``: means over the tokens (or images) of all processes.
    """
    import torch

    from virtex.data.pretraining import validation_loader
    from virtex.training.loop import RunningSums, to_device
    from virtex.training.processes import rank, world_size

    sums, shown = RunningSums(run.device), None
    batches = validation_loader(
        run.val, run.config.OPTIM.BATCH_SIZE, rank(), world_size(), num_workers
    )
    with torch.inference_mode():
        for batch in batches:
            batch = to_device(batch, run.device)
            sums.add(model(batch))
            if shown is None:
                shown = {key: value[:SAMPLES] for key, value in batch.items()}
        means = sums.means()
    metrics = {"val/loss": sum(means.values())} | {f"val/{k}": v for k, v in means.items()}
    logger.info(
        "iteration %d  validation: %s",
        iteration,
        "  ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in metrics.items()),
    )
    if writer is not None:
        show_samples(run, model, shown, iteration, writer)
    return metrics


def show_samples(run: Run, model, batch, iteration: int, writer) -> None:
    """Truth and prediction for some images, to the log and to tensorboard."""
    import torch

    with torch.inference_mode():
        pairs = model.samples(batch)
    lines = [
        f"image {int(image)}: {words(run, truth)}  ->  {words(run, guess)}"
        for image, (truth, guess) in zip(batch["image_id"], pairs, strict=True)
    ]
    for line in lines:
        logger.info("%s", line)
    writer.text(iteration, "samples", "  \n".join(lines))


def words(run: Run, ids: list[int]) -> str:
    """Tokens as text; categories by their numbers' names."""
    task = run.config.MODEL.NAME
    if task == "multilabel_classification":
        return ", ".join(run.val.label_names[i] for i in ids if i < len(run.val.label_names))
    if task in ("token_classification", "masked_lm"):
        return " ".join(run.tokenizer.piece(i) for i in ids)
    return run.tokenizer.decode(ids)


def write_record(
    run: Run, folder: Path, config_name: str, seconds: float, metrics: dict[str, float]
) -> None:
    """``pretraining.json``: what was trained, on what, and how well."""
    from virtex.results import environment, write_json
    from virtex.training.processes import world_size

    images = run.config.OPTIM.NUM_ITERATIONS * run.config.OPTIM.BATCH_SIZE
    write_json(
        folder / RECORD,
        {
            "config": config_name,
            "task": run.config.MODEL.NAME,
            "iterations": run.config.OPTIM.NUM_ITERATIONS,
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
        },
    )
    logger.info("checkpoint: %s", folder / "model_final.pth")
    logger.info("record:     %s", folder / RECORD)


if __name__ == "__main__":
    run_tool(main, build_parser())
