"""Detectron2's optimizer and schedules, and others that it does not have.

These are AdamW and layer-wise learning rate decay, for vision transformers, and polynomial decay.

Both distributions build SGD only, and v0.5 has no learning rates per layer.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.solver.lr_scheduler import _get_warmup_factor_at_iter
from torch import nn

# As in Detectron2's get_default_optimizer_params, where timm's and torchvision's are subclasses
NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def build_optimizer(
    cfg: CfgNode, model: nn.Module, layer_ids: Mapping[str, int]
) -> torch.optim.Optimizer:
    """Build the optimizer of ``SOLVER``; with the defaults of our settings, by Detectron2.

    A parameter's learning rate is ``BASE_LR * LAYER_DECAY ** (layers above it)``. The heads, the
    pyramid and a network's final norm are the top layer, as in BEiT and ViTDet. With AdamW or
    ``LAYER_DECAY``, norm layers, biases, tokens and position embeddings have no weight decay unless
    ``WEIGHT_DECAY_NORM``, ``…_BIAS`` or ``…_EMBED`` sets it. Parameters whose names match a pattern
    in ``NO_WEIGHT_DECAY`` never have weight decay.

    Args:
        layer_ids: names of the backbone's parameters -> their depth, ``Family.layer_id``.
    """
    solver = cfg.SOLVER
    of_detectron2 = (solver.OPTIMIZER, solver.LAYER_DECAY, solver.WEIGHT_DECAY_EMBED)
    if of_detectron2 == ("SGD", 1.0, None) and not solver.NO_WEIGHT_DECAY:
        return build_sgd(cfg, model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    top = top_layer(trained, layer_ids)
    norms = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, NORM_LAYERS)
        for name, _ in module.named_parameters(recurse=False)
    }
    is_sgd = (solver.OPTIMIZER, solver.LAYER_DECAY) == ("SGD", 1.0)
    unset = solver.WEIGHT_DECAY if is_sgd else 0.0
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trained.items():
        rate = solver.BASE_LR * solver.LAYER_DECAY ** (top - layer_ids.get(name, top))
        kind = name.rpartition(".")[2]
        decay = solver.WEIGHT_DECAY if kind.endswith("weight") else unset
        if name in norms:
            decay = unset if solver.WEIGHT_DECAY_NORM is None else solver.WEIGHT_DECAY_NORM
        if kind.endswith("bias"):
            rate *= solver.BIAS_LR_FACTOR
            if solver.WEIGHT_DECAY_BIAS is not None:
                decay = solver.WEIGHT_DECAY_BIAS
        elif not kind.endswith("weight") and solver.WEIGHT_DECAY_EMBED is not None:
            decay = solver.WEIGHT_DECAY_EMBED
        if any(fnmatchcase(name, pattern) for pattern in solver.NO_WEIGHT_DECAY):
            decay = 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    if solver.OPTIMIZER == "ADAMW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(
            list(groups.values()), lr=solver.BASE_LR
        )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        list(groups.values()),
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """Build the schedule of ``SOLVER.LR_SCHEDULER_NAME``: one of Detectron2's, or WarmupPolyLR.

    The latter is the schedule of semantic segmentation in Detectron2's project DeepLab and in
    mmsegmentation: ``(1 - iteration / MAX_ITER) ** POLY_LR_POWER``, scaled to end at
    ``POLY_LR_END``, times the warm-up factor.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_scheduler(cfg, optimizer)
    max_iter, power, end = solver.MAX_ITER, solver.POLY_LR_POWER, solver.POLY_LR_END
    warmup = partial(
        _get_warmup_factor_at_iter,
        solver.WARMUP_METHOD,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
    )

    def factor(iteration: int) -> float:
        decay = (1 - iteration / max_iter) ** power
        return warmup(iteration) * (decay * (1 - end) + end)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def top_layer(parameters: Mapping[str, nn.Parameter], layer_ids: Mapping[str, int]) -> int:
    """Return the depth of the heads: above the network, or that of its final norm."""
    depths = {name: depth for name, depth in layer_ids.items() if name in parameters}
    deepest = max(depths.values(), default=0)
    last = [parameters[name] for name, depth in depths.items() if depth == deepest]
    return deepest if all(parameter.dim() == 1 for parameter in last) else deepest + 1
