"""Plain vision transformers in detectors: a simple feature pyramid on timm's blocks.

The pyramid is that of ViTDet (Li et al., arXiv 2203.16527): all levels are computed from the last
feature map. As there, most blocks attend in windows, and evenly spaced ones globally. The network
is held under timm's names in ``backbone.net.``.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from virtex.backbones.registry import get_family
from virtex.backbones.vit import ViTArch, build_vit
from virtex.checkpoints.backbone import Backbone as Checkpoint
from virtex.checkpoints.backbone import build_network
from virtex.config.overrides import invalid_value
from virtex.detectron.adapters import (
    ConvertedBackbone,
    Features,
    builder_name,
    decode_arch,
    encode_arch,
    input_settings,
)
from virtex.detectron.norms import build_norm
from virtex.detectron.pyramid import set_drop_path, with_prefix
from virtex.detectron.vit_blocks import add_relative_positions, run_block
from virtex.errors import UserError

PREFIX = "backbone.net."
KERNEL = "patch_embed.proj.weight"
INTERPOLATIONS = {
    "antialias": "bicubic with antialiasing",
    "plain": "bicubic",
    "offset": "bicubic, scaled by (size + 0.1) / grid",
}
# Parameters that the feature map does not depend on
UNUSED = ("fc_norm.", "attn_pool.")


def convert_fpn(backbone: Checkpoint, cfg: CfgNode) -> ConvertedBackbone:
    """Place a vision transformer below a simple feature pyramid.

    Features are compared with global attention in all blocks, as the network was trained.

    Raises:
        UserError: for ``Beit`` and ``ViTDet``.
    """
    arch, family = backbone.arch, get_family(backbone.arch)
    assert isinstance(arch, ViTArch)
    if arch.implementation == "Beit":
        raise UserError(
            f"{arch.name} cannot be used in detectors: its relative position bias is that of "
            f"{arch.image_size}x{arch.image_size} pixels; choose a ViT with position embeddings",
            code="detection.unsupported_backbone",
        )
    if arch.implementation == "ViTDet":
        raise UserError(
            f"{arch.name} cannot be used in detectors: it was trained in one, with windows of its "
            "own; choose the ViT that it was initialized with",
            code="detection.unsupported_backbone",
        )
    notes = list(depth_notes(cfg, arch))
    size = cfg.MODEL.VIT.PATCH_SIZE or arch.patch_size
    if arch.patch_size != size:
        notes.append(
            f"patch embedding resampled from {arch.patch_size}x{arch.patch_size} to {size}x{size} "
            "pixels (pseudo-inverse of bicubic interpolation with antialiasing, arXiv 2212.08013)"
        )
        kernel = resample_patch_embed(backbone.state_dict[KERNEL], [size, size])
        arch = replace(arch, patch_size=size)
        backbone = replace(backbone, arch=arch, state_dict={**backbone.state_dict, KERNEL: kernel})
    if arch.patch_size != map_stride(arch.patch_size):
        notes.append(
            f"feature map interpolated (bilinear) from stride {arch.patch_size} to stride "
            f"{map_stride(arch.patch_size)}"
        )
    if arch.positions != "none":
        is_plain = arch.implementation == "VisionTransformer"  # Eva has timm's interpolation only
        notes.append(
            f"position embeddings of {arch.grid}x{arch.grid} patches interpolated to every image: "
            + (INTERPOLATIONS[arch.interpolation] if is_plain else INTERPOLATIONS["antialias"])
        )
    whole, window = attends_globally(cfg, arch), cfg.MODEL.VIT.WINDOW_SIZE
    if len(whole) < arch.depth:
        notes.append(
            f"attention in windows of {window}x{window} patches, except in the blocks "
            f"{', '.join(map(str, sorted(whole)))}; compared with global attention in all blocks"
        )
    if dropped := [name.rstrip("._") for name in excluded_parameters(cfg, arch)]:
        notes.append(
            "used to compare features with the original network, but not in the detector: "
            f"{', '.join(dropped)}"
        )
    if cfg.MODEL.VIT.REL_POS:
        notes.append(
            "relative position embeddings are initialized to zero"
            if has_relative_positions(cfg, arch)
            else f"no relative position embeddings: {arch.name} has rotary ones"
        )
    in_attention = [f"blocks.{block}.attn.rel_pos_" for block in range(arch.depth)]
    own = [name + axis for name in in_attention for axis in "hw"]

    def reference_features(images: Tensor) -> Features:
        network = build_network(backbone).eval().to(images.device)
        return family.features(network, pad_to_multiple(images, arch.patch_size))

    return ConvertedBackbone(
        settings={
            **input_settings(backbone.input),
            "MODEL.BACKBONE.NAME": builder_name("vit", cfg),
            "MODEL.NETWORK.ARCH": encode_arch(arch),
            **({"MODEL.VIT.DEPTH": arch.depth} if cfg.MODEL.VIT.DEPTH else {}),
        },
        weights=with_prefix(PREFIX, backbone.state_dict),
        prefixes=(PREFIX,),
        detector_features=lambda detector, x: {
            "final": detector.backbone.last_map(x, as_pretrained=True)
        },
        reference_features=reference_features,
        excluded_prefixes=tuple(PREFIX + name for name in in_attention),
        layer_ids={
            PREFIX + name: family.layer_id(arch, name) for name in (*backbone.state_dict, *own)
        },
        has_drop_path=True,
        notes=tuple(notes),
    )


def depth_notes(cfg: CfgNode, arch: ViTArch) -> tuple[str, ...]:
    """Return a note if the protocol is for a network of another depth."""
    depth = cfg.MODEL.VIT.DEPTH
    if depth in (0, arch.depth):
        return ()
    return (
        f"layer decay, drop path and schedule of this protocol are for a network with {depth} "
        f"blocks, but {arch.name} has {arch.depth}; vitdet is for 12 blocks, vitdet-l for 24, and "
        "vitdet-h for 32",
    )


def excluded_parameters(cfg: CfgNode, arch: ViTArch) -> tuple[str, ...]:
    """Return the prefixes of parameters that the settings exclude from the feature map."""
    found: tuple[str, ...] = ()
    if not cfg.MODEL.VIT.TOKENS and arch.implementation != "Eva":  # timm's Eva needs its tokens
        found += ("cls_token",) * arch.class_token + ("reg_token",) * bool(arch.registers)
    if not cfg.MODEL.VIT.FINAL_NORM and arch.final_norm == "norm":
        found += ("norm.",)
    return found


def has_relative_positions(cfg: CfgNode, arch: ViTArch) -> bool:
    return cfg.MODEL.VIT.REL_POS and arch.implementation == "VisionTransformer"


def map_stride(patch_size: int) -> int:
    """Return the stride of the map below the pyramid, which must be a power of two."""
    return 2 ** math.ceil(math.log2(patch_size))


def attends_globally(cfg: CfgNode, arch: ViTArch) -> set[int]:
    """Return the blocks without windows: the last ones of equal groups of blocks, or all."""
    if not cfg.MODEL.VIT.WINDOW_SIZE:
        return set(range(arch.depth))
    groups = cfg.MODEL.VIT.GLOBAL_BLOCKS
    return {math.ceil(arch.depth * (group + 1) / groups) - 1 for group in range(groups)}


def pad_to_multiple(images: Tensor, size: int) -> Tensor:
    """Pad (batch, 3, height, width) with zeros at the right and bottom."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % size, 0, -height % size))


