#!/usr/bin/env python3
"""Compare the speed of detection training with Detectron2's own trainer, in iterations per second.

Both train the same detector with the same config and data in one process, alternately. The
reference is what Detectron2's ``DefaultTrainer`` runs: its loader, ``SimpleTrainer`` or
``AMPTrainer``, and its timing, scheduling and logging hooks. Checkpoints and PreciseBN are excluded
from both. ``--images N`` first generates a COCO dataset of N images of realistic size.

examples:
  # a toy COCO on the CPU
  python benchmarks/transfer_overhead.py --num-gpus 0
  # the sizes of the full protocol on one GPU
  python benchmarks/transfer_overhead.py --protocol 2x --images 200 \\
      --checkpoint 'random:resnet50?seed=0' SOLVER.IMS_PER_BATCH 16 DATALOADER.NUM_WORKERS 16
  # existing data
  python benchmarks/transfer_overhead.py --task voc --data-root datasets/toy
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure

BESIDE = "Detectron2's own trainer and loader"


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    parser.add_argument("--checkpoint", default="random:resnet18?seed=0")
    parser.add_argument("--task", choices=("coco", "lvis", "voc"), default="coco")
    parser.add_argument("--protocol", default="toy")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data-root", help="default: a toy COCO that is drawn for this")
    data.add_argument("--images", type=int, metavar="N", help="draw a COCO of real size")
    parser.add_argument("--iterations", type=int, default=40, help="timed each time (default: 40)")
    parser.add_argument("--warm-up", type=int, default=10, help="iterations before (default: 10)")
    parser.add_argument("--num-gpus", type=int, choices=(0, 1), help="default: 1 if available")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = measure.parse(build_parser(), argv, iterations=2, warm_up=1)
    if lack := measure.not_installed("detectron2"):
        rows = [measure.show(measure.Row("detection", "iterations/s", beside=BESIDE, note=lack))]
    else:
        with tempfile.TemporaryDirectory() as name:
            rows = [compare(args, Path(name))]
    measure.write_rows(rows, args)


def compare(args: argparse.Namespace, folder: Path) -> measure.Row:
    """Time both trainers with a config; return the row."""
    run = prepare_run(args, folder)
    start = {key: value.clone() for key, value in run.detector.state_dict().items()}

    def rate(trainer_of: Any) -> float:
        """Return iterations per second of a new trainer with the initial weights."""
        run.detector.load_state_dict(start)
        trainer, laps = trainer_of(run), Laps(args.warm_up, run.cfg.MODEL.DEVICE)
        trainer.register_hooks([laps.hook()])
        trainer._hooks.insert(0, trainer._hooks.pop())  # before writers are closed
        with quiet():
            trainer.train()
        return args.iterations / laps.seconds()

    solver, sizes = run.cfg.SOLVER, run.cfg.INPUT.MIN_SIZE_TRAIN
    name = (
        f"detection, {args.task} {args.protocol}, {args.checkpoint}, {solver.IMS_PER_BATCH} "
        f"images a step, short side {min(sizes)}-{max(sizes)}, {run.cfg.DATALOADER.NUM_WORKERS} "
        f"workers, {'AMP' if solver.AMP.ENABLED else 'float32'}, {run.cfg.MODEL.DEVICE}"
    )
    return measure.compare(
        name,
        lambda: rate(our_trainer),
        lambda: rate(plain_trainer),
        BESIDE,
        args,
        "iterations/s",
        higher_is_better=True,
        warm_up=False,
    )


def prepare_run(args: argparse.Namespace, folder: Path) -> Any:
    """Plan the transfer that the tool would run, with the timed number of iterations."""
    from virtex.checkpoints.loading import load_backbone
    from virtex.detectron.transfer import DetectorEvaluator
    from virtex.tasks import packaged_protocol

    if args.images:
        from benchmarks.images import write_coco

        write_coco(folder / "data", args.images)
    elif not args.data_root:
        from virtex.data.toy import write_toy_data

        write_toy_data(folder / "data", 0, 40, 20, coco_train_images=200)
    length = args.warm_up + args.iterations
    args.overrides = [*args.overrides, "SOLVER.MAX_ITER", str(length), "SOLVER.STEPS", "()"]
    args.data_root = args.data_root or str(folder / "data")
    args.config, args.format, args.trust_pickle = None, "auto", False
    args.skip_bad_images, args.val_json = False, None
    args.seed, args.output_dir, args.eval_only = 0, str(folder), False
    protocol = packaged_protocol(args.task, args.protocol)
    return DetectorEvaluator(args, protocol, load_backbone(args.checkpoint))


def our_trainer(run: Any) -> Any:
    """Build the toolkit's trainer without checkpoints and PreciseBN."""
    from virtex.detectron.checkpointing import SaveCheckpoints
    from virtex.detectron.trainer import PreciseBatchNorm, Trainer

    trainer = Trainer(run.cfg, run.detector, run.train)
    trainer._hooks = [
        hook for hook in trainer._hooks if not isinstance(hook, SaveCheckpoints | PreciseBatchNorm)
    ]
    return trainer


def plain_trainer(run: Any) -> Any:
    """Build Detectron2's trainer as ``DefaultTrainer`` does."""
    import torch
    from detectron2.data import build_detection_train_loader
    from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
    from detectron2.solver import build_lr_scheduler, build_optimizer

    cfg, model = run.cfg, run.detector.train()
    optimizer = build_optimizer(cfg, model)
    parts = (model, build_detection_train_loader(cfg), optimizer)
    if cfg.SOLVER.AMP.ENABLED:
        trainer = AMPTrainer(*parts, grad_scaler=torch.amp.GradScaler("cuda"))
    else:
        trainer = SimpleTrainer(*parts)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            hooks.PeriodicWriter(default_writers(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER), period=20),
        ]
    )
    train = trainer.train
    trainer.train = lambda: train(0, cfg.SOLVER.MAX_ITER)
    return trainer


class Laps:
    """A hook that records when the warm-up and the training end."""

    def __init__(self, warm_up: int, device: str):
        self.warm_up, self.device, self.times = warm_up, device, []

    def hook(self) -> Any:
        """Called by Detectron2's trainers."""
        from detectron2.engine.hooks import CallbackHook

        return CallbackHook(before_step=self.before_step, after_train=lambda _: self.note())

    def before_step(self, trainer: Any) -> None:
        if trainer.iter == self.warm_up:
            self.note()

    def note(self) -> None:
        measure.synchronize(self.device)
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        return self.times[1] - self.times[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log of both."""
    import logging

    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
