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

  # every setting, and the packaged configs
  python -m virtex.pretrain --config bicaptioning_R_50_L1_H2048 --print-config
  python -m virtex.pretrain --list-configs

  # two machines of 8 GPUs, started on each; or torchrun
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 -m virtex.pretrain ...

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py toy --coco-train-images 2000
  python -m virtex.data.tokenizer --captions toy/coco/annotations/captions_train2017.json \\
      --vocab-size 200 --output toy/vocab/toy.model
  python -m virtex.pretrain --config toy/bicaptioning_R_18_L1_H256 --data-root toy \\
      --output-dir output/toy_pretraining --num-gpus 0

  # smaller still: a first look in a minute
  ... DATA.IMAGE_CROP_SIZE 64 OPTIM.BATCH_SIZE 8 OPTIM.NUM_ITERATIONS 60 OPTIM.WARMUP_STEPS 10

  # go on where it stopped
  ... --resume

OUTPUT_DIR then holds model_final.pth (a checkpoint every tool here takes), pretrain_config.yaml
and tokenizer.model beside it, pretraining.json (last losses, deviations from the config, data,
environment), log.txt, metrics.json (a JSON object a line), tensorboard events, and what --resume
needs: run.json, last_checkpoint, the newest model_<iteration>.pth.

Exit status: 0 done; 2 something to fix, said in one sentence; 130 interrupted by Ctrl-C;
75 stopped by SIGTERM (training saves first): the same command with --resume goes on.
"""

import argparse
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.cli import (
    add_num_workers,
    add_training_arguments,
    non_negative_int,
    positive_int,
    run_tool,
    tool_parser,
)
from virtex.errors import UserError

if TYPE_CHECKING:
    from virtex.data.loading import Batch
    from virtex.engine.loop import TrainingLoop
    from virtex.engine.progress import MetricsWriter
    from virtex.pretraining.models.build import PretrainingModel
    from virtex.pretraining.run import Run

logger = logging.getLogger("virtex.pretrain")  # __name__ is another when it is run as a tool

SAMPLES = 8  # predictions shown at each validation


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--config", metavar="NAME_OR_YAML", help="what to train")
    parser.add_argument("--list-configs", action="store_true", help="names of the packaged ones")
    parser.add_argument("--print-config", action="store_true", help="all settings, as they are run")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="holds coco/ and vocab/; stands for the leading datasets/ of the paths in the config "
        "file (default: datasets)",
    )
    parser.add_argument(
        "--output-dir",
        default="output/pretraining",
        metavar="DIR",
        help="default: output/pretraining",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, metavar="N", help="default: the config's RANDOM_SEED"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=2000,
        metavar="N",
        help="iterations between checkpoints, each validated (default: 2000)",
    )
    parser.add_argument(
        "--keep",
        type=positive_int,
        default=2,
        metavar="N",
        help="newest checkpoints kept (default: 2)",
    )
    parser.add_argument(
        "--log-every", type=positive_int, default=20, metavar="N", help="default: 20"
    )
    add_num_workers(parser)
    add_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.config import load_config, packaged_configs

    if args.list_configs:
        print("\n".join(packaged_configs()))
        return 0
    if not args.config:
        build_parser().error("--config is missing; --list-configs names the packaged ones")
    config = load_config(args.config, args.overrides)  # a mistyped key is told before torch is here
    if args.print_config:
        print(config.dump(), end="")
        return 0

    from virtex import run_folder
    from virtex.engine.distributed import is_main, launch

    with run_folder.claim_folder(
        Path(args.output_dir), args.resume, args.overwrite, is_main=is_main(args)
    ):
        return launch(pretrain, args)


def pretrain(args: argparse.Namespace) -> None:
    """One process of the job: prepare, train, record.

    Raises:
        UserError: something the user must fix.
    """
    from virtex import run_folder
    from virtex.engine.distributed import rank, synchronize
    from virtex.engine.progress import log_to
    from virtex.pretraining.run import RECORD, is_finished, open_folder, prepare

    log_to(logging.getLogger("virtex"))
    run, folder = prepare(args), Path(args.output_dir)
    if not args.overwrite:
        run_folder.check_same_run(folder, run.identity())
    if args.resume and is_finished(run, folder):
        logger.info("this run is finished: %s", folder / RECORD)
        return
    loop, batches = build_training(run, folder, args)
    synchronize()  # the others may still be looking at what the folder holds
    if rank() == 0:
        open_folder(run, folder, args.overwrite, loop.done)
    synchronize()
    if not folder.is_dir():
        raise UserError(f"the machines do not see the same {folder}; share --output-dir")
    log_to(logging.getLogger("virtex"), folder)
    train(run, folder, args, loop, batches)


def build_training(
    run: "Run", folder: Path, args: argparse.Namespace
) -> "tuple[TrainingLoop, Iterator[Batch]]":
    """The loop, with ``--resume`` at the newest checkpoint, and its batches. Writes nothing.

    Raises:
        UserError: there is no such backbone, nothing is left to train, the checkpoint does not
            fit, or the processes cannot share a batch.
    """
    import torch

    from virtex.data.loading import training_loader
    from virtex.engine.distributed import rank, world_size
    from virtex.engine.loop import LoopSettings, TrainingLoop, amp_dtype
    from virtex.engine.randomness import seed_everything
    from virtex.optim import Lookahead, build_optimizer, build_schedule
    from virtex.pretraining.models.build import build_model

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
    run: "Run",
    folder: Path,
    args: argparse.Namespace,
    loop: "TrainingLoop",
    batches: "Iterator[Batch]",
) -> None:
    """Train to the end and record it."""
    from virtex.engine.distributed import rank, world_size
    from virtex.pretraining.run import write_record

    if args.resume and loop.done:
        logger.info("resuming after iteration %d", loop.done)
    elif args.resume:
        logger.info("%s contains no checkpoint; starting from iteration 0", folder)
    for change in run.changes:
        logger.warning("from iteration %(iteration)d on, %(setting)s is %(now)s", change)
    logger.info(
        "%s into %s: %d images in training, %d in validation, %d process(es), %.1f M parameters",
        run.config.MODEL.NAME,
        folder,
        len(run.train),
        len(run.val),
        world_size(),
        sum(p.numel() for p in loop.model.parameters()) / 1e6,
    )
    metrics = loop.run(batches)
    if rank() == 0:
        write_record(run, folder, loop.stopwatch.seconds(), metrics)


def validate(
    run: "Run",
    model: "PretrainingModel",
    num_workers: int,
    iteration: int,
    writer: "MetricsWriter | None",
) -> dict[str, float]:
    """Losses over every validation image exactly once, and a few predictions.

    Returns:
        ``val/loss``, ``val/<name>``: means over the tokens (or images) of all processes.
    """
    import torch

    from virtex.data.loading import validation_loader
    from virtex.engine.distributed import rank, world_size
    from virtex.engine.loop import RunningSums, to_device

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
    if writer is not None and shown is not None:
        show_samples(run, model, shown, iteration, writer)
    return metrics


def show_samples(
    run: "Run", model: "PretrainingModel", batch: "Batch", iteration: int, writer: "MetricsWriter"
) -> None:
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


def words(run: "Run", ids: list[int]) -> str:
    """Tokens as text; categories by their numbers' names."""
    task = run.config.MODEL.NAME
    if task == "multilabel_classification":
        return ", ".join(run.val.label_names[i] for i in ids if i < len(run.val.label_names))
    assert run.tokenizer is not None  # all other tasks read captions
    if task in ("token_classification", "masked_lm"):
        return " ".join(run.tokenizer.piece(i) for i in ids)
    return run.tokenizer.decode(ids)


if __name__ == "__main__":
    run_tool(main, build_parser())
