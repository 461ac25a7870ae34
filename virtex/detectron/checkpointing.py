"""Checkpoints of a training run: written whole or not at all, and resumed exactly."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from virtex.atomic import replace_file
from virtex.checkpoints.opening import open_checkpoint
from virtex.errors import UserError

LAST = "last_checkpoint"  # holds the newest checkpoint's file name, as Detectron2's tools expect
FINAL = "model_final.pth"


def bare(model: nn.Module) -> nn.Module:
    """The detector itself, without the wrapper that trains it in several processes."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class Checkpoints:
    """The checkpoints in one output folder: the newest ``keep`` of them and the final one."""

    def __init__(self, folder: Path, model: nn.Module, state: dict[str, Any], keep: int = 2):
        """
        Args:
            model: the detector, wrapped or not.
            state: name -> optimizer, scheduler or scaler: whatever has ``state_dict``.
            keep: how many of the checkpoints before the final one stay on disk.
        """
        self.folder, self.model, self.state, self.keep = folder, bare(model), state, keep

    def save(self, name: str, iteration: int, **extra: Any) -> Path:
        """Write model, state and ``iteration`` (the one just finished); then prune."""
        content = {
            "model": self.model.state_dict(),
            **{key: value.state_dict() for key, value in self.state.items()},
            "iteration": iteration,
            **extra,
        }
        path = self.folder / name
        replace_file(path, lambda file: torch.save(content, file))
        replace_file(self.folder / LAST, lambda file: file.write(name.encode()))
        for old in sorted(self.folder.glob("model_[0-9]*.pth"))[: -self.keep]:
            old.unlink()
        return path

    def resume(self) -> int:
        """Load the newest checkpoint; returns the iteration to go on with (0: there is none).

        Raises:
            UserError: the checkpoint is of another model.
        """
        path = last_checkpoint(self.folder)
        if path is None:
            return 0
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"], strict=True)
            for key, value in self.state.items():
                value.load_state_dict(content[key])
        except (KeyError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{path} is not a whole checkpoint of this run ({error}); "
                "start anew with --overwrite"
            ) from error
        return content["iteration"] + 1


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    pointer = folder / LAST
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text().strip()
    return path if path.is_file() else None


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
    own = bare(model).state_dict()
    wrong = sorted(own.keys() - weights.keys()) + sorted(
        name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape
    )
    if wrong:
        raise UserError(
            f"{path} does not hold this detector: {len(wrong)} tensors are missing or of another "
            f"shape, first {', '.join(wrong[:3])}; use the run's own config and checkpoint"
        )
    bare(model).load_state_dict({name: weights[name] for name in own})
    return content


class SaveCheckpoints(HookBase):
    """Save every ``period`` iterations and after the last one (main process only)."""

    def __init__(self, checkpoints: Checkpoints, period: int, extra: dict[str, Any]):
        self.checkpoints, self.period, self.extra = checkpoints, period, extra

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            name = FINAL
        elif self.period > 0 and done % self.period == 0:
            name = f"model_{self.trainer.iter:07d}.pth"
        else:
            return
        if comm.is_main_process():
            self.checkpoints.save(name, self.trainer.iter, **self.extra)
        comm.synchronize()