class SimpleFeaturePyramid(Backbone):
    """A vision transformer of timm, and feature maps ``p2``, ``p3``, … computed from its last one.

    In blocks with window attention, patches are padded with zeros to whole windows, as in ViTDet.
    The class and register tokens are part of every window, so that patches attend to them as in
    pretraining, unless ``MODEL.VIT.TOKENS`` drops them. Rotary positions are those of the patches
    in the image. The feature map is normalized by the network's final norm, if it has one and
    ``MODEL.VIT.FINAL_NORM`` keeps it.
    """

    def __init__(self, cfg: CfgNode, arch: ViTArch, is_retinanet: bool):
        super().__init__()
        # convert_fpn has resampled the patch embedding, and set the depth
        assert cfg.MODEL.VIT.PATCH_SIZE in (0, arch.patch_size), arch.patch_size
        assert cfg.MODEL.VIT.DEPTH in (0, arch.depth), arch.depth
        self.net: Any = build_vit(arch)
        self.patch_size = arch.patch_size
        self.excluded_parameters = excluded_parameters(cfg, arch)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not name.startswith(UNUSED + self.excluded_parameters))
        if cfg.MODEL.NETWORK.DROP_PATH > 0:
            set_drop_path(self.net, cfg.MODEL.NETWORK.DROP_PATH)
        self.checkpointing = cfg.MODEL.NETWORK.CHECKPOINTING
        self.window = cfg.MODEL.VIT.WINDOW_SIZE
        self.global_blocks = attends_globally(cfg, arch)
        pad = cfg.MODEL.VIT.SQUARE_PAD
        self.has_relative_positions = has_relative_positions(cfg, arch)
        if self.has_relative_positions:
            if not pad:
                raise invalid_value(
                    "MODEL.VIT.REL_POS requires the image size in MODEL.VIT.SQUARE_PAD, not 0"
                )
            side = math.ceil(pad / arch.patch_size)
            sides = [
                side if block in self.global_blocks else self.window for block in range(arch.depth)
            ]
            add_relative_positions(self.net, sides)
        stride, channels = map_stride(arch.patch_size), cfg.MODEL.FPN.OUT_CHANNELS
        levels = [int(name.removeprefix("res")) for name in cfg.MODEL.FPN.IN_FEATURES]
        for level in levels:
            layers = pyramid_level(arch.embed_dim, channels, 2**level / stride, cfg.MODEL.VIT.NORM)
            self.add_module(f"simfp_{level}", layers)
        self.levels = levels
        self.top_block: Any = LastLevelMaxPool()
        if is_retinanet:
            self.top_block = LastLevelP6P7(channels, channels, f"p{levels[-1]}")
        top = range(levels[-1] + 1, levels[-1] + 1 + self.top_block.num_levels)
        self._out_features = [f"p{level}" for level in (*levels, *top)]
        self._out_feature_strides = {f"p{level}": 2**level for level in (*levels, *top)}
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        self._size_divisibility = 2 ** max(*levels, int(math.log2(stride)))
        if pad % self._size_divisibility:
            raise invalid_value(
                f"MODEL.VIT.SQUARE_PAD must be a multiple of {self._size_divisibility}, not {pad}"
            )
        # images up to this size are padded to squares, also with v0.5
        self._size_divisibility = pad or self._size_divisibility

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def last_map(self, images: Tensor, as_pretrained: bool = False) -> Tensor:
        """Return the feature map of the last block (batch, width, rows, columns).

        Args:
            images: normalized (batch, 3, height, width), padded here to a multiple of the patch
                size.
            as_pretrained: use global attention in all blocks, all tokens and the final norm, and
                no relative positions, as in pretraining.
        """
        net = self.net
        patches = net.patch_embed(pad_to_multiple(images, self.patch_size))
        grid = patches.shape[1:3]  # (batch, rows, columns, width)
        embedded = net._pos_embed(patches)
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)  # of Eva
        tokens, prefix = net.norm_pre(tokens), net.num_prefix_tokens
        excluded = () if as_pretrained else self.excluded_parameters
        if "cls_token" in excluded or "reg_token" in excluded:
            tokens, prefix = tokens[:, prefix:], 0
        for index, block in enumerate(net.blocks):
            run: Callable[[Tensor], Tensor] = block if rope is None else partial(block, rope=rope)
            size = 0 if index in self.global_blocks else self.window
            if not as_pretrained and (size or self.has_relative_positions):
                run = partial(run_block, block, rope=rope, grid=grid, size=size, prefix=prefix)
            if self.checkpointing and self.training:
                tokens = checkpoint(run, tokens, use_reentrant=False)
            else:
                tokens = run(tokens)
        if "norm." not in excluded:
            tokens = net.norm(tokens)
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)

    def forward(self, images: Tensor) -> Features:
        """Return the levels of the pyramid for images (batch, 3, height, width).

        Height and width are multiples of ``size_divisibility``.
        """
        last = self.last_map(images)
        if (stride := map_stride(self.patch_size)) != self.patch_size:
            # rounds the size down: what remains is the padding to a multiple of the patch size
            scale = self.patch_size / stride
            last = F.interpolate(last, scale_factor=scale, mode="bilinear", align_corners=False)
        maps = {f"p{level}": getattr(self, f"simfp_{level}")(last) for level in self.levels}
        top = self.top_block(maps[self.top_block.in_feature])
        return maps | dict(zip(self._out_features[len(maps) :], top, strict=True))


