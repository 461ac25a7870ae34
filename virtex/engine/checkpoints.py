"""Checkpoints of a training run: written atomically, resumed bit-exactly."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from virtex.errors import UserError
from virtex.files import Manifest, read_file, read_manifests, replace_file
from virtex.text import short_repr

LAST = "last_checkpoint"  # contains the latest checkpoint's file name, as Detectron2's tools expect
FINAL = "model_final.pth"
NAMES = re.compile(r"model_(\d{7,}|final)\.pth")
# Raised by loading a file that is not a checkpoint, or is one of another model.
LOAD_ERRORS = (
    *(KeyError, TypeError, RuntimeError, ValueError, AttributeError, EOFError),
    pickle.UnpicklingError,
)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside ``DistributedDataParallel``, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class Checkpoints:
    """The checkpoints in one output folder: the newest ``keep`` of them and the final one."""

    def __init__(self, folder: Path, model: nn.Module, state: dict[str, Any], keep: int = 2):
        """
        Args:
            model: wrapped or not.
            state: name -> optimizer, scheduler, scaler: anything with ``state_dict``.
            keep: number of checkpoints kept on disk besides the final one.
        """
        self.folder, self.model, self.state, self.keep = folder, unwrap_model(model), state, keep

    def save(self, name: str, **extra: Any) -> Path:
        """Write model, state and the plain values of ``extra`` to ``name``; delete old ones."""
        content = {
            "model": self.model.state_dict(),
            **{key: value.state_dict() for key, value in self.state.items()},
            **extra,
        }
        path = self.folder / name
        replace_file(path, lambda file: torch.save(content, file))
        replace_file(self.folder / LAST, lambda file: file.write(name.encode()))
        numbered = [path for path in list_checkpoints(self.folder) if path.name != FINAL]
        for old in numbered[: -self.keep]:
            if not Manifest.active or old in read_manifests(self.folder):  # not the user's own
                old.unlink()
        return path

    def resume(self) -> dict[str, Any]:
        """Load the latest checkpoint and return its content; empty if there is none.

        Raises:
            UserError: the file is not a checkpoint of this model.
        """
        path = last_checkpoint(self.folder)
        if path is None:
            return {}
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"], strict=True)
            for key, value in self.state.items():
                if content[key]:  # the state of a disabled gradient scaler is empty
                    value.load_state_dict(content[key])
        except LOAD_ERRORS as error:
            raise UserError(
                f"{path} is not a complete checkpoint of this run ({error}); start again with "
                "--overwrite",
                code="resume.invalid_checkpoint",
            ) from error
        return content


def last_checkpoint(folder: Path) -> Path | None:
    """Find the latest checkpoint of a run.

    Raises:
        UserError: ``last_checkpoint`` does not contain the name of a checkpoint in ``folder``.
    """
    pointer = folder / LAST
    if pointer.is_file():
        name = read_file(pointer).decode(errors="replace").strip()
        if not NAMES.fullmatch(name):
            raise UserError(
                f"{pointer} must contain the name of a checkpoint in its folder, such as {FINAL}, "
                f"not {short_repr(name)}; delete it to use the newest checkpoint",
                "resume.invalid_checkpoint",
            )
        if (folder / name).is_file():
            return folder / name
    # if the pointer is missing, a run must not restart and overwrite its own checkpoints
    found = list_checkpoints(folder)
    return found[-1] if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder by iteration, the final one last."""
    found = [path for path in folder.glob("model_*.pth") if NAMES.fullmatch(path.name)]
    return sorted(path for path in found if path.is_file())  # digits come before "final"
