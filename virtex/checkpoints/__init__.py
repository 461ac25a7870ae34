"""Checkpoints of any known format, opened safely and proven complete.

    from virtex.checkpoints import load_backbone
    backbone = load_backbone("torchvision://resnet50")

Names are looked up on first use, so that importing the types does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virtex.checkpoints.architecture import Family as Family
    from virtex.checkpoints.architecture import build_network as build_network
    from virtex.checkpoints.architecture import register_family as register_family
    from virtex.checkpoints.backbone import Arch as Arch
    from virtex.checkpoints.backbone import Backbone as Backbone
    from virtex.checkpoints.backbone import CheckpointError as CheckpointError
    from virtex.checkpoints.backbone import Coverage as Coverage
    from virtex.checkpoints.backbone import InputSpec as InputSpec
    from virtex.checkpoints.backbone import Source as Source
    from virtex.checkpoints.formats import FORMATS as FORMATS
    from virtex.checkpoints.formats import Format as Format
    from virtex.checkpoints.formats import format_table as format_table
    from virtex.checkpoints.formats import register_format as register_format
    from virtex.checkpoints.hashing import sha256_of as sha256_of
    from virtex.checkpoints.loading import Inspection as Inspection
    from virtex.checkpoints.loading import inspect_checkpoint as inspect_checkpoint
    from virtex.checkpoints.loading import load_backbone as load_backbone
    from virtex.checkpoints.opening import open_checkpoint as open_checkpoint
    from virtex.checkpoints.sources import PATHS as PATHS
    from virtex.checkpoints.sources import resolve as resolve

_HOME = {
    "Arch": "backbone",
    "Backbone": "backbone",
    "CheckpointError": "backbone",
    "Coverage": "backbone",
    "InputSpec": "backbone",
    "Source": "backbone",
    "Family": "architecture",
    "build_network": "architecture",
    "register_family": "architecture",
    "FORMATS": "formats",
    "Format": "formats",
    "format_table": "formats",
    "register_format": "formats",
    "Inspection": "loading",
    "inspect_checkpoint": "loading",
    "load_backbone": "loading",
    "open_checkpoint": "opening",
    "sha256_of": "hashing",
    "PATHS": "sources",
    "resolve": "sources",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
