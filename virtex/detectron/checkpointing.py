"""Checkpoints of detectors in Detectron2's training loop."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from virtex.backbones.registry import get_family
from virtex.checkpoints.containers import open_checkpoint
from virtex.checkpoints.statements import is_same, read_statements
from virtex.detectron.adapters import decode_arch
from virtex.engine.checkpoints import FINAL, Checkpoints, unwrap_model
from virtex.engine.distributed import reduce_any
from virtex.engine.signals import SigtermReceived
from virtex.errors import UserError
from virtex.text import escape

# Key in checkpoints: category ids in the annotations, in the order of the classes.
CATEGORY_IDS = "category_ids"


def load_detector(model: nn.Module, path: Path) -> tuple[dict[str, Any], str]:
    """Load every tensor of a detector from a checkpoint file; return its content and sha256.

    Raises:
        UserError: tensors are missing or have other shapes; the first ones are named.
    """
    opened = open_checkpoint(path)
    content = opened.content if isinstance(opened.content, dict) else {}
    stored = content.get("model", content)
    weights = {
        name: torch.as_tensor(value)
        for name, value in (stored.items() if isinstance(stored, dict) else ())
        if isinstance(value, torch.Tensor | np.ndarray)
    }
    expected = unwrap_model(model).state_dict()
    problems = [f"{name} is missing" for name in sorted(expected.keys() - weights.keys())] + [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if expected[name].shape != weights[name].shape
    ]
    if problems:
        raise UserError(
            f"{path} does not hold the detector of this config ({len(problems)} tensors: "
            f"{'; '.join(problems[:3])}); use the config it was trained with",
            code="detection.weights_mismatch",
        )
    unwrap_model(model).load_state_dict({name: weights[name] for name in expected})
    return content, opened.sha256


def compare_statements(
    cfg: CfgNode, content: dict[str, Any], path: Path, classes: list[str] | None
) -> list[str]:
    """Compare what a detector's file and the ``config.yaml`` beside it state with a run's settings.

    Args:
        cfg: the settings, of which tensor shapes do not determine the input and the stride.
        content: the content of the file.
        path: the file.
        classes: the classes of the run's data; ``None`` if unknown.

    Returns:
        The names of what is not stated.

    Raises:
        UserError: a statement contradicts the settings.
    """
    settings = {
        "channel_order": cfg.INPUT.FORMAT,
        "normalization": (tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD), 255.0),
        "stride_in_1x1": cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        "res5_dilation": cfg.MODEL.RESNETS.RES5_DILATION,
        "classes": classes and tuple(classes),
    }
    if cfg.MODEL.NETWORK.ARCH:
        arch = decode_arch(cfg.MODEL.NETWORK.ARCH)
        settings |= {name: getattr(arch, name) for name in get_family(arch).format_fields}
    stated = read_statements(content, path, ("config.yaml",)).facts
    for name, ours in settings.items():
        if ours is not None and name in stated and not is_same(stated[name].value, ours):
            fix = (
                "use the data of its training" if name == "classes" else f"pass --checkpoint {path}"
            )
            raise UserError(
                f"{path}: {stated[name].place} states {name.replace('_', ' ')} "
                f"{escape(str(stated[name].value))}, but this run uses {escape(str(ours))}; {fix}",
                code="detection.weights_mismatch",
            )
    return [name for name in ("channel_order", "normalization") if name not in stated]


class SaveCheckpoints(HookBase):
    """Saves every ``period`` iterations, after the last one and on SIGTERM (main process only)."""

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
