"""Adapters: how a backbone of some family becomes part of a Detectron2 detector.

One entry a backbone family and detector layout. To add a family, register a function::

    @register_adapter("convnext", "FPN")
    def convnext_fpn(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone: ...

Names (facts from Detectron2's ResNet and torchvision's): ``layerN`` is ``res(N+1)``, ``bnK``
is ``convK.norm``, ``downsample.0`` / ``.1`` are ``shortcut`` / ``shortcut.norm``, the stem's
``conv1`` / ``bn1`` are ``stem.conv1`` / ``stem.conv1.norm``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from virtex.backbones.resnet import resnet_features
from virtex.checkpoints.architecture import build_network
from virtex.checkpoints.backbone import STAGES, Backbone, InputSpec
from virtex.errors import UserError

Features = dict[str, Tensor]
# a module of detectron2, which comes without types: only it knows its parts
Detector = Any


@dataclass(frozen=True)
class ConvertedBackbone:
    """What a detector needs of a backbone.

    Attributes:
        settings: Detectron2 settings that the checkpoint decides: key -> value.
        weights: the detector's own tensor names -> the checkpoint's tensors.
        owned: prefixes of the detector's names that ``weights`` must fill wholly.
        detector_features: (detector, images normalized by it (1, 3, height, width)) ->
            ``{"res2": (1, channels, height / 4, width / 4), … "res5": …}``.
        reference_features: the same from the original network, for images normalized as
            ``Backbone.input`` says; the module that computes it is built by each call.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    owned: tuple[str, ...]
    detector_features: Callable[[Detector, Tensor], Features]
    reference_features: Callable[[Tensor], Features]


Adapter = Callable[[Backbone, CfgNode], ConvertedBackbone]
ADAPTERS: dict[tuple[str, str], Adapter] = {}


def register_adapter(family: str, layout: str) -> Callable[[Adapter], Adapter]:
    """Register the decorated function for a backbone family and detector layout.

    Raises:
        ValueError: the pair is taken.
    """

    def register(adapter: Adapter) -> Adapter:
        if (family, layout) in ADAPTERS:
            raise ValueError(f"an adapter for {family} in {layout} is registered already")
        ADAPTERS[family, layout] = adapter
        return adapter

    return register


def layout_of(cfg: CfgNode) -> str:
    """The detector layout of a configuration: FPN, C4 or DC5."""
    if "fpn" in cfg.MODEL.BACKBONE.NAME.lower():
        return "FPN"
    return "DC5" if "res5" in cfg.MODEL.RESNETS.OUT_FEATURES else "C4"


