"""Detectron2's training step with gradient accumulation and mixed precision."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from virtex.engine.loop import resolve_dtype
from virtex.errors import UserError
from virtex.text import escape


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of mixed precision on ``MODEL.DEVICE``; None for float32.

    ``SOLVER.AMP.DTYPE auto`` is bfloat16 on GPUs that support it and on CPUs, else float16.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return resolve_dtype(cfg.SOLVER.AMP.DTYPE, torch.device(cfg.MODEL.DEVICE))


class TrainingStep(SimpleTrainer):
    """One optimizer step on the mean gradient of one or more micro-batches.

    In one process with one micro-batch in float32, it is Detectron2's ``SimpleTrainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        accumulate: int = 1,
        dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        """
        Args:
            batches: micro-batches of equal size.
            accumulate: micro-batches per step.
            dtype: of mixed precision; None: float32.
            scaler: enabled with float16, where small gradients would underflow.
        """
        super().__init__(model, batches, optimizer)
        self.accumulate, self.dtype = accumulate, dtype
        self.device = next(model.parameters()).device
        self.scaler = scaler or torch.amp.GradScaler(self.device.type, enabled=False)

    def run_step(self) -> None:
        """Train on the next micro-batches and log the means of their losses.

        Raises:
            FloatingPointError: the loss is not finite; the weights are unchanged.
        """
        self.optimizer.zero_grad()
        data_time = 0.0
        totals: dict[str, torch.Tensor] = {}
        for number in range(self.accumulate):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            with self.synchronize_gradients(number == self.accumulate - 1):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    losses = self.model(batch)
                    loss = sum(losses.values())
                self.scaler.scale(loss / self.accumulate).backward()
            for name, value in losses.items():
                share = value.detach().float() / self.accumulate
                totals[name] = totals[name] + share if name in totals else share
        self._write_metrics(totals, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def synchronize_gradients(self, is_last: bool) -> AbstractContextManager:
        """Return a context in which DDP averages gradients only after the last micro-batch."""
        if is_last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


class LossNormalizer:
    """RetinaNet's moving average of the number of positive anchors, by which it divides losses.

    Detectron2 keeps it in an attribute, outside of the model's ``state_dict``.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        if not hasattr(model, "loss_normalizer"):  # 0.6 creates it in the first iteration
            self.load_state_dict({"loss_normalizer": 100.0})

    def state_dict(self) -> dict[str, float]:
        return {"loss_normalizer": float(vars(self.model)["loss_normalizer"])}

    def load_state_dict(self, state: dict[str, float]) -> None:
        vars(self.model).update(state)


def keep_float32(model: nn.Module) -> None:
    """Convert the inputs of layers that need more precision than bfloat16 to float32.

    Detectron2's RoIAlign rounds boxes to the dtype of the feature maps, in bfloat16 above 512
    pixels to multiples of 4. Its naiveSyncBN computes statistics in float32 for float16 only.
    """

    def convert(module: nn.Module, arguments: tuple) -> tuple:
        first, *others = arguments
        is_list = isinstance(first, list)
        return [one.float() for one in first] if is_list else first.float(), *others

    for module in model.modules():
        if isinstance(module, ROIPooler | NaiveSyncBatchNorm):
            module.register_forward_pre_hook(convert)


def require_compiler(device: str) -> None:
    """Check that torch.compile works by compiling a small function.

    Raises:
        UserError: it does not work in this environment.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(16, device=device))
    except Exception as error:  # of any type, depending on the compiler
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise UserError(
            "MODEL.BACKBONE.COMPILE requires torch.compile, which needs a C++ compiler on the CPU "
            f"or Triton on a GPU, but it failed: {escape(reason, 300)}; install the compiler, or "
            "remove the setting",
            code="environment.compiler",
        ) from error


def run_eagerly(model: nn.Module) -> AbstractContextManager:
    """Return a context in which a compiled backbone runs eagerly.

    Test images of many sizes then need no compilation, and the results equal ``--eval-only``.
    """
    compiled = getattr(model, "backbone", model)._compiled_call_impl
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
