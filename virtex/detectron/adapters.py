"""Convert a backbone of any family into part of a Detectron2 detector.

A converter takes a backbone into one detector layout. A family lists its converters by name in
``Family.detectron2_converters``; layouts it does not list are refused.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from virtex.backbones.registry import Arch, get_families, get_family
from virtex.checkpoints.backbone import Backbone, InputSpec
from virtex.errors import UserError
from virtex.text import short_repr

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
        excluded_prefixes: of names with ``prefixes`` that are not in the checkpoint: a head, or
            parameters that the detector adds.
        layer_ids: the detector's tensor names -> ``Family.layer_id``.
        has_drop_path: whether the network's blocks have stochastic depth.
        notes: sentences for the record about what the detector adds to the network or changes.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    prefixes: tuple[str, ...]
    detector_features: Callable[[Detector, Tensor], Features]
    reference_features: Callable[[Tensor], Features]
    excluded_prefixes: tuple[str, ...] = ()
    layer_ids: Mapping[str, int] = field(default_factory=dict)
    has_drop_path: bool = False
    notes: tuple[str, ...] = ()


Converter = Callable[[Backbone, CfgNode], ConvertedBackbone]


FPN_PROTOCOLS = (
    "a protocol with a feature pyramid: one of --task coco or lvis, or --task voc --protocol "
    "fpn-24k"
)


def detector_layout(cfg: CfgNode) -> str:
    """Return the detector layout of a configuration: FPN, C4, DC5 or MAP (the last feature map)."""
    if cfg.MODEL.BACKBONE.NAME == "LastMapBackbone":
        return "MAP"
    if "fpn" in cfg.MODEL.BACKBONE.NAME.lower():
        return "FPN"
    return "DC5" if "res5" in cfg.MODEL.RESNETS.OUT_FEATURES else "C4"


def convert_backbone(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Convert a backbone for the detector that ``cfg`` describes.

    Raises:
        UserError: the family has no converter for the layout, or it does not support this
            architecture; the protocol is for vision transformers; or the backbone of a C4 detector
            is to be frozen.
    """
    layout, converters = detector_layout(cfg), get_family(backbone.arch).detectron2_converters
    if cfg.MODEL.BACKBONE.FROZEN and layout == "C4":
        raise UserError(
            "MODEL.BACKBONE.FROZEN must be False in a C4 detector, whose head is a stage of the "
            f"backbone; use {FPN_PROTOCOLS}",
            code="detection.frozen_c4",
        )
    if cfg.MODEL.VIT.DEPTH and backbone.arch.family != "vit":
        raise UserError(
            f"{backbone.arch.name} cannot be used in a ViTDet protocol, which is for vision "
            "transformers; use another protocol, such as 2x or, with --task coco, adamw-3x",
            code="detection.unsupported_backbone",
        )
    if layout not in converters:
        supported = ", ".join(converters) or "no detector layout"
        hint = f"; use {FPN_PROTOCOLS}" if "FPN" in converters else ""
        raise UserError(
            f"{backbone.arch.name} cannot be used in a {layout} detector: the family "
            f"{backbone.arch.family} supports {supported}{hint}",
            code="detection.unsupported_backbone",
        )
    module, name = converters[layout].split(":")
    converter: Converter = getattr(importlib.import_module(module), name)
    converted = converter(backbone, cfg)
    if cfg.MODEL.NETWORK.DROP_PATH == 0 or converted.has_drop_path:
        return converted
    return replace(
        converted,
        settings={**converted.settings, "MODEL.NETWORK.DROP_PATH": 0.0},
        notes=(*converted.notes, "no stochastic depth: the network's blocks do not support it"),
    )


def input_settings(spec: InputSpec) -> dict[str, Any]:
    """Return the input settings; Detectron2 reads pixels as 0-255 in ``INPUT.FORMAT`` order."""
    to_255 = 255.0 / spec.scale
    return {
        "INPUT.FORMAT": spec.channel_order,
        "MODEL.PIXEL_MEAN": [round(value * to_255, 6) for value in spec.mean],
        "MODEL.PIXEL_STD": [round(value * to_255, 6) for value in spec.std],
    }


def builder_name(kind: str, cfg: CfgNode) -> str:
    """Return the name in ``BACKBONE_REGISTRY`` for ``cfg``'s FPN, RetinaNet's with p6 and p7."""
    retinanet = "retinanet_" if "retinanet" in cfg.MODEL.BACKBONE.NAME else ""
    return f"build_{retinanet}{kind}_fpn_backbone"


def encode_arch(arch: Arch) -> str:
    """Return an architecture as the text of ``MODEL.NETWORK.ARCH``: its family and JSON.

    The family comes first because yacs evaluates strings that are Python literals, as JSON may be.
    """
    fields = {name: value for name, value in asdict(arch).items() if name != "family"}
    return f"{arch.family} {json.dumps(fields)}"


def decode_arch(text: str) -> Arch:
    """Return the architecture of ``encode_arch``.

    Raises:
        UserError: the text is not one.
    """
    name, _, fields = text.partition(" ")
    try:
        values = {k: _to_tuple(v) for k, v in json.loads(fields).items()}
        return type(get_families()[name].default_arch)(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"MODEL.NETWORK.ARCH should be an architecture of a run's config.yaml, found "
            f"{short_repr(text)}; it is set by --checkpoint",
            code="config.invalid_value",
        ) from error


def _to_tuple(value: Any) -> Any:
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value
