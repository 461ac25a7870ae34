"""Convert ResNets for Detectron2 detectors.

torchvision's ``layerN`` is ``res(N+1)``, ``bnK`` is ``convK.norm``, ``downsample.0`` / ``.1`` are
``shortcut`` / ``shortcut.norm``, the stem's ``conv1`` / ``bn1`` are ``stem.conv1`` /
``stem.conv1.norm``.
"""

from typing import Any, TypeVar

from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from virtex.backbones.registry import get_family
from virtex.backbones.resnet import STAGES, ResNetArch, resnet_features
from virtex.checkpoints.backbone import Backbone, build_network
from virtex.detectron.adapters import ConvertedBackbone, Detector, Features, input_settings
from virtex.errors import UserError

Value = TypeVar("Value")


def convert_fpn(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Place the stem to res5 below a feature pyramid, in ``backbone.bottom_up.``."""
    return ConvertedBackbone(
        settings=resnet_settings(backbone),
        weights=rename(backbone.state_dict, dict.fromkeys(STAGES, "backbone.bottom_up.")),
        layer_ids=rename(layer_ids(backbone), dict.fromkeys(STAGES, "backbone.bottom_up.")),
        prefixes=("backbone.bottom_up.",),
        detector_features=lambda detector, x: detector_stages(detector.backbone.bottom_up, x),
        reference_features=lambda x: resnet_features(build_reference_model(backbone, x), x),
    )


def convert_c4(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Place the stem to res4 in ``backbone.``, and res5 in ``roi_heads.``, applied to regions."""

    def features(detector: Detector, x: Tensor) -> Features:
        found = detector_stages(detector.backbone, x)
        blocks = (m for name, m in detector.roi_heads.res5.named_children() if name != "norm")
        return {**found, "res5": nn.Sequential(*blocks)(found["res4"])}

    settings = resnet_settings(backbone)
    places = {**dict.fromkeys(STAGES, "backbone."), "res5": "roi_heads."}
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and resnet_arch(backbone).block == "basic":
        settings["MODEL.ROI_HEADS.NAME"] = "AnyDepthRes5ROIHeads"
    return ConvertedBackbone(
        settings=settings,
        weights=rename(backbone.state_dict, places),
        layer_ids=rename(layer_ids(backbone), places),
        prefixes=("backbone.", "roi_heads.res5."),
        # the head's own norm layer (virtex.detectron.heads)
        excluded_prefixes=("roi_heads.res5.norm.",),
        detector_features=features,
        reference_features=lambda x: resnet_features(build_reference_model(backbone, x), x),
    )


def convert_dc5(backbone: Backbone, cfg: CfgNode) -> ConvertedBackbone:
    """Place the stem to res5 in ``backbone.``, with res5 dilated at stride 16.

    Raises:
        UserError: for ResNet-18 and 34, whose blocks Detectron2 cannot dilate.
    """
    if resnet_arch(backbone).block == "basic":
        raise UserError(
            f"{backbone.arch.name} cannot be used in a DC5 detector: Detectron2 has no dilated "
            "basic block; use an FPN or C4 config",
            code="detection.unsupported_backbone",
        )
    return ConvertedBackbone(
        settings=resnet_settings(backbone),
        weights=rename(backbone.state_dict, dict.fromkeys(STAGES, "backbone.")),
        layer_ids=rename(layer_ids(backbone), dict.fromkeys(STAGES, "backbone.")),
        prefixes=("backbone.",),
        detector_features=lambda detector, x: detector_stages(detector.backbone, x),
        reference_features=lambda x: resnet_features(
            dilate_res5(build_reference_model(backbone, x)), x
        ),
    )


def resnet_arch(backbone: Backbone) -> ResNetArch:
    assert isinstance(backbone.arch, ResNetArch)
    return backbone.arch


def resnet_settings(backbone: Backbone) -> dict[str, Any]:
    """Return Detectron2's settings for a ResNet, wide ResNet or ResNeXt."""
    arch = resnet_arch(backbone)
    return {
        **input_settings(backbone.input),
        "MODEL.RESNETS.DEPTH": arch.depth,
        "MODEL.RESNETS.NUM_GROUPS": arch.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if arch.block == "basic" else 256,
        "MODEL.RESNETS.STRIDE_IN_1X1": arch.stride_in_1x1,
    }


def rename(values: dict[str, Value], prefixes: dict[str, str]) -> dict[str, Value]:
    """Return values of tensors by Detectron2's names, with the prefix of their stages."""
    renamed = {}
    for name, value in values.items():
        if name.endswith(".num_batches_tracked"):
            continue  # a counter of training steps that momentum-based BatchNorm never reads
        inner = detectron2_name(name)
        renamed[prefixes[inner.partition(".")[0]] + inner] = value
    return renamed


def layer_ids(backbone: Backbone) -> dict[str, int]:
    family = get_family(backbone.arch)
    return {name: family.layer_id(backbone.arch, name) for name in backbone.state_dict}


def detectron2_name(name: str) -> str:
    """Translate ``layer1.0.bn1.weight`` to ``res2.0.conv1.norm.weight``, without a prefix."""
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
    """Translate ``bn1`` to the norm of ``conv1``; ``conv1`` stays."""
    return [f"conv{part.removeprefix('bn')}", "norm"] if part.startswith("bn") else [part]


def detector_stages(resnet: Detector, x: Tensor) -> Features:
    """Return the output of every stage of a Detectron2 ResNet, also of those it does not return."""
    x = resnet.stem(x)
    features = {}
    for stage in ("res2", "res3", "res4", "res5"):
        if hasattr(resnet, stage):
            x = features[stage] = getattr(resnet, stage)(x)
    return features


def build_reference_model(backbone: Backbone, x: Tensor) -> ResNet:
    """Return torchvision's network with the checkpoint's weights in eval mode on ``x``'s device."""
    network = build_network(backbone)
    assert isinstance(network, ResNet)
    return network.eval().to(x.device)


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
