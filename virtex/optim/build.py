"""From a config to the optimizer of a model."""

import re
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import Optimizer

from virtex.errors import UserError

# The backbone within a pretraining model: it learns at CNN_LR, everything else at LR.
CNN = "visual.cnn."


def build_optimizer(config: CfgNode, model: nn.Module) -> Optimizer:
    """SGD or AdamW over the trainable parameters of ``model`` (bare, not wrapped).

    Its parameter groups are those of ``parameter_groups``; the update is one pass over memory.

    Raises:
        UserError: nothing is left to train.
    """
    optim = config.OPTIM
    groups = parameter_groups(optim, model)
    if not groups:
        raise UserError(
            "there is nothing to train: every parameter of the model is frozen; "
            "set MODEL.VISUAL.FROZEN to False"
        )
    if optim.OPTIMIZER_NAME == "adamw":
        return torch.optim.AdamW(groups, lr=optim.LR, fused=True)
    return torch.optim.SGD(groups, lr=optim.LR, momentum=optim.SGD_MOMENTUM, fused=True)


def parameter_groups(optim: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The parameters by learning rate and weight decay.

    Args:
        optim: the OPTIM section of a config.

    Returns:
        Those of ``cnn``, ``cnn, no decay``, ``rest`` and ``rest, no decay`` that are not
        empty, in this order, each with ``name``, ``params``, ``lr`` and ``weight_decay``.
        Tied parameters appear once, under the first of their names.
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
        part = "cnn" if name.startswith(CNN) else "rest"
        suffix = ", no decay" if re.match(optim.NO_DECAY, name) else ""
        groups[part + suffix]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
