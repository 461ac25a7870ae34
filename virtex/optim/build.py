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

    A layer of the backbone (``Family.layer_id``) that is n layers below the head has the rate
    ``CNN_LR * LAYER_DECAY ** n``, as in BEiT (arXiv 2106.08254).

    Args:
        optim: the OPTIM section of a config.
        model: a model whose ``visual`` may have a backbone's ``family`` and ``arch``.

    Returns:
        The groups ``cnn``, ``cnn, no decay``, ``rest`` and ``rest, no decay`` that are not empty,
        in this order, each with ``name``, ``params``, ``lr`` and ``weight_decay``; with
        ``LAYER_DECAY``, ``cnn, layer 0`` and so on in place of ``cnn``. Tied parameters appear
        once, under their first name.
    """
    visual: Any = getattr(model, "visual", None)
    family: Any = getattr(visual, "family", None)
    top = family.head_layer(visual.arch) if optim.LAYER_DECAY != 1 else 0
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own_name = name.removeprefix(CNN_PREFIX)
        is_rest, layer = own_name == name, 0
        group, lr = ("rest", optim.LR) if is_rest else ("cnn", optim.CNN_LR)
        if not is_rest and optim.LAYER_DECAY != 1:
            layer = min(family.layer_id(visual.arch, own_name), top)
            group, lr = f"cnn, layer {layer}", lr * optim.LAYER_DECAY ** (top - layer)
        decays = family is None or family.has_weight_decay(own_name, parameter.ndim)
        no_decay = not decays or bool(re.match(optim.NO_DECAY, name))
        groups.setdefault(
            (is_rest, layer, no_decay),
            {
                "name": f"{group}, no decay" if no_decay else group,
                "params": [],
                "lr": lr,
                "weight_decay": 0.0 if no_decay else optim.WEIGHT_DECAY,
            },
        )["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
