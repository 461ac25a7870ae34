"""Convert a backbone of any family into part of a Detectron2 detector.

A converter takes a backbone into one detector layout. A family lists its converters by name in
``Family.detectron2_converters``; layouts it does not list are refused.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from virtex.backbones.registry import get_family
from virtex.checkpoints.backbone import Backbone, InputSpec
from virtex.errors import UserError

Features = dict[str, Tensor]
# a module of detectron2, which has no type annotations
Detector = Any


@dataclass(frozen=True)
class ConvertedBackbone:
    """A backbone as a detector needs it.

    Attributes:
        settings: Detectron2 settings that the checkpoint decides: key -> value.
        weights: the detector's tensor names -> the checkpoint's tensors.
        prefixes: of the detector's names; ``weights`` must fill all tensors with them.
        detector_features: (detector, images normalized by it (1, 3, height, width)) ->
            feature maps by name.
        reference_features: the same from the original network, for images normalized as
            ``Backbone.input`` states; each call builds the network.
        excluded_prefixes: of names with ``prefixes`` that belong to the detector's head.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    prefixes: tuple[str, ...]
    detector_features: Callable[[Detector, Tensor], Features]
    reference_features: Callable[[Tensor], Features]
    excluded_prefixes: tuple[str, ...] = ()


Converter = Callable[[Backbone, CfgNode], ConvertedBackbone]


def detector_layout(cfg: CfgNode) -> str:
    """Return the detector layout of a configuration: FPN, C4 or DC5."""
    if "fpn" in cfg.MODEL.BACKBONE.NAME.lower():
        return "FPN"
    return "DC5" if "res5" in cfg.MODEL.RESNETS.OUT_FEATURES else "C4"


def convert_backbone(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Convert a backbone for the detector that ``cfg`` describes.

    Raises:
        UserError: the family has no converter for the layout, or it does not support this
            architecture.
    """
    layout, converters = detector_layout(cfg), get_family(backbone.arch).detectron2_converters
    if layout not in converters:
        raise UserError(
            f"{backbone.arch.name} cannot be used in a {layout} detector: the family "
            f"{backbone.arch.family} supports {', '.join(converters) or 'no detector layout'}",
            code="detection.unsupported_backbone",
        )
    module, name = converters[layout].split(":")
    converter: Converter = getattr(importlib.import_module(module), name)
    return converter(backbone, cfg)


def input_settings(spec: InputSpec) -> dict[str, Any]:
    """Return the input settings; Detectron2 reads pixels as 0-255 in ``INPUT.FORMAT`` order."""
    to_255 = 255.0 / spec.scale
    return {
        "INPUT.FORMAT": spec.channel_order,
        "MODEL.PIXEL_MEAN": [round(value * to_255, 6) for value in spec.mean],
        "MODEL.PIXEL_STD": [round(value * to_255, 6) for value in spec.std],
    }
