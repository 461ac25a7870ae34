"""The training loop: any model that returns ``Losses``, resumed exactly.

One iteration: forward (in mixed precision where asked), the mean of each loss over what all
processes counted, backward, clipping, optimizer, schedule. Every ``checkpoint_every`` iterations
and after the last one: checkpoint, then validation.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from virtex.engine.checkpoints import FINAL, Checkpoints
from virtex.engine.distributed import (
    all_gather_object,
    broadcast_object,
    distribute,
    rank,
    reduce_any,
    share_buffers,
    sum_over_processes,
    synchronize,
    world_size,
)
from virtex.engine.progress import (
    METRICS,
    MetricsWriter,
    Pace,
    Stopwatch,
    duration,
    validation_at,
)
from virtex.engine.randomness import seed_everything
from virtex.engine.signals import Stopped, defer_sigterm
from virtex.errors import UserError
from virtex.pretraining.models.losses import Losses

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Metrics = dict[str, float]


@dataclass(frozen=True)
class LoopSettings:
    """How a training runs.

    Attributes:
        iterations: the last one.
        batch_size: images an iteration, of all processes.
        clip_norm: largest norm of the gradient; 0: not clipped.
        amp_dtype: what autocast computes in on a GPU; None: float32.
        keep: how many checkpoints stay on disk beside the final one.
        remedy: what to do about a loss that is not finite.
    """

    iterations: int
    batch_size: int
    seed: int = 0
    clip_norm: float = 0.0
    amp_dtype: torch.dtype | None = None
    checkpoint_every: int = 2000
    log_every: int = 20
    keep: int = 2
    remedy: str = (
        "lower the learning rate, then go on from the last checkpoint with --resume or anew with "
        "--overwrite"
    )


def amp_dtype(config: CfgNode, device: torch.device) -> torch.dtype | None:
    """What to compute in on a GPU: bfloat16 where it has it, else float16; None on the CPU.

    Args:
        config: has AMP (mixed precision or not) and AMP_DTYPE (auto, bfloat16 or float16).
    """
    if not config.AMP or device.type != "cuda":
        return None
    if config.AMP_DTYPE == "auto":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    return getattr(torch, config.AMP_DTYPE)


class TrainingLoop:
    """A model in training, in one process or several.

    Attributes:
        model: bare, on its device; the processes share its gradients.
        done: iterations done so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        settings: LoopSettings,
        folder: Path,
        more_state: dict[str, Any] | None = None,
        evaluate: Callable[[int, MetricsWriter | None], Metrics] | None = None,
        saved_with: dict[str, Any] | None = None,
    ):
        """
        Args:
            folder: exists; takes checkpoints, metrics.json and tensorboard events.
            more_state: name -> what else has ``state_dict``, as Lookahead.
            evaluate: called in every process with the iteration and (main process) the writer.
            saved_with: plain values for each checkpoint.
        """
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.settings, self.folder, self.evaluate = settings, folder, evaluate
        self.saved_with = saved_with or {}
        self.device = next(model.parameters()).device
        # only float16 can underflow
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.amp_dtype == torch.float16
        )
        self.stopwatch = Stopwatch()
        state = {
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": self.scaler,
            "stopwatch": self.stopwatch,
            **(more_state or {}),
        }
        self.checkpoints = Checkpoints(folder, model, state, settings.keep)
        self.done = 0

    def resume(self) -> int:
        """Continue from the newest checkpoint, if there is one. Returns the iterations done.

        Raises:
            UserError: it is beyond the last iteration, or of another model; or the processes do
                not see the same one.
        """
        self.done = self.checkpoints.resume().get("iteration", 0)
        if len(set(all_gather_object(self.done))) > 1:
            raise UserError("the machines do not see the same checkpoints; share --output-dir")
        if self.done > self.settings.iterations:
            raise UserError(
                f"the newest checkpoint in {self.folder} is that of iteration {self.done} already, "
                f"more than the {self.settings.iterations} asked for; ask for at least as many"
            )
        return self.done

    def run(self, batches: Iterator[Batch]) -> Metrics:
        """Train from ``done`` to the last iteration; ``batches`` begin after ``done``.

        Returns:
            the last validation's metrics.

        Raises:
            UserError: loss, gradient or validation is not finite, or the GPU's memory is too small.
            Stopped: SIGTERM came; there is a checkpoint of the iteration that was in work.
        """
        self.distributed = distribute(self.model.train())
        self.writer = MetricsWriter(self.folder, self.done) if rank() == 0 else None
        self.pace, self.sums = Pace(self.done, self.settings.iterations), RunningSums(self.device)
        self.stopwatch.start()
        metrics: Metrics = {}
        try:
            if self.done == self.settings.iterations:
                self.save()  # of no iterations at all; or the run may have been shortened to here
            if self.at_checkpoint() and (self.done or not self.settings.iterations):
                # a run that was ended after its checkpoint has not validated it
                metrics = self.last_validation() or self.validate()
            while self.done < self.settings.iterations:
                self.train_to_checkpoint(batches)
                metrics = self.validate()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory is too small for {self.settings.batch_size} images on "
                f"{world_size()} process(es); use more GPUs or lower OPTIM.BATCH_SIZE"
            ) from error
        finally:
            self.stopwatch.stop()
            if self.writer:
                self.writer.close()
        return metrics

    def at_checkpoint(self) -> bool:
        """Whether ``done`` is saved and validated in every run."""
        last = self.done == self.settings.iterations
        return last or self.done % self.settings.checkpoint_every == 0

    def last_validation(self) -> Metrics:
        """Of ``done``, by a run that got so far; empty if none did."""
        metrics = validation_at(self.folder / METRICS, self.done) if rank() == 0 else {}
        return broadcast_object(metrics)

    def train_to_checkpoint(self, batches: Iterator[Batch]) -> None:
        """Train until a checkpoint is due, also by SIGTERM, and save it."""
        settings = self.settings
        with defer_sigterm() as stop:
            due = False
            while not due:
                waiting = time.perf_counter()
                batch = to_device(next(batches), self.device)
                self.pace.waited += time.perf_counter() - waiting
                self.step(batch)
                stopped = reduce_any(stop.asked)
                due = stopped or self.at_checkpoint()
                # also at a checkpoint: a resumed run has no sums from before it
                if due or self.done % settings.log_every == 0:
                    self.log()
            self.save()
            if stopped:
                raise Stopped(f"saved at iteration {self.done}")

    def step(self, batch: Batch) -> None:
        """One iteration."""
        # dropout depends on (seed, iteration, rank) alone, so a resume needs no random state
        seed_everything("model", self.settings.seed, self.done, rank())
        with torch.autocast(
            self.device.type, self.settings.amp_dtype, enabled=self.settings.amp_dtype is not None
        ):
            losses = self.distributed(batch)
        loss = objective(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.settings.clip_norm or math.inf
        )
        # read after backward was begun, so that a GPU is waited for once; the scaler leaves a
        # step out by itself where the gradient overflows
        if not math.isfinite(loss.item()):
            raise UserError(self.not_finite("loss", loss.item(), batch, losses))
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
            raise UserError(self.not_finite("gradient", norm.item(), batch, losses))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.sums.add(losses)
        self.done += 1

    def not_finite(self, what: str, value: float, batch: Batch, losses: Losses) -> str:
        """The sentence for a loss or gradient that is lost; called in every process."""
        images = batch["image_id"].tolist()
        finite = all(loss.total.isfinite() for loss in losses.values())
        by_process = all_gather_object((finite, images))
        # of the processes that lost it, or (a gradient is everybody's) of all
        found = [own for kept, own in by_process if not kept] or [own for _, own in by_process]
        named = ", ".join(str(image) for own in found for image in own)
        return (
            f"the {what} is {value} at iteration {self.done + 1} (images {named}); "
            f"{self.settings.remedy}"
        )

    def log(self) -> None:
        """Losses since the last time, learning rates, pace; to log, metrics.json, tensorboard."""
        means = self.sums.means()
        if self.writer is None:
            return
        pace = self.pace.tell(self.done)
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        images = self.settings.batch_size / pace["seconds"]
        logger.info(
            "iteration %d/%d  loss %.4f (%s)  lr %s  %.1f images/s  data %.3f s  left %s",
            self.done,
            self.settings.iterations,
            sum(means.values()),
            ", ".join(f"{name} {value:.4f}" for name, value in means.items()),
            " ".join(f"{name} {rate:.3g}" for name, rate in rates.items() if "," not in name),
            images,
            pace["data_seconds"],
            duration(pace["left"]),
        )
        numbers = {
            "train/loss": sum(means.values()),
            **{f"train/{name}": value for name, value in means.items()},
            **{f"lr/{name}": rate for name, rate in rates.items()},
            "images_per_second": images,
            "data_seconds": pace["data_seconds"],
        }
        if self.device.type == "cuda":
            numbers["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        self.writer.numbers(self.done, numbers)

    def save(self) -> None:
        """The main process writes a checkpoint; the others wait."""
        if rank() == 0:
            final = self.done == self.settings.iterations
            name = FINAL if final else f"model_{self.done:07d}.pth"
            path = self.checkpoints.save(name, iteration=self.done, **self.saved_with)
            logger.info("checkpoint: %s", path)
        synchronize()

    def validate(self) -> Metrics:
        if self.evaluate is None:
            return {}
        share_buffers(self.model)
        self.model.eval()
        metrics = self.evaluate(self.done, self.writer)
        self.model.train()
        lost = [name for name, value in metrics.items() if not math.isfinite(value)]
        if lost:
            raise UserError(
                f"{', '.join(lost)} is not finite after iteration {self.done}; start anew with a "
                "lower learning rate and --overwrite"
            )
        if self.writer:
            self.writer.numbers(self.done, metrics)
        self.pace = Pace(self.done, self.settings.iterations)
        return metrics


class RunningSums:
    """Losses of some iterations, added up on the device."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        for name, loss in losses.items():
            pair = torch.stack([loss.total.detach().double(), loss.count.double()])
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def means(self) -> Metrics:
        """Mean of each loss over all processes; starts anew."""
        # a process without images to validate knows no names; the main one always has some
        names = broadcast_object(list(self.sums))
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=torch.float64, device=self.device)
        pairs = sum_over_processes(torch.stack([self.sums.get(n, nothing) for n in names]))
        self.sums = {}
        return {
            n: total / max(count, 1)
            for n, (total, count) in zip(names, pairs.tolist(), strict=True)
        }


def objective(losses: Losses) -> Tensor:
    """The sum of the means over all processes, of which this process has its share.

    Gradients are averaged over the processes, therefore the factor: 1 x 16 images and 2 x 8
    give the same gradient, whatever the lengths of their captions. Where the loss of one process
    is not finite, it is NaN in all.
    """
    totals = torch.stack([loss.total for loss in losses.values()])
    shared = torch.stack([*(loss.count for loss in losses.values()), totals.sum()]).detach()
    shared[-1] = torch.where(shared[-1].isfinite(), 0.0, torch.nan)
    sum_over_processes(shared)
    return (totals / shared[:-1].clamp(min=1)).sum() * world_size() + shared[-1]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """``batch`` on the device, but for ``lengths``: what is laid out by them is laid out on the
    CPU, so that a GPU is not waited for."""
    return {
        key: value if key == "lengths" else value.to(device, non_blocking=True)
        for key, value in batch.items()
    }
