"""The training loop for any model that returns ``Losses``; it resumes bit-exactly.

An iteration is: forward (optionally in mixed precision), the mean of each loss over all processes,
backward, clipping, optimizer, schedule. Every ``checkpoint_every`` iterations and after the last
one: checkpoint, then validation.
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
    sum_over_processes,
    sync_buffers,
    synchronize,
    world_size,
)
from virtex.engine.losses import Losses
from virtex.engine.progress import (
    METRICS,
    MetricsWriter,
    Pace,
    Stopwatch,
    duration,
    validation_at,
)
from virtex.engine.randomness import seed_everything
from virtex.engine.signals import SigtermReceived, defer_sigterm
from virtex.errors import UserError

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Metrics = dict[str, float]


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a training loop.

    Attributes:
        iterations: total number.
        batch_size: images per iteration, over all processes.
        clip_norm: maximum norm of the gradient; 0: no clipping.
        amp_dtype: autocast dtype on a GPU; None: float32.
        checkpoint_every, log_every: in iterations.
        keep: number of checkpoints kept on disk besides the final one.
        remedy: how to fix a loss that is not finite, for the error message.
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
        "lower the learning rate, then continue from the last checkpoint with --resume or "
        "restart with --overwrite"
    )


def amp_dtype(config: CfgNode, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype; None for float32, always on the CPU.

    Args:
        config: has AMP (mixed precision or not) and AMP_DTYPE, see ``resolve_dtype``.
    """
    if not config.AMP or device.type != "cuda":
        return None
    return resolve_dtype(config.AMP_DTYPE, device)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype for the setting ``bfloat16``, ``float16`` or ``auto``.

    ``auto`` is bfloat16, except on GPUs without support for it.
    """
    if name == "auto":
        # emulated bfloat16 would be slower than float32
        has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(False)
        name = "bfloat16" if has_bfloat16 else "float16"
    return getattr(torch, name)


class TrainingLoop:
    """Trains a model, in one process or several.

    Attributes:
        model: unwrapped, on its device.
        done: number of completed iterations.
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
            folder: an existing folder for checkpoints, metrics.json and TensorBoard events.
            more_state: name -> anything else with ``state_dict``, such as Lookahead.
            evaluate: called in every process with the iteration and, in the main process, the
                writer.
            saved_with: plain values to store in every checkpoint.
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
        """Load the latest checkpoint, if any, and return the number of completed iterations.

        Raises:
            UserError: the checkpoint is beyond the last iteration, of another model, or not the
                same file for all processes.
        """
        self.done = self.checkpoints.resume(self.settings.iterations).get("iteration", 0)
        if len(set(all_gather_object(self.done))) > 1:
            raise UserError(
                "--output-dir must be on a shared filesystem: the processes found different "
                "checkpoints",
                code="run.not_shared",
            )
        return self.done

    def run(self, batches: Iterator[Batch]) -> Metrics:
        """Train from iteration ``done`` to the last; ``batches`` start with that of the next one.

        Returns:
            The metrics of the last validation.

        Raises:
            UserError: a loss, gradient or metric is not finite, or the GPU ran out of memory.
            SigtermReceived: after the checkpoint of the current iteration was written.
        """
        self.distributed = distribute(self.model.train())
        self.writer = MetricsWriter(self.folder, self.done) if rank() == 0 else None
        self.pace, self.sums = Pace(self.done, self.settings.iterations), RunningSums(self.device)
        self.stopwatch.start()
        metrics: Metrics = {}
        try:
            if self.done == self.settings.iterations:
                self.save()  # zero iterations, or the run was shortened to this one
            if self.is_checkpoint_due() and (self.done or not self.settings.iterations):
                # the earlier session may have ended between checkpoint and validation
                metrics = self.last_validation() or self.validate()
            while self.done < self.settings.iterations:
                self.train_to_checkpoint(batches)
                metrics = self.validate()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU ran out of memory with {self.settings.batch_size} images "
                f"(processes: {world_size()}); use more GPUs or lower OPTIM.BATCH_SIZE",
                code="device.out_of_memory",
            ) from error
        finally:
            self.stopwatch.stop()
            if self.writer:
                self.writer.close()
        return metrics

    def is_checkpoint_due(self) -> bool:
        """Return whether a checkpoint and validation are due after iteration ``done``."""
        last = self.done == self.settings.iterations
        return last or self.done % self.settings.checkpoint_every == 0

    def last_validation(self) -> Metrics:
        """Read the metrics that an earlier session wrote for ``done``; empty if there are none."""
        metrics = validation_at(self.folder / METRICS, self.done) if rank() == 0 else {}
        return broadcast_object(metrics)

    def train_to_checkpoint(self, batches: Iterator[Batch]) -> None:
        """Train until a checkpoint is due, or SIGTERM was received, and save it."""
        settings = self.settings
        with defer_sigterm() as sigterm:
            due = False
            while not due:
                waiting = time.perf_counter()
                batch = to_device(next(batches), self.device)
                self.pace.waited += time.perf_counter() - waiting
                self.step(batch)
                stopped = reduce_any(sigterm.received)
                due = stopped or self.is_checkpoint_due()
                # also at a checkpoint: a resumed run starts with empty sums
                if due or self.done % settings.log_every == 0:
                    self.log()
            self.save()
            if stopped:
                raise SigtermReceived(f"saved at iteration {self.done}")

    def step(self, batch: Batch) -> None:
        """Run one iteration."""
        # dropout depends on (seed, iteration, rank) only, so no random state is saved
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
        # read after backward was launched, to synchronize with the GPU once; a GradScaler skips
        # steps whose gradient overflows by itself
        if not math.isfinite(loss.item()):
            raise self.non_finite_error("loss", loss.item(), batch, losses)
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
            raise self.non_finite_error("gradient", norm.item(), batch, losses)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.sums.add(losses)
        self.done += 1

    def non_finite_error(self, name: str, value: float, batch: Batch, losses: Losses) -> UserError:
        """Build the error for a loss or gradient; called in every process."""
        images = batch["image_id"].tolist()
        finite = all(loss.total.isfinite() for loss in losses.values())
        by_process = all_gather_object((finite, images))
        # images of the processes with such a loss; a gradient belongs to all processes
        found = [ids for is_finite, ids in by_process if not is_finite]
        found = found or [ids for _, ids in by_process]
        named = ", ".join(str(image) for ids in found for image in ids)
        return UserError(
            f"the {name} is {value} at iteration {self.done + 1} (images {named}); "
            f"{self.settings.remedy}",
            code="run.not_finite",
        )

    def log(self) -> None:
        """Write losses since the last call, learning rates and speed to all logs."""
        means = self.sums.means()
        if self.writer is None:
            return
        pace = self.pace.measure(self.done)
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        images = self.settings.batch_size / pace["seconds"]
        logger.info(
            "eta: %s  iter: %d  loss: %.4f  %s  images/s: %.1f  data_time: %.4f  %s",
            duration(pace["eta"]),
            self.done,
            sum(means.values()),
            "  ".join(f"{name}: {value:.4f}" for name, value in means.items()),
            images,
            pace["data_seconds"],
            "  ".join(f"lr/{name}: {rate:.5g}" for name, rate in rates.items() if "," not in name),
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
        self.writer.write(self.done, numbers)

    def save(self) -> None:
        """Write a checkpoint in the main process, while the others wait."""
        if rank() == 0:
            final = self.done == self.settings.iterations
            name = FINAL if final else f"model_{self.done:07d}.pth"
            path = self.checkpoints.save(name, iteration=self.done, **self.saved_with)
            logger.info("Saving checkpoint to %s", path)
        synchronize()

    def validate(self) -> Metrics:
        if self.evaluate is None:
            return {}
        sync_buffers(self.model)
        self.model.eval()
        metrics = self.evaluate(self.done, self.writer)
        self.model.train()
        invalid = [name for name, value in metrics.items() if not math.isfinite(value)]
        if invalid:
            raise UserError(
                f"{', '.join(invalid)} is not finite after iteration {self.done}; restart with "
                "a lower learning rate and --overwrite",
                code="run.not_finite",
            )
        if self.writer:
            self.writer.write(self.done, metrics)
        self.pace = Pace(self.done, self.settings.iterations)
        return metrics


class RunningSums:
    """Sums losses over iterations, on the device."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        for name, loss in losses.items():
            pair = torch.stack([loss.total.detach().double(), loss.count.double()])
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def means(self) -> Metrics:
        """Return the mean of each loss over all processes, and reset."""
        # a process without validation images has no names; the main one always has
        names = broadcast_object(list(self.sums))
        if not names:
            return {}
        zero = torch.zeros(2, dtype=torch.float64, device=self.device)
        pairs = sum_over_processes(torch.stack([self.sums.get(n, zero) for n in names]))
        self.sums = {}
        return {
            n: total / max(count, 1)
            for n, (total, count) in zip(names, pairs.tolist(), strict=True)
        }


def objective(losses: Losses) -> Tensor:
    """Compute this process's share of the sum of the mean losses over all processes.

    DistributedDataParallel averages gradients, hence the factor ``world_size()``: 1 x 16 and
    2 x 8 images give the same gradient, regardless of caption lengths. If the loss of
    one process is not finite, the result is NaN in all.
    """
    totals = torch.stack([loss.total for loss in losses.values()])
    shared = torch.stack([*(loss.count for loss in losses.values()), totals.sum()]).detach()
    shared[-1] = torch.where(shared[-1].isfinite(), 0.0, torch.nan)
    sum_over_processes(shared)
    return (totals / shared[:-1].clamp(min=1)).sum() * world_size() + shared[-1]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to the device, except ``lengths``: reading them there would synchronize."""
    return {
        key: value if key == "lengths" else value.to(device, non_blocking=True)
        for key, value in batch.items()
    }
