"""Checkpoints of a training run: written whole or not at all, and resumed exactly."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from virtex.errors import UserError
from virtex.files import replace_file

LAST = "last_checkpoint"  # holds the newest checkpoint's file name, as Detectron2's tools expect
FINAL = "model_final.pth"
# What loading another file, or one of another model, raises.
UNREADABLE = (
    *(KeyError, TypeError, RuntimeError, ValueError, AttributeError, EOFError),
    pickle.UnpicklingError,
)


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper that trains it in several processes."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class Checkpoints:
    """The checkpoints in one output folder: the newest ``keep`` of them and the final one."""

    def __init__(self, folder: Path, model: nn.Module, state: dict[str, Any], keep: int = 2):
        """
        Args:
            model: wrapped or not.
            state: name -> optimizer, scheduler or scaler: whatever has ``state_dict``.
            keep: how many of the checkpoints before the final one stay on disk.
        """
        self.folder, self.model, self.state, self.keep = folder, bare(model), state, keep

    def save(self, name: str, **extra: Any) -> Path:
        """Write model, state and the plain values of ``extra`` to ``name``; then prune."""
        content = {
            "model": self.model.state_dict(),
            **{key: value.state_dict() for key, value in self.state.items()},
            **extra,
        }
        path = self.folder / name
        replace_file(path, lambda file: torch.save(content, file))
        replace_file(self.folder / LAST, lambda file: file.write(name.encode()))
        for old in sorted(self.folder.glob("model_[0-9]*.pth"))[: -self.keep]:
            old.unlink()
        return path

    def resume(self) -> dict[str, Any]:
        """Load the newest checkpoint; returns its whole content (empty: there is none).

        Raises:
            UserError: the checkpoint is of another model.
        """
        path = last_checkpoint(self.folder)
        if path is None:
            return {}
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"], strict=True)
            for key, value in self.state.items():
                if content[key]:  # a gradient scaler that was not in use has no state
                    value.load_state_dict(content[key])
        except UNREADABLE as error:
            raise UserError(
                f"{path} is not a whole checkpoint of this run ({error}); "
                "start anew with --overwrite"
            ) from error
        return content


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    pointer = folder / LAST
    if pointer.is_file() and (path := folder / pointer.read_text().strip()).is_file():
        return path
    # a lost pointer must not make a run begin anew over its own checkpoints
    found = sorted(folder.glob("model_[0-9]*.pth")) + sorted(folder.glob(FINAL))
    return found[-1] if found else None
