#!/usr/bin/env python3
"""Seconds per iteration of the transfer tool against Detectron2's own plain training loop.

    python benchmarks/transfer_overhead.py --data-root datasets/toy --num-gpus 0
    python benchmarks/transfer_overhead.py --task coco --protocol 2x --rounds 3 --iterations 50

Both train the same detector on the same config and data in one process; they take turns, and
the median over the rounds is compared. The plain loop is that of Detectron2's
``tools/plain_train_net.py``: its loader, forward, backward, step, schedule, loss written every
iteration and printed every 20.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from virtex.tool import run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--checkpoint", default="random:resnet18?seed=0")
    parser.add_argument("--task", choices=("coco", "lvis", "voc"), default="coco")
    parser.add_argument("--protocol", default="toy")
    parser.add_argument("--data-root", default="datasets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40, help="timed in a round")
    parser.add_argument("--warmup", type=int, default=5, help="iterations before, not timed")
    parser.add_argument("--num-gpus", type=int, choices=(0, 1), default=None)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    return parser


def prepare_run(args: argparse.Namespace, folder: Path):
    from virtex.detectron.run import prepare

    length = args.warmup + args.iterations
    args.overrides = [*args.overrides, "SOLVER.MAX_ITER", str(length), "SOLVER.STEPS", "()"]
    args.config, args.format, args.trust_pickle = None, "auto", False
    args.skip_bad_images = False
    args.seed, args.output_dir, args.eval_only = 0, str(folder), False
    return prepare(args)


class Laps:
    """A hook that notes the clock after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def seconds(self, warmup: int) -> float:
        return (self.times[-1] - self.times[warmup - 1]) / (len(self.times) - warmup)

    def lap(self) -> None:
        self.times.append(time.perf_counter())


def time_ours(run, warmup: int) -> float:
    """Seconds per iteration of the tool's trainer, checkpoints and PreciseBN left out."""
    from detectron2.engine.hooks import CallbackHook

    from virtex.detectron.checkpointing import SaveCheckpoints
    from virtex.detectron.trainer import PreciseBatchNorm, Trainer

    trainer, laps = Trainer(run.cfg, run.detector, run.train), Laps()
    trainer._hooks = [
        hook for hook in trainer._hooks if not isinstance(hook, SaveCheckpoints | PreciseBatchNorm)
    ]
    trainer.register_hooks([CallbackHook(after_step=lambda _: laps.lap())])
    trainer.train()
    return laps.seconds(warmup)


def time_plain(run, warmup: int) -> float:
    """Seconds per iteration of the plain loop."""
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.engine import default_writers
    from detectron2.solver import build_lr_scheduler, build_optimizer
    from detectron2.utils.events import EventStorage

    cfg, model, laps = run.cfg, run.detector.train(), Laps()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    loader = build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, True))
    writers = default_writers(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
    with EventStorage(0) as storage:
        for iteration, data in zip(range(cfg.SOLVER.MAX_ITER), loader, strict=False):
            storage.iter = iteration
            losses = model(data)
            total = sum(losses.values())
            storage.put_scalars(
                total_loss=total.item(), **{name: value.item() for name, value in losses.items()}
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            scheduler.step()
            if (iteration + 1) % 20 == 0:
                for writer in writers:
                    writer.write()
            laps.lap()
    return laps.seconds(warmup)


def main(args: argparse.Namespace) -> int:
    import tempfile

    import torch

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory() as name:
        run = prepare_run(args, Path(name))
        start = {key: value.clone() for key, value in run.detector.state_dict().items()}
        for turn in range(args.rounds):
            order = [("ours", time_ours), ("plain", time_plain)]
            for label, measure in order if turn % 2 == 0 else order[::-1]:
                run.detector.load_state_dict(start)
                times[label].append(measure(run, args.warmup))
    medians = {label: statistics.median(values) for label, values in times.items()}
    pairs = [a / b for a, b in zip(times["ours"], times["plain"], strict=True)]
    device = torch.cuda.get_device_name() if run.cfg.MODEL.DEVICE == "cuda" else "CPU"
    report = {
        "device": device,
        "seconds_per_iteration": {k: [round(t, 4) for t in v] for k, v in times.items()},
        "median": {label: round(value, 4) for label, value in medians.items()},
        "median_of_ratios_ours_to_plain": round(statistics.median(pairs), 4),
    }
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    run_tool(main, build_parser())