def adapt(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """The registered adapter's answer for this backbone in the detector that ``cfg`` describes.

    Raises:
        UserError: there is no adapter for the pair, or it cannot take this architecture.
    """
    layout = layout_of(cfg)
    adapter = ADAPTERS.get((backbone.arch.family, layout))
    if adapter is None:
        known = ", ".join(f"{f} in {name}" for f, name in sorted(ADAPTERS))
        raise UserError(
            f"no adapter takes a {backbone.arch.family} backbone into a {layout} detector "
            f"(there are: {known}); register one with virtex.detectron.adapters.register_adapter"
        )
    return adapter(backbone, cfg)


@register_adapter("resnet", "FPN")
def resnet_fpn(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Stem to res5 below a feature pyramid: ``backbone.bottom_up.``."""
    return ConvertedBackbone(
        settings=resnet_settings(backbone),
        weights=rename(backbone, dict.fromkeys(STAGES, "backbone.bottom_up.")),
        owned=("backbone.bottom_up.",),
        detector_features=lambda detector, x: stage_features(detector.backbone.bottom_up, x),
        reference_features=lambda x: resnet_features(original(backbone, x), x),
    )


@register_adapter("resnet", "C4")
def resnet_c4(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Stem to res4 in ``backbone.``; res5 works on regions and lives in ``roi_heads.``."""

    def features(detector: Detector, x: Tensor) -> Features:
        found = stage_features(detector.backbone, x)
        blocks = (m for name, m in detector.roi_heads.res5.named_children() if name != "norm")
        return {**found, "res5": nn.Sequential(*blocks)(found["res4"])}

    settings = resnet_settings(backbone)
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and backbone.arch.block == "basic":
        settings["MODEL.ROI_HEADS.NAME"] = "AnyDepthRes5ROIHeads"
    return ConvertedBackbone(
        settings=settings,
        weights=rename(backbone, {**dict.fromkeys(STAGES, "backbone."), "res5": "roi_heads."}),
        owned=("backbone.", "roi_heads.res5."),
        detector_features=features,
        reference_features=lambda x: resnet_features(original(backbone, x), x),
    )


@register_adapter("resnet", "DC5")
def resnet_dc5(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Stem to res5 in ``backbone.``, res5 dilated at stride 16.

    Raises:
        UserError: for ResNet-18 and 34, whose blocks Detectron2 cannot dilate.
    """
    if backbone.arch.block == "basic":
        raise UserError(
            f"{backbone.arch.name} cannot be put into a DC5 detector: Detectron2 has no dilated "
            "basic block; use an FPN or C4 config"
        )
    return ConvertedBackbone(
        settings=resnet_settings(backbone),
        weights=rename(backbone, dict.fromkeys(STAGES, "backbone.")),
        owned=("backbone.",),
        detector_features=lambda detector, x: stage_features(detector.backbone, x),
        reference_features=lambda x: resnet_features(dilate_res5(original(backbone, x)), x),
    )


def resnet_settings(backbone: Backbone) -> dict[str, Any]:
    """Detectron2's settings for a ResNet, wide ResNet or ResNeXt."""
    arch = backbone.arch
    return {
        **input_settings(backbone.input),
        "MODEL.RESNETS.DEPTH": arch.depth,
        "MODEL.RESNETS.NUM_GROUPS": arch.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if arch.block == "basic" else 256,
        "MODEL.RESNETS.STRIDE_IN_1X1": arch.stride_in_1x1,
    }


def input_settings(spec: InputSpec) -> dict[str, Any]:
    """Detectron2 reads pixels as 0-255 in ``INPUT.FORMAT`` order."""
    to_255 = 255.0 / spec.scale
    return {
        "INPUT.FORMAT": spec.channel_order,
        "MODEL.PIXEL_MEAN": [round(value * to_255, 6) for value in spec.mean],
        "MODEL.PIXEL_STD": [round(value * to_255, 6) for value in spec.std],
    }


def rename(backbone: Backbone, prefixes: dict[str, str]) -> dict[str, Tensor]:
    """torchvision's tensor names -> Detectron2's, each stage behind its prefix."""
    weights = {}
    for name, tensor in backbone.state_dict.items():
        if name.endswith(".num_batches_tracked"):
            continue  # a counter of training steps that momentum-based BatchNorm never reads
        renamed = detectron2_name(name)
        weights[prefixes[renamed.partition(".")[0]] + renamed] = tensor
    return weights


def detectron2_name(name: str) -> str:
    """``layer1.0.bn1.weight`` -> ``res2.0.conv1.norm.weight``; a name relative to the backbone."""
    head, *rest = name.split(".")
    if not head.startswith("layer"):
        return ".".join(["stem", *block_part(head), *rest])
    block, part, *rest = rest
    if part == "downsample":
        kind, *rest = rest
        named = ["shortcut"] if kind == "0" else ["shortcut", "norm"]
    else:
        named = block_part(part)
    return ".".join([f"res{int(head.removeprefix('layer')) + 1}", block, *named, *rest])


def block_part(part: str) -> list[str]:
    """``conv1`` stays; ``bn1`` is the norm of ``conv1``."""
    return [f"conv{part.removeprefix('bn')}", "norm"] if part.startswith("bn") else [part]


def stage_features(resnet: Detector, x: Tensor) -> Features:
    """Every stage's output of a Detectron2 ResNet, whichever of them the detector uses."""
    x = resnet.stem(x)
    features = {}
    for stage in ("res2", "res3", "res4", "res5"):
        if hasattr(resnet, stage):
            x = features[stage] = getattr(resnet, stage)(x)
    return features


def original(backbone: Backbone, x: Tensor) -> ResNet:
    """torchvision's network with the checkpoint's weights, for evaluation where ``x`` is."""
    return build_network(backbone).eval().to(x.device)


def dilate_res5(network: ResNet) -> ResNet:
    """Give torchvision's layer4 stride 1 and dilation 2 in every 3x3 convolution.

    torchvision's own ``replace_stride_with_dilation`` leaves the first block undilated;
    Detectron2 dilates all of them.
    """
    for module in network.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
    return network
