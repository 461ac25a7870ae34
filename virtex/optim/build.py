"""Build the optimizer of a model from a config."""

import re
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import Optimizer

from virtex.errors import UserError

# Parameters of the backbone, which are trained with CNN_LR; all others with LR.
CNN_PREFIX = "visual.cnn."


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    """Build SGD or AdamW (fused) for the trainable parameters of an unwrapped model.

    Raises:
        UserError: no parameter is trainable.
    """
    optim = config.OPTIM
    groups = parameter_groups(optim, model)
    if not groups:
        raise UserError(
            "all parameters of the model are frozen; set MODEL.VISUAL.FROZEN to False",
            code="config.nothing_to_train",
        )
    if optim.OPTIMIZER_NAME == "adamw":
        return torch.optim.AdamW(groups, lr=optim.LR, fused=True)
    return torch.optim.SGD(groups, lr=optim.LR, momentum=optim.SGD_MOMENTUM, fused=True)


def parameter_groups(optim: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Args:
        optim: the OPTIM section of a config.

    Returns:
        The groups ``cnn``, ``cnn, no decay``, ``rest`` and ``rest, no decay`` that are not empty,
        in this order, each with ``name``, ``params``, ``lr`` and ``weight_decay``. Tied parameters
        appear once, under their first name.
    """
    rates = {"cnn": optim.CNN_LR, "rest": optim.LR}
    decays = {"": optim.WEIGHT_DECAY, ", no decay": 0.0}
    groups: dict[str, dict[str, Any]] = {
        part + suffix: {"name": part + suffix, "params": [], "lr": lr, "weight_decay": decay}
        for part, lr in rates.items()
        for suffix, decay in decays.items()
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "cnn" if name.startswith(CNN_PREFIX) else "rest"
        suffix = ", no decay" if re.match(optim.NO_DECAY, name) else ""
        groups[part + suffix]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
