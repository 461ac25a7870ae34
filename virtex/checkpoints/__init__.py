"""Checkpoints of any known format, opened safely and proven complete.

    from virtex.checkpoints import load_backbone
    backbone = load_backbone("torchvision://resnet50")

Names are looked up on first use, so that importing the types does not import torch.
"""

import importlib
from typing import Any

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
