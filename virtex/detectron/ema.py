"""An exponential moving average of a detector's weights."""

from copy import deepcopy

import torch
from detectron2.engine import HookBase
from torch import nn

from virtex.engine.checkpoints import unwrap_model


class MovingAverage(HookBase):
    """Averages the weights after each iteration: average = decay * average + (1 - decay) * weights.

    As in d2go's ``MODEL_EMA``, the average starts from the initial weights, and buffers (BatchNorm
    statistics) are also averaged.

    Attributes:
        model: a copy of the detector with the averaged weights, in training mode.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def after_step(self) -> None:
        trained = unwrap_model(self.trainer.model).state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(trained[name], 1 - self.decay)
            else:  # a counter
                average.copy_(trained[name])
