"""Training with Detectron2's own loop, optimizer, schedule and hooks; resumed exactly."""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
)
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from virtex.detectron.checkpointing import SaveCheckpoints
from virtex.detectron.loading import training_batches
from virtex.engine.checkpoints import Checkpoints, unwrap_model
from virtex.engine.distributed import broadcast_object, distribute, reduce_any
from virtex.engine.progress import Stopwatch, lines_at, truncate_metrics
from virtex.engine.signals import SigtermReceived, defer_sigterm, raise_on_sigterm
from virtex.errors import UserError, named

logger = logging.getLogger(__name__)

WRITE_PERIOD = 20  # iterations, as in Detectron2
Metrics = dict[str, float]


def build_detector(cfg: CfgNode) -> nn.Module:
    """The detector that ``cfg`` describes, on its device, randomly initialized.

    Raises:
        UserError: the config does not fit together.
    """
    try:
        model = build_model(cfg)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"Detectron2 cannot build this config: {error}") from error
    if not hasattr(model, "input_format"):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} is no detector that can be "
            "scored here; GeneralizedRCNN and RetinaNet are"
        )
    return model


def check_solver(cfg: CfgNode, model: nn.Module) -> None:
    """Raise UserError for an optimizer or schedule that cannot be built."""
    try:
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"Detectron2 cannot build SOLVER's schedule: {error}") from error


class Trainer(TrainerBase):
    """Detectron2's training loop on one config.

    Attributes:
        model: the detector (wrapped for several processes).
        checkpoints: what can be saved and resumed.
        start_iter, max_iter: the range of iterations to run.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        samples: list[dict[str, Any]],
        skip_bad_images: bool = False,
        evaluate: Callable[[], Metrics] | None = None,
        saved_with: dict[str, Any] | None = None,
    ):
        """
        Args:
            model: a detector whose backbone holds the checkpoint already.
            samples: Detectron2's dicts of the training images.
            evaluate: called every ``TEST.EVAL_PERIOD`` iterations, where that is set.
            saved_with: plain values to store in every checkpoint.
        """
        super().__init__()
        self.cfg, self.samples, self.skip_bad_images = cfg, samples, skip_bad_images
        self.model = distribute(model.train(), broadcast_buffers=False)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.max_iter = cfg.SOLVER.MAX_ITER
        # GradScaler() is what AMPTrainer would make; made here, a checkpoint can hold it
        self.grad_scaler = torch.amp.GradScaler("cuda") if cfg.SOLVER.AMP.ENABLED else None
        self.stopwatch = Stopwatch()
        state = {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "stopwatch": self.stopwatch,
        }
        if self.grad_scaler:
            state["grad_scaler"] = self.grad_scaler
        folder = Path(cfg.OUTPUT_DIR)
        self.checkpoints = Checkpoints(folder, self.model, state)
        self.start_iter = 0
        self.register_hooks(
            [
                hooks.IterationTimer(),
                hooks.LRScheduler(self.optimizer, self.scheduler),
                PreciseBatchNorm(),
                # before the checkpoint: a run that goes on from there writes no earlier line
                WriteMetrics(folder) if comm.is_main_process() else None,
                SaveCheckpoints(
                    self.checkpoints, cfg.SOLVER.CHECKPOINT_PERIOD, dict(saved_with or {})
                ),
                EvaluatePeriodically(evaluate, folder) if evaluate else None,
            ]
        )

    def writers(self) -> list[Any]:
        """ETA and losses to the log, everything to metrics.json and tensorboard."""
        folder = self.cfg.OUTPUT_DIR
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(str(Path(folder) / "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def resume(self) -> int:
        """Continue from the newest checkpoint, if there is one. Returns the iteration."""
        content = self.checkpoints.resume()
        self.start_iter = content["iteration"] + 1 if content else 0
        if len(set(comm.all_gather(self.start_iter))) > 1:
            raise UserError("the machines do not see the same checkpoints; share --output-dir")
        if comm.is_main_process():
            truncate_metrics(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter)
        return self.start_iter

    def train(self) -> None:
        """Run from ``start_iter`` to ``max_iter``.

        Raises:
            UserError: an image cannot be read, or the loss is not finite.
            SigtermReceived: after the checkpoint of the current iteration was written.
        """
        if self.start_iter >= self.max_iter:
            return
        self.stepper = self.build_stepper()
        with EventStorage(self.start_iter) as self.storage:
            self.stopwatch.start()
            self.before_train()
            try:
                with defer_sigterm() as self.sigterm:
                    for iteration in range(self.start_iter, self.max_iter):
                        self.iter = iteration
                        self.before_step()
                        self.run_step()
                        self.after_step()
            finally:
                self.after_train()
                self.stopwatch.stop()

    def build_stepper(self) -> SimpleTrainer:
        """Detectron2's forward, backward and step, from ``start_iter`` of the stream on."""
        batches = training_batches(self.cfg, self.samples, self.start_iter, self.skip_bad_images)
        if self.grad_scaler:
            return AMPTrainer(self.model, batches, self.optimizer, grad_scaler=self.grad_scaler)
        return SimpleTrainer(self.model, batches, self.optimizer)

    def run_step(self) -> None:
        self.stepper.iter = self.iter
        try:
            self.stepper.run_step()
        except FloatingPointError as error:
            raise UserError(
                f"the loss is not finite at iteration {self.iter}; start anew with --overwrite and "
                "a lower SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS"
            ) from error


