"""All other networks of timm with feature maps of several strides, known by timm's names.

EfficientNet, RegNet, MobileNet, ResNet-D, anti-aliased and CLIP's ResNets, and hundreds more. Their
tensors alone do not show which network they belong to (``resnetaa50`` has those of a ResNet-50), so
that the user or the file must name it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from virtex.backbones.registry import (
    Arch,
    UnsupportedArchitectureError,
    detect_arch,
    expected_shapes,
    get_family,
    register_family,
)
from virtex.backbones.timm_models import (
    TimmFamily,
    reject_extra_tensors,
    timm_name,
    timm_network,
    timm_normalization,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_STRIDE = 4  # of a feature map; detectors do not use larger maps
_HEADS = ("head", "head_dist", "fc", "classifier", "last_linear")
# Buffers that the network computes or does not need
_BUFFERS = r"relative_position_index|attn_mask|num_batches_tracked"
_OWN = "timm's own"  # value of a setting


@dataclass(frozen=True)
class TimmArch(Arch):
    """One of timm's networks.

    Attributes:
        model: timm's name, without the tag of pretrained weights.
    """

    family: str = field(default="timm_cnn", init=False)
    model: str

    @property
    def name(self) -> str:
        return self.model


class TimmCnnFamily(TimmFamily):
    """Networks of timm whose stages have increasing strides; feature maps ``stride4``, ….

    The representation ``"avg"`` is what timm's classifier gets. That is the mean of the last
    feature map in most networks; some have layers after it (EfficientNet, MobileNet), or attention
    pooling (CLIP's ResNets).
    """

    name = "timm_cnn"
    default_arch = TimmArch("efficientnet_b0")
    anchor_key = "conv_stem.weight"
    generic_formats = False
    format_fields = ("model",)
    size_fields = ("model",)
    fixed_settings: ClassVar = {"norm_eps": _OWN, "activation": _OWN, "anti_aliasing": _OWN}
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.pyramid:convert_fpn",
        "MAP": "virtex.detectron.last_map:convert_map",
    }

    def detect(self, tensors: Mapping[str, Any]) -> TimmArch | None:
        """See ``Family``. Only ``detect_named`` detects them."""
        return None

    def detect_named(self, tensors: Mapping[str, Any], name: str) -> TimmArch | None:
        model = timm_name(name)
        if not model or is_other(model) or not is_hierarchical(timm_network(model)):
            return None
        arch = TimmArch(model)
        expected = expected_shapes(arch)
        if 2 * len(expected.keys() & tensors.keys()) < len(expected):
            return None
        modules = {name.partition(".")[0] for name in expected}.difference(_HEADS)
        inside = re.compile(rf"(?!.*\.(?:{_BUFFERS})$)(?:{'|'.join(map(re.escape, modules))})\..+")
        reject_extra_tensors({k: tuple(v.shape) for k, v in tensors.items()}, arch, inside)
        return arch

    def build(self, arch: TimmArch) -> nn.Module:
        import timm

        timm_network(arch.model)  # raises for an unknown name
        return timm.create_model(arch.model, num_classes=0)

    def features(self, network: Any, images: Tensor) -> dict[str, Tensor]:
        maps = network.forward_intermediates(images, intermediates_only=True)
        return {
            f"stride{stage['reduction']}": stage_map
            for stage, stage_map in zip(network.feature_info, maps, strict=True)
            if stage["reduction"] >= MIN_STRIDE
        }

    def strides(self, arch: TimmArch) -> dict[str, int]:
        strides = [stage["reduction"] for stage in timm_network(arch.model).feature_info]
        return {f"stride{stride}": stride for stride in strides if stride >= MIN_STRIDE}

    def channels(self, arch: TimmArch) -> dict[str, int]:
        return {
            f"stride{stage['reduction']}": stage["num_chs"]
            for stage in timm_network(arch.model).feature_info
            if stage["reduction"] >= MIN_STRIDE
        }

    def representations(self, arch: TimmArch) -> dict[str, int]:
        return {"avg": timm_network(arch.model).head_hidden_size}

    def represent(self, network: Any, images: Tensor, name: str) -> Tensor:
        assert name == "avg", name
        return network.forward_head(network.forward_features(images), pre_logits=True)

    def get_stage(self, name: str) -> str:
        match = re.match(r"[a-z_]+\.?\d+(?=\.)|[^.]+", name)
        assert match is not None
        return match[0]

    def layer_id(self, arch: TimmArch, name: str) -> int:
        """See ``Family``. The layers are those of timm's layer-wise learning rate decay."""
        return layer_ids(arch.model)[name]

    def input_size_requirement(self, arch: TimmArch, height: int, width: int) -> str | None:
        cfg = timm_network(arch.model).pretrained_cfg
        size = tuple(cfg["input_size"][1:])
        if cfg.get("fixed_input_size") and (height, width) != size:
            return f"{size[0]}x{size[1]} pixels"
        return None

    def read_fields(self, network: Any) -> dict[str, Any]:
        return {}

    def stated_fields(self, arch: Arch, stated: str) -> dict[str, Any]:
        """See ``TimmFamily``. Also the normalization of timm's pretrained weights of that name."""
        fields = super().stated_fields(arch, stated)
        return {**fields, "normalization": timm_normalization(stated)} if fields else {}


def is_hierarchical(network: Any) -> bool:
    """Return whether timm's network has feature maps of increasing strides."""
    strides = [stage["reduction"] for stage in getattr(network, "feature_info", ())]
    return (
        hasattr(network, "forward_intermediates")
        and len(strides) > 1
        and strides == sorted(set(strides))
    )


@lru_cache(maxsize=64)
def is_other(model: str) -> bool:
    """Return whether another family has timm's network of this name."""
    try:
        arch = detect_arch(timm_network(model).state_dict())
    except UnsupportedArchitectureError:
        return False
    return arch is not None and not get_family(arch).contradicts(arch, model)


@lru_cache(maxsize=16)
def layer_ids(model: str) -> dict[str, int]:
    """Return the depth of every tensor, 0 for the stem, as timm groups them by layer."""
    from timm.models._manipulate import group_with_matcher

    network = timm_network(model)
    tensors = network.state_dict()
    if not hasattr(network, "group_matcher"):
        return {name: int(not name.startswith("stem")) for name in tensors}
    return group_with_matcher(tensors.items(), network.group_matcher(), reverse=True)


register_family(TimmCnnFamily())
