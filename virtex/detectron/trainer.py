"""Training with Detectron2's loop, optimizer, schedule and hooks, with exact resumption."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
)
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from virtex.detectron import federated, heads  # noqa: F401 (register the heads of configs)
from virtex.detectron.checkpointing import SaveCheckpoints
from virtex.detectron.ema import MovingAverage
from virtex.detectron.loading import training_batches
from virtex.detectron.optimizer import build_lr_scheduler, build_optimizer
from virtex.detectron.training_step import (
    LossNormalizer,
    TrainingStep,
    autocast_dtype,
    keep_float32,
    run_eagerly,
)
from virtex.engine.checkpoints import Checkpoints
from virtex.engine.distributed import broadcast_object, distribute, reduce_any
from virtex.engine.progress import (
    METRICS,
    Pace,
    Stopwatch,
    duration,
    lines_at,
    record_events,
    truncate_metrics,
)
from virtex.engine.signals import SigtermReceived, defer_sigterm, raise_on_sigterm
from virtex.errors import UserError, set_error_path
from virtex.files import record_file

logger = logging.getLogger(__name__)

WRITE_PERIOD = 20  # iterations, as in Detectron2
ESTIMATE_AFTER = 20  # iterations after the start or the resumption of training
Metrics = dict[str, float]


def build_detector(cfg: CfgNode) -> nn.Module:
    """Build the detector of ``cfg`` on its device, randomly initialized.

    Raises:
        UserError: Detectron2 rejects the config.
    """
    if cfg.MODEL.NETWORK.ARCH:  # they register themselves
        from virtex.detectron import last_map, pyramid, vit  # noqa: F401
    try:
        return build_model(cfg)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"Detectron2 cannot build a detector from this config: {error}", code="config.model"
        ) from error


def check_solver(cfg: CfgNode, model: nn.Module, layer_ids: Mapping[str, int]) -> None:
    """Raise ``UserError`` if Detectron2 rejects the optimizer or the schedule."""
    try:
        build_lr_scheduler(cfg, build_optimizer(cfg, model, layer_ids))
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"Detectron2 cannot build the optimizer or schedule of SOLVER: {error}",
            code="config.solver",
        ) from error


class Trainer(TrainerBase):
    """Detectron2's training loop for one config.

    Attributes:
        model: the detector being trained, in DistributedDataParallel with several processes.
        detector: the detector to evaluate: the one being trained or, with ``MODEL_EMA``, a copy
            with the moving average of its weights.
        checkpoints: saves and restores the training state.
        start_iter, max_iter: range of the iterations.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        samples: list[dict[str, Any]],
        skip_bad_images: bool = False,
        evaluate: Callable[[], Metrics] | None = None,
        extra: dict[str, Any] | None = None,
        layer_ids: Mapping[str, int] | None = None,
    ):
        """
        Args:
            model: a detector with the backbone's weights loaded.
            samples: Detectron2 dicts of the training images.
            evaluate: called every ``TEST.EVAL_PERIOD`` iterations, if that is not 0.
            extra: plain values to store in every checkpoint.
            layer_ids: of ``ConvertedBackbone``, for layer-wise learning rate decay.
        """
        super().__init__()
        self.cfg, self.samples, self.skip_bad_images = cfg, samples, skip_bad_images
        self.dtype = autocast_dtype(cfg)
        if self.dtype == torch.bfloat16:
            keep_float32(model)
        average = MovingAverage(model, cfg.MODEL_EMA.DECAY) if cfg.MODEL_EMA.ENABLED else None
        if cfg.MODEL.BACKBONE.COMPILE:
            model.get_submodule("backbone").compile()  # in place: tensor names do not change
        self.model = distribute(model.train(), broadcast_buffers=False)
        self.detector = average.model if average else model
        self.optimizer = build_optimizer(cfg, model, layer_ids or {})
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.max_iter = cfg.SOLVER.MAX_ITER
        # gradients underflow in float16 only
        is_scaled = self.dtype == torch.float16
        self.grad_scaler = torch.amp.GradScaler(cfg.MODEL.DEVICE, enabled=is_scaled)
        is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
        self.normalizer = LossNormalizer(model) if is_retinanet else None
        self.stopwatch = Stopwatch()
        state = {
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "stopwatch": self.stopwatch,
            **({"grad_scaler": self.grad_scaler} if is_scaled else {}),
            **({"loss_normalizer": self.normalizer} if self.normalizer else {}),
            # "model" is the average, which evaluation and other tools load
            **({"trained_model": model} if average else {}),
        }
        folder = Path(cfg.OUTPUT_DIR)
        self.checkpoints = Checkpoints(folder, self.detector, state)
        self.start_iter = 0
        self.register_hooks(
            [
                hooks.IterationTimer(),
                EstimateTime(),
                hooks.LRScheduler(self.optimizer, self.scheduler),
                average,
                PreciseBatchNorm(),
                # before the checkpoint, because a resumed run does not write earlier lines again
                WriteMetrics(folder) if comm.is_main_process() else None,
                SaveCheckpoints(self.checkpoints, cfg.SOLVER.CHECKPOINT_PERIOD, extra or {}),
                EvaluatePeriodically(evaluate, folder) if evaluate else None,
            ]
        )

    def build_writers(self) -> list[Any]:
        """Write ETA and losses to the log, all metrics to metrics.json and TensorBoard."""
        folder = self.cfg.OUTPUT_DIR
        return [CommonMetricPrinter(self.max_iter), *metric_writers(Path(folder))]

    def resume(self) -> int:
        """Load the latest checkpoint, if there is one. Return the number of iterations done."""
        content = self.checkpoints.resume(self.max_iter, zero_based=True)
        self.start_iter = content["iteration"] + 1 if content else 0
        if len(set(comm.all_gather(self.start_iter))) > 1:
            raise UserError(
                "--output-dir must be on a filesystem shared by all machines: they found different "
                "checkpoints",
                code="run.output_dir_not_shared",
            )
        if comm.is_main_process():
            truncate_metrics(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter)
        return self.start_iter

    def train(self) -> None:
        """Train from ``start_iter`` to ``max_iter``.

        Raises:
            UserError: an image cannot be read, or the loss is not finite.
            SigtermReceived: on SIGTERM, after the current iteration has been saved.
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

    def build_stepper(self) -> TrainingStep:
        """Build the training step on the stream from ``start_iter`` on."""
        batches = training_batches(self.cfg, self.samples, self.start_iter, self.skip_bad_images)
        return TrainingStep(
            self.model,
            batches,
            self.optimizer,
            self.cfg.SOLVER.ACCUMULATE,
            self.dtype,
            self.grad_scaler,
        )

    def run_step(self) -> None:
        self.stepper.iter = self.iter
        try:
            self.stepper.run_step()
        except FloatingPointError as error:
            raise UserError(
                f"the loss is not finite at iteration {self.iter}; restart with --overwrite and a "
                "lower SOLVER.BASE_LR or more SOLVER.WARMUP_ITERS",
                code="detection.loss_not_finite",
            ) from error


class EstimateTime(HookBase):
    """Logs speed and remaining time once, measured over iterations 11 to 20 of the process."""

    def after_step(self) -> None:
        trainer, done = self.trainer, self.trainer.iter + 1
        if done - trainer.start_iter == ESTIMATE_AFTER // 2:  # the first ones are slower
            self.pace = Pace(done, trainer.max_iter)
        elif done - trainer.start_iter == ESTIMATE_AFTER:
            measured = self.pace.measure(done)
            logger.info(
                "%.3g iterations/s, %.3g images/s; eta %s, without evaluations",
                1 / measured["seconds"],
                trainer.cfg.SOLVER.IMS_PER_BATCH / measured["seconds"],
                duration(measured["eta"]),
            )


class PreciseBatchNorm(HookBase):
    """Recompute BatchNorm statistics as true averages before evaluations and at the end.

    Detectron2's hook keeps one data stream open across evaluations, which a resumed run cannot
    reproduce. This hook starts the same separate stream each time.
    """

    def after_step(self) -> None:
        cfg, done = self.trainer.cfg, self.trainer.iter + 1
        period = cfg.TEST.EVAL_PERIOD
        due = done == self.trainer.max_iter or (period > 0 and done % period == 0)
        detector = self.trainer.detector
        if not due or not cfg.TEST.PRECISE_BN.ENABLED or not get_bn_modules(detector):
            return
        logger.info("PreciseBN: %d iterations", cfg.TEST.PRECISE_BN.NUM_ITER)
        batches = training_batches(
            cfg, self.trainer.samples, skip_bad_images=self.trainer.skip_bad_images, stream=1
        )
        normalizer = self.trainer.normalizer
        before = normalizer.state_dict() if normalizer else {}
        with EventStorage(), run_eagerly(detector):  # discards what the model logs
            count = cfg.TEST.PRECISE_BN.NUM_ITER * cfg.SOLVER.ACCUMULATE
            update_bn_stats(detector, batches, count)
        if normalizer:
            normalizer.load_state_dict(before)


class EvaluatePeriodically(HookBase):
    """Evaluates every ``TEST.EVAL_PERIOD`` iterations, except after the last one."""

    def __init__(self, evaluate: Callable[[], Metrics], folder: Path):
        self.evaluate, self.folder = evaluate, folder

    def before_train(self) -> None:
        done = self.trainer.start_iter
        # the run may have been stopped between saving a checkpoint and evaluating it
        if done and self.is_due(done) and not self.is_scored(done):
            self.score(done)

    def after_step(self) -> None:
        if self.is_due(self.trainer.iter + 1):
            if reduce_any(self.trainer.sigterm.received):  # SIGTERM while the checkpoint was saved
                raise SigtermReceived
            self.score(self.trainer.iter + 1)

    def is_due(self, done: int) -> bool:
        period = self.trainer.cfg.TEST.EVAL_PERIOD
        return period > 0 and done % period == 0 and done != self.trainer.max_iter

    def is_scored(self, done: int) -> bool:
        # only the main process reads, because it is about to write the file
        lines = lines_at(self.folder / "metrics.json", done - 1) if comm.is_main_process() else []
        return broadcast_object(any("total_loss" not in metrics for metrics in lines))

    def score(self, done: int) -> None:
        with raise_on_sigterm():
            metrics = self.evaluate()
        if comm.is_main_process():
            write_scores(self.folder, done - 1, metrics)
        self.trainer.detector.train()


class WriteMetrics(HookBase):
    """Writes metrics every ``WRITE_PERIOD`` iterations and after the last one.

    Detectron2's hook writes the last iteration twice, and its printer fails in a run of one
    iteration.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers: list[Any] = []

    def before_train(self) -> None:
        # not in __init__: resume() replaces metrics.json
        with set_error_path(self.folder):
            self.writers = self.trainer.build_writers()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % WRITE_PERIOD == 0 or done == self.trainer.max_iter:
            with set_error_path(self.folder):
                for writer in self.writers:
                    writer.write()

    def after_train(self) -> None:
        for writer in self.writers:
            with suppress(OSError):  # reported already by write()
                writer.close()


def metric_writers(folder: Path) -> list[Any]:
    """Return writers of metrics.json and TensorBoard; their files are added to the manifest."""
    record_file(folder / METRICS)
    board = TensorboardXWriter(str(folder))
    board._writer  # noqa: B018 (created on first access, and with it the file)
    record_events(folder)
    return [JSONWriter(str(folder / METRICS)), board]


def write_scores(folder: Path, iterations: int, metrics: Metrics) -> None:
    """Append finite scores to metrics.json, as a separate line, and to TensorBoard."""
    finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
    with EventStorage(iterations) as storage, set_error_path(folder):
        storage.put_scalars(**finite, smoothing_hint=False)
        for writer in metric_writers(folder):
            writer.write()
            writer.close()
