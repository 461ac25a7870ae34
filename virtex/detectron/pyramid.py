"""Hierarchical networks (Swin, ConvNeXt, CNNs of timm) below Detectron2's feature pyramid (FPN).

A detector holds the network of the family under its canonical names, in
``backbone.bottom_up.network.``. The feature maps of strides 4, 8, 16 and 32 are ``res2`` …
``res5``, so that the protocols' ``MODEL.FPN.*`` apply. Batch norm and stages are trained or frozen
as those of a ResNet: ``MODEL.RESNETS.NORM`` (``BN``, ``SyncBN`` or ``FrozenBN``) and
``MODEL.BACKBONE.FREEZE_AT``.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d
from timm.layers.norm_act import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from virtex.backbones.registry import BATCH_COUNTER, Arch, get_family
from virtex.checkpoints.backbone import Backbone as Checkpoint
from virtex.checkpoints.backbone import build_network
from virtex.detectron.adapters import (
    ConvertedBackbone,
    Features,
    builder_name,
    decode_arch,
    encode_arch,
    input_settings,
)
from virtex.errors import UserError

PREFIX = "backbone.bottom_up.network."
STRIDES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")  # attributes of timm's blocks
PROBE_SIZE = 64  # pixels; of the image that shows which parameters a feature map depends on
IMAGE_SIZE = (320, 480)  # a height and width that detectors use


def convert_fpn(backbone: Checkpoint, cfg: CfgNode) -> ConvertedBackbone:
    """Place a network with feature maps of strides 4, 8, 16 and 32 below a feature pyramid.

    Raises:
        UserError: the network has no feature map of one of these strides, or a fixed input size.
    """
    arch, family = backbone.arch, get_family(backbone.arch)
    names = map_names(arch)
    if missing := [str(stride) for stride, name in STRIDES.items() if name not in names.values()]:
        raise UserError(
            f"{arch.name} cannot be used in an FPN detector: expected feature maps of strides 4, "
            f"8, 16 and 32, but it has none of {', '.join(missing)}; choose another network",
            code="detection.unsupported_backbone",
        )
    requirement = family.input_size_requirement(arch, *IMAGE_SIZE)
    if requirement and not has_maps(arch, *IMAGE_SIZE):
        raise UserError(
            f"{arch.name} cannot be used in detectors, which use images of many sizes: it expects "
            f"{requirement}; choose another network",
            code="detection.unsupported_backbone",
        )
    notes: tuple[str, ...] = ()
    if needs_out_norms(cfg.MODEL.NETWORK.OUT_NORM, backbone.state_dict):
        maps = ", ".join(cfg.MODEL.FPN.IN_FEATURES)
        notes = (f"initialized LayerNorm after the feature maps {maps}",)

    def reference_features(images: Tensor) -> Features:
        network = build_network(backbone).eval().to(images.device)
        return rename_maps(family.features(network, images), names)

    return ConvertedBackbone(
        settings={
            **input_settings(backbone.input),
            "MODEL.BACKBONE.NAME": builder_name("network", cfg),
            "MODEL.NETWORK.ARCH": encode_arch(arch),
        },
        weights=with_prefix(PREFIX, backbone.state_dict),
        prefixes=(PREFIX,),
        detector_features=lambda detector, x: detector.backbone.bottom_up.features(x),
        reference_features=reference_features,
        layer_ids={PREFIX + name: family.layer_id(arch, name) for name in backbone.state_dict},
        has_drop_path=cfg.MODEL.NETWORK.DROP_PATH > 0 and has_drop_path(arch),
        notes=notes,
    )


def map_names(arch: Arch) -> dict[str, str]:
    """Return the family's names of the feature maps -> ours; the last map of each stride."""
    by_stride = {stride: name for name, stride in get_family(arch).strides(arch).items()}
    return {by_stride[stride]: name for stride, name in STRIDES.items() if stride in by_stride}


