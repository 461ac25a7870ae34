"""Norm layers by name: Detectron2's, and layer norm over channels, which v0.5 does not have."""

from functools import partial
from typing import Any

from detectron2.layers import get_norm
from timm.layers.norm import LayerNorm2d
from torch import nn


def build_norm(norm: str, channels: int) -> nn.Module | None:
    """Return a norm layer for (batch, channels, height, width); None for ``""``.

    Args:
        norm: ``"LN"`` for layer norm over channels, or a name of Detectron2's ``get_norm``.
    """
    return LayerNorm2d(channels) if norm == "LN" else get_norm(norm, channels)


def as_norm(norm: str) -> Any:
    """Return a norm as Detectron2's layers accept it: its name, or a function that builds it."""
    return partial(build_norm, norm) if norm == "LN" else norm
