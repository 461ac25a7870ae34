"""Learning rate schedules: linear warmup, then one of the ``DECAYS``."""

import bisect
import math
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def progress(step: int, optim: CfgNode) -> float:
    """Return the completed fraction of the training after warmup, from 0 to 1."""
    length = optim.NUM_ITERATIONS - optim.WARMUP_STEPS
    return min((step - optim.WARMUP_STEPS) / length, 1.0) if length > 0 else 1.0


def constant(step: int, optim: CfgNode) -> float:
    return 1.0


def linear(step: int, optim: CfgNode) -> float:
    return 1.0 - progress(step, optim)


def cosine(step: int, optim: CfgNode) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress(step, optim)))


def multistep(step: int, optim: CfgNode) -> float:
    return optim.LR_GAMMA ** bisect.bisect_right(optim.LR_STEPS, step)


# OPTIM.LR_DECAY_NAME -> function (step after warmup, config.OPTIM) -> multiplier
DECAYS: dict[str, Callable[[int, CfgNode], float]] = {
    "none": constant,
    "linear": linear,
    "cosine": cosine,
    "multistep": multistep,
}


def multiplier(step: int, optim: CfgNode) -> float:
    """Return the factor of the learning rates, in [0, 1], at a step counted from 0.

    Args:
        optim: the OPTIM section of a config.
    """
    if step < optim.WARMUP_STEPS:
        return step / optim.WARMUP_STEPS
    return DECAYS[optim.LR_DECAY_NAME](step, optim)


class Schedule(LambdaLR):
    """The learning rate schedule of a config.

    Its state contains only the step: the rates, which torch saves too, would override the config
    when a run is resumed with more iterations.
    """

    def __init__(self, optimizer: Optimizer, optim: CfgNode):
        # a copy: later changes to the config must not change the rates
        optim = optim.clone()
        super().__init__(optimizer, lambda step: multiplier(step, optim))

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the step of ``state_dict``, and set the optimizer's rates.

        Load the optimizer's state first, as it contains the old rates. States saved by torch's and
        the published schedulers are accepted too.

        Raises:
            KeyError: ``last_epoch`` is missing.
        """
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = self.last_epoch + 1
        for group, lr, rate in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group["initial_lr"] = lr
            group["lr"] = lr * rate(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def build_schedule(config: CfgNode, optimizer: Optimizer) -> Schedule:
    """Build the schedule of a config; call its ``step()`` after each optimizer step."""
    return Schedule(optimizer, config.OPTIM)