def has_maps(arch: Arch, height: int, width: int) -> bool:
    """Return whether feature maps of this size can be computed.

    Some networks require another size only for pooling (CLIP's ResNets).
    """
    with torch.device("meta"), torch.no_grad():
        network = get_family(arch).build(arch).eval()
        try:
            get_family(arch).features(network, torch.empty(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError):
            return False
    return True


def rename_maps(maps: Features, names: dict[str, str]) -> Features:
    return {ours: maps[name] for name, ours in names.items()}


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names; without BatchNorm's counters, which frozen batch norm does not have."""
    return {prefix + k: v for k, v in tensors.items() if not k.endswith(f".{BATCH_COUNTER}")}


def needs_out_norms(setting: str, names: Iterable[str]) -> bool:
    """Return whether feature maps get a norm layer; "auto": unless the network has batch norm."""
    return setting == "LN" or (
        setting == "auto" and not any(name.endswith(".running_mean") for name in names)
    )


class NetworkBackbone(Backbone):
    """The network of an architecture as the part below a feature pyramid.

    Parameters that no feature map depends on, such as a final norm, are frozen.
    """

    def __init__(self, cfg: CfgNode, arch: Arch):
        super().__init__()
        network, settings = get_family(arch).build(arch), cfg.MODEL.NETWORK
        self.arch, self.network = arch, network
        self.names = map_names(arch)
        strides, channels = (
            {self.names[k]: v for k, v in sizes.items() if k in self.names}
            for sizes in (get_family(arch).strides(arch), get_family(arch).channels(arch))
        )
        self._out_features = list(cfg.MODEL.FPN.IN_FEATURES)
        self._out_feature_strides = {name: strides[name] for name in self._out_features}
        self._out_feature_channels = {name: channels[name] for name in self._out_features}
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            convert_batch_norm(network, cfg.MODEL.RESNETS.NORM, arch)
        freeze(self, cfg.MODEL.BACKBONE.FREEZE_AT)
        if settings.DROP_PATH > 0:
            set_drop_path(network, settings.DROP_PATH)
        if settings.CHECKPOINTING:
            enable_checkpointing(network, arch)
        self.out_norms = nn.ModuleDict()
        if needs_out_norms(settings.OUT_NORM, network.state_dict()):
            for name in self._out_features:
                self.out_norms[name] = LayerNorm2d(channels[name])

    def features(self, images: Tensor) -> Features:
        """Return the outputs of the stages: ``res2`` … ``res5``.

        Args:
            images: normalized (batch, 3, height, width).
        """
        return rename_maps(get_family(self.arch).features(self.network, images), self.names)

    def forward(self, images: Tensor) -> Features:
        """Return the feature maps that the pyramid uses, after their norm layers."""
        maps = self.features(images)
        return {
            name: self.out_norms[name](maps[name]) if self.out_norms else maps[name]
            for name in self._out_features
        }


def drop_path_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of a timm network that have stochastic depth."""
    return [m for m in network.modules() if any(hasattr(m, key) for key in DROP_PATHS)]


def has_drop_path(arch: Arch) -> bool:
    with torch.device("meta"):
        return bool(drop_path_blocks(get_family(arch).build(arch)))


def set_drop_path(network: nn.Module, rate: float) -> None:
    """Set stochastic depth of the blocks of a timm network, from 0 to ``rate`` in the last one."""
    blocks = drop_path_blocks(network)
    for index, block in enumerate(blocks):
        for key in filter(partial(hasattr, block), DROP_PATHS):
            setattr(block, key, DropPath(rate * index / max(1, len(blocks) - 1)))


def enable_checkpointing(network: Any, arch: Arch) -> None:
    """Make a timm network recompute activations in the backward pass.

    Raises:
        UserError: it cannot.
    """
    if not hasattr(network, "set_grad_checkpointing"):
        raise UserError(
            f"MODEL.NETWORK.CHECKPOINTING must be False for {arch.name}, which does not support "
            "it; remove the setting",
            code="config.no_effect",
        )
    network.set_grad_checkpointing(True)


def convert_batch_norm(network: nn.Module, norm: str, arch: Arch) -> None:
    """Train, synchronize or freeze batch norm as ``MODEL.RESNETS.NORM`` states.

    Raises:
        UserError: the setting is another norm, or that of processes on CPUs.
    """
    if norm == "FrozenBN":
        freeze_batch_norm_2d(network)
    elif norm in ("SyncBN", "nnSyncBN"):
        convert_sync_batchnorm(network)
    elif norm != "BN":
        raise UserError(
            f"MODEL.RESNETS.NORM must be BN, SyncBN or FrozenBN for {arch.name}, not {norm}; "
            "set FrozenBN for several processes on CPUs",
            code="config.invalid_value",
        )


def freeze(backbone: NetworkBackbone, freeze_at: int) -> None:
    """Freeze what no feature map depends on, and the stages up to ``res{freeze_at}``; 1: the stem.

    As in Detectron2's ResNets, the batch norm of frozen stages uses its running statistics.
    """
    network, arch = backbone.network, backbone.arch
    network.eval()  # in training mode, batch norm needs more than one value per channel
    maps = backbone.features(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
    network.train()
    parameters = dict(network.named_parameters())
    frozen = parameters.keys() - depended_on([maps[n] for n in backbone._out_features], parameters)
    if freeze_at >= 1:
        frozen |= {name for name in parameters if get_family(arch).layer_id(arch, name) == 0}
    for name in list(STRIDES.values())[: max(0, freeze_at - 1)]:
        if name in maps:
            frozen |= depended_on([maps[name]], parameters)
    for name in frozen:
        parameters[name].requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, _BatchNorm) and f"{name}.weight" in frozen:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, freeze_batch_norm_2d(module))


def depended_on(outputs: Sequence[Tensor], parameters: dict[str, nn.Parameter]) -> set[str]:
    """Return the names of the parameters that any of the outputs depends on."""
    total = torch.stack([output.sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(
        total, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {name for name, g in zip(parameters, gradients, strict=True) if g is not None}


def network_fpn(cfg: CfgNode, is_retinanet: bool) -> FPN:
    """Build a feature pyramid on the network of ``MODEL.NETWORK.ARCH``."""
    bottom_up = NetworkBackbone(cfg, decode_arch(cfg.MODEL.NETWORK.ARCH))
    fpn = cfg.MODEL.FPN
    top_block: Any = LastLevelMaxPool()
    if is_retinanet:
        top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, fpn.OUT_CHANNELS)
    return FPN(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_network_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    return network_fpn(cfg, is_retinanet=False)


@BACKBONE_REGISTRY.register()
def build_retinanet_network_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    return network_fpn(cfg, is_retinanet=True)
