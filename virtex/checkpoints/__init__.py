"""Checkpoints of any known format, opened safely and loaded completely or not at all.

    from virtex.checkpoints import load_backbone
    backbone = load_backbone("torchvision://resnet50")

Names are imported on first use, so that importing the types does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virtex.checkpoints.backbone import Backbone as Backbone
    from virtex.checkpoints.backbone import CheckpointError as CheckpointError
    from virtex.checkpoints.backbone import InputSpec as InputSpec
    from virtex.checkpoints.backbone import Source as Source
    from virtex.checkpoints.backbone import build_network as build_network
    from virtex.checkpoints.containers import open_checkpoint as open_checkpoint
    from virtex.checkpoints.coverage import Coverage as Coverage
    from virtex.checkpoints.formats import FORMATS as FORMATS
    from virtex.checkpoints.formats import Format as Format
    from virtex.checkpoints.formats import format_table as format_table
    from virtex.checkpoints.formats import register_format as register_format
    from virtex.checkpoints.loading import Inspection as Inspection
    from virtex.checkpoints.loading import inspect_checkpoint as inspect_checkpoint
    from virtex.checkpoints.loading import load_backbone as load_backbone
    from virtex.checkpoints.sources import Resolved as Resolved
    from virtex.checkpoints.sources import register_source as register_source
    from virtex.checkpoints.sources import resolve as resolve

_MODULES = {
    "Backbone": "backbone",
    "CheckpointError": "backbone",
    "InputSpec": "backbone",
    "Source": "backbone",
    "build_network": "backbone",
    "open_checkpoint": "containers",
    "Coverage": "coverage",
    "FORMATS": "formats",
    "Format": "formats",
    "format_table": "formats",
    "register_format": "formats",
    "Inspection": "loading",
    "inspect_checkpoint": "loading",
    "load_backbone": "loading",
    "Resolved": "sources",
    "register_source": "sources",
    "resolve": "sources",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
