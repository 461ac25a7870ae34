"""Checkpoints of a training run: written atomically, resumed bit-exactly."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.containers import open_checkpoint
from virtex.errors import UserError
from virtex.files import Manifest, read_file, read_manifests, replace_file
from virtex.text import short_repr

LAST = "last_checkpoint"  # contains the latest checkpoint's file name, as Detectron2's tools expect
FINAL = "model_final.pth"
NAMES = re.compile(r"model_(\d{7,}|final)\.pth")
# Numbers of the training state that change during training; all others are settings.
PROGRESS = {
    *("lr", "initial_lr", "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step"),
    *("_is_initial", "scale", "_growth_tracker", "seconds", "step", "loss_normalizer"),
}


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

    def resume(self, iterations: int, zero_based: bool = False) -> dict[str, Any]:
        """Load the latest checkpoint and return its content; empty if there is none.

        Args:
            iterations, zero_based: see ``validate_training_state``.

        Raises:
            UserError: the file is not a checkpoint of this run; nothing is changed.
        """
        path = last_checkpoint(self.folder)
        if path is None:
            return {}
        try:
            content = open_checkpoint(path).content
        except CheckpointError as error:
            raise _invalid(path, str(error)) from error
        validate_training_state(path, content, self.model, self.state, iterations, zero_based)
        self.model.load_state_dict(content["model"])
        for key, value in self.state.items():
            if content[key]:  # the state of a disabled gradient scaler is empty
                value.load_state_dict(content[key])
        return content


def validate_training_state(
    path: Path,
    content: Any,
    model: nn.Module,
    state: dict[str, Any],
    iterations: int,
    zero_based: bool = False,
) -> None:
    """Compare the content of a checkpoint with the run that is about to load it.

    Names, shapes and dtypes of all tensors, the optimizer's parameter groups and every setting
    must be equal. torch checks few of them: its fused optimizers read and write out of bounds if
    a momentum is smaller than its weight.

    Args:
        path: names the checkpoint in errors.
        content: has ``model``, ``iteration`` and the keys of ``state``.
        model: unwrapped.
        state: see ``Checkpoints``.
        iterations: the number of iterations of the run.
        zero_based: ``iteration`` is the index of the last completed iteration, as in Detectron2,
            and not the number of completed iterations.

    Raises:
        UserError: a value is missing, unknown or differs; its path in ``content`` is named.
    """
    if not isinstance(content, dict) or not {"model", "iteration", *state} <= content.keys():
        raise _invalid(path, f"expected the keys model, iteration, {', '.join(state)}")
    iteration = content["iteration"]
    if type(iteration) is not int or not 0 <= iteration < 2**63:
        raise _invalid(path, f"iteration is {short_repr(iteration)}, not a number of iterations")
    done = iteration + zero_based
    if done > iterations:
        raise UserError(
            f"{path} is from iteration {done}, beyond the requested {iterations} iterations; "
            f"request at least {done}",
            code="resume.beyond_end",
        )
    if difference := _difference(content["model"], model.state_dict(), "model"):
        raise _invalid(path, difference)
    for key, value in state.items():
        found, expected = content[key], value.state_dict()
        if isinstance(value, torch.amp.GradScaler) and {} in (found, expected):
            continue  # disabled now or before
        if isinstance(value, Optimizer):
            expected["state"] = _optimizer_state(value)
            if isinstance(found, dict) and isinstance(stored := found.get("state"), dict):
                # a parameter has no state before its first gradient
                expected["state"] = {k: v for k, v in expected["state"].items() if k in stored}
        if difference := _difference(found, expected, key):
            raise _invalid(path, difference)
        if "last_epoch" in expected and found["last_epoch"] != done:
            raise _invalid(path, f"{key}.last_epoch is {found['last_epoch']}, not {done}")


def _optimizer_state(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Return the state after a step in which each parameter has a gradient, without data."""
    groups = [
        {
            **{key: False if key in ("fused", "foreach") else group[key] for key in group},
            "params": [torch.empty_like(weight, device="meta") for weight in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    build: Callable[..., Optimizer] = type(optimizer)
    twin = build(groups)
    for group in twin.param_groups:
        for weight in group["params"]:
            weight.grad = torch.empty_like(weight)
    twin.step()
    return twin.state_dict()["state"]


def _difference(found: Any, expected: Any, path: str) -> str:
    """Describe the first difference in structure, shape, dtype or setting; "" if there is none."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() != expected.keys():
            names = short_repr(list(found.keys() ^ expected.keys()))
            return f"{path} has other keys than this run: {names}"
        pairs = [(found[key], expected[key], f"{path}.{key}") for key in expected]
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(expected):
            return f"{path} has {len(found)} values, not {len(expected)}"
        pairs = [(*pair, path) for pair in zip(found, expected, strict=True)]
    elif isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        kinds = [(tuple(value.shape), value.dtype, value.layout) for value in (found, expected)]
        return "" if kinds[0] == kinds[1] else f"{path} is {kinds[0]}, not {kinds[1]}"
    elif isinstance(expected, int | float) and path.rpartition(".")[2] in PROGRESS:
        types = (type(expected),) if isinstance(expected, int) else (int, float)
        is_valid = type(found) in types and 0 <= found < math.inf
        return "" if is_valid else f"{path} is {short_repr(found)}"
    else:
        is_equal = type(found) is type(expected) and found == expected
        return "" if is_equal else f"{path} is {short_repr(found)}, not {short_repr(expected)}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), "")


def _invalid(path: Path, problem: str) -> UserError:
    return UserError(
        f"{path} is not a complete checkpoint of this run ({problem}); start again with "
        "--overwrite",
        code="resume.invalid_checkpoint",
    )


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