def pyramid_level(width: int, channels: int, scale: float, norm: str) -> nn.Sequential:
    """Return the layers of a level, named as in Detectron2 0.6's ``SimpleFeaturePyramid``.

    Args:
        width: channels of the last feature map.
        channels: of the level.
        scale: stride of the level / stride of the last feature map, a power of two.
        norm: see ``build_norm``.
    """
    layers: list[nn.Module] = []
    for doubling in range(max(0, round(-math.log2(scale)))):
        if doubling:
            layers += [build_norm(norm, width) or nn.Identity(), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width //= 2
    if scale > 1:
        layers.append(nn.MaxPool2d(kernel_size=round(scale), stride=round(scale)))
    for inputs, kernel in ((width, 1), (channels, 3)):
        layers.append(
            Conv2d(
                inputs,
                channels,
                kernel_size=kernel,
                padding=kernel // 2,
                bias=norm == "",
                norm=build_norm(norm, channels),
            )
        )
    return nn.Sequential(*layers)


def vit_fpn(cfg: CfgNode, is_retinanet: bool) -> SimpleFeaturePyramid:
    """Build a simple feature pyramid on the network of ``MODEL.NETWORK.ARCH``."""
    arch = decode_arch(cfg.MODEL.NETWORK.ARCH)
    assert isinstance(arch, ViTArch)
    return SimpleFeaturePyramid(cfg, arch, is_retinanet)


@BACKBONE_REGISTRY.register()
def build_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    return vit_fpn(cfg, is_retinanet=False)


@BACKBONE_REGISTRY.register()
def build_retinanet_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    return vit_fpn(cfg, is_retinanet=True)