class PreciseBatchNorm(HookBase):
    """Replace running statistics by true averages before each evaluation and at the end.

    Detectron2's hook keeps one data stream open across evaluations, which a resumed run
    cannot reproduce; this one opens the same stream of its own each time.
    """

    def after_step(self) -> None:
        cfg, done = self.trainer.cfg, self.trainer.iter + 1
        period = cfg.TEST.EVAL_PERIOD
        due = done == self.trainer.max_iter or (period > 0 and done % period == 0)
        if not due or not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(self.trainer.model):
            return
        logger.info("PreciseBN: %d iterations", cfg.TEST.PRECISE_BN.NUM_ITER)
        batches = training_batches(
            cfg, self.trainer.samples, skip_bad_images=self.trainer.skip_bad_images, stream=1
        )
        with EventStorage():  # what the model would log here is of no interest
            update_bn_stats(self.trainer.model, batches, cfg.TEST.PRECISE_BN.NUM_ITER)


class EvaluatePeriodically(HookBase):
    """Score every ``TEST.EVAL_PERIOD`` iterations; the last iteration is scored by the run."""

    def __init__(self, evaluate: Callable[[], Metrics], folder: Path):
        self.evaluate, self.folder = evaluate, folder

    def before_train(self) -> None:
        done = self.trainer.start_iter
        # a run that was ended after its checkpoint has not scored it
        if done and self.is_due(done) and not self.is_scored(done):
            self.score(done)

    def after_step(self) -> None:
        if self.is_due(self.trainer.iter + 1):
            if reduce_any(self.trainer.sigterm.received):  # while a checkpoint was written
                raise SigtermReceived
            self.score(self.trainer.iter + 1)

    def is_due(self, done: int) -> bool:
        period = self.trainer.cfg.TEST.EVAL_PERIOD
        return period > 0 and done % period == 0 and done != self.trainer.max_iter

    def is_scored(self, done: int) -> bool:
        # other processes may see what the main one is about to write
        here = lines_at(self.folder / "metrics.json", done - 1) if comm.is_main_process() else []
        return broadcast_object(any("total_loss" not in numbers for numbers in here))

    def score(self, done: int) -> None:
        with raise_on_sigterm():
            metrics = self.evaluate()
        if comm.is_main_process():
            write_scores(self.folder, done - 1, metrics)
        unwrap_model(self.trainer.model).train()


class WriteMetrics(HookBase):
    """Write every ``WRITE_PERIOD`` iterations and after the last one.

    Detectron2's hook writes the last iteration twice, which its printer cannot take in a run
    of one iteration.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers: list[Any] = []

    def before_train(self) -> None:
        # not before: a resumed run has put another metrics.json in the place of the old one
        with named(self.folder):
            self.writers = self.trainer.writers()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % WRITE_PERIOD == 0 or done == self.trainer.max_iter:
            with named(self.folder):
                for writer in self.writers:
                    writer.write()

    def after_train(self) -> None:
        for writer in self.writers:
            with suppress(OSError):  # what could not be written has been told before
                writer.close()


def write_scores(folder: Path, iterations: int, metrics: Metrics) -> None:
    """Put scores into metrics.json and tensorboard, as a line of their own."""
    numbers = {key: value for key, value in metrics.items() if math.isfinite(value)}
    with EventStorage(iterations) as storage, named(folder):
        storage.put_scalars(**numbers, smoothing_hint=False)
        for writer in (JSONWriter(str(folder / "metrics.json")), TensorboardXWriter(str(folder))):
            writer.write()
            writer.close()
