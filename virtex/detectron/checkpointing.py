"""A detector's checkpoints within Detectron2's loop."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from virtex.checkpoints.opening import open_checkpoint
from virtex.engine.checkpoints import FINAL, Checkpoints, unwrap_model
from virtex.engine.distributed import reduce_any
from virtex.engine.signals import SigtermReceived
from virtex.errors import UserError


def load_detector(model: nn.Module, path: Path) -> dict[str, Any]:
    """Fill a detector from a file that must hold it whole. Returns the file's content.

    Raises:
        UserError: the file is no such checkpoint; the first differences are named.
    """
    content, _ = open_checkpoint(path)
    content = content if isinstance(content, dict) else {}
    stored = content.get("model", content)
    weights = {
        name: torch.as_tensor(value)
        for name, value in (stored.items() if isinstance(stored, dict) else ())
        if isinstance(value, torch.Tensor | np.ndarray)
    }
    own = unwrap_model(model).state_dict()
    wrong = sorted(own.keys() - weights.keys()) + sorted(
        name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape
    )
    if wrong:
        raise UserError(
            f"{path} does not hold this detector: {len(wrong)} tensors are missing or of another "
            f"shape, first {', '.join(wrong[:3])}; use the run's own config and checkpoint"
        )
    unwrap_model(model).load_state_dict({name: weights[name] for name in own})
    return content


class SaveCheckpoints(HookBase):
    """Save every ``period`` iterations, after the last one and at SIGTERM (main process only)."""

    def __init__(self, checkpoints: Checkpoints, period: int, extra: dict[str, Any]):
        self.checkpoints, self.period, self.extra = checkpoints, period, extra

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        stopped = reduce_any(self.trainer.sigterm.received)
        if done == self.trainer.max_iter:
            name = FINAL
        elif stopped or (self.period > 0 and done % self.period == 0):
            name = f"model_{self.trainer.iter:07d}.pth"
        else:
            return
        if comm.is_main_process():
            self.checkpoints.save(name, iteration=self.trainer.iter, **self.extra)
        comm.synchronize()
        if stopped:
            raise SigtermReceived(f"saved at iteration {done}")
