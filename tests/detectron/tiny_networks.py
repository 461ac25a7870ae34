"""Tiny networks of several families for the detector tests."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from tests.detectron.backbones import IMAGENET_RGB
from virtex.backbones.convnext import ConvNeXtArch
from virtex.backbones.registry import Arch, Family, get_family
from virtex.backbones.swin import SwinArch
from virtex.backbones.vit import ViTArch
from virtex.checkpoints.backbone import Backbone, Source
from virtex.checkpoints.coverage import Coverage

VITS = {
    # DINOv2 with registers: LayerScale, positions of the patches only
    "dinov2": ViTArch(
        *(48, 3, 14, 9, 96), heads=3, layer_scale=True, registers=2, positions="patches"
    ),
    # MAE fine-tuned: no norm of the feature map
    "mae": ViTArch(48, 3, 16, 7, 96, heads=3, final_norm="fc_norm", interpolation="plain"),
    # DINOv3: rotary positions only
    "dinov3": ViTArch(
        *(48, 3, 16, 0, 96),
        implementation="Eva",
        heads=3,
        layer_scale=True,
        registers=4,
        positions="none",
        norm_eps=1e-5,
    ),
    "siglip": ViTArch(
        *(48, 3, 16, 7, 96), heads=3, class_token=False, positions="patches", attention_pool=True
    ),
}
NETWORKS = [
    ConvNeXtArch((1, 2, 1, 1), (16, 24, 32, 40)),
    SwinArch(16, (1, 2, 2, 2), (1, 2, 2, 4), windows=(4, 4, 4, 2)),
]


def make_backbone(arch, seed=0):
    """A ``Backbone`` of random tensors as if it had come from a file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = get_family(arch).build(arch)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.dim() == 1:
                tensor.normal_(0.3, 0.2)
    source = Source(arch.name, "made in a test", "0" * 64, "made", Coverage({}))
    return Backbone(arch, network.state_dict(), IMAGENET_RGB, source)


@dataclass(frozen=True)
class TinyArch(Arch):
    """Five stages of one convolution and one norm each; strides 2 to 32, or from 4."""

    family: str = field(default="tiny", init=False)
    norm: str = "batch"
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    image_size: int = 0  # of all images; 0: any

    @property
    def name(self):
        return f"tiny_{self.norm}"


class TinyNetwork(nn.Module):
    def __init__(self, arch):
        super().__init__()
        norm = {"batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(1, n)}[arch.norm]
        self.stages, self.image_size = nn.ModuleList(), arch.image_size
        channels, before = 3, 1
        for index, stride in enumerate(arch.strides):
            conv = nn.Conv2d(channels, 8 + index, 3, stride // before, padding=1)
            self.stages.append(nn.Sequential(conv, norm(8 + index), nn.ReLU()))
            channels, before = 8 + index, stride
        self.final = norm(channels)  # of pooled features only


class TinyFamily(Family):
    name = "tiny"
    default_arch = TinyArch()
    anchor_key = "stages.0.0.weight"
    detectron2_converters: ClassVar = {
        "FPN": "virtex.detectron.pyramid:convert_fpn",
        "MAP": "virtex.detectron.last_map:convert_map",
    }

    def detect(self, tensors):
        return None

    def build(self, arch):
        return TinyNetwork(arch)

    def features(self, network, images):
        maps = {}
        assert network.image_size in (0, images.shape[-1])
        for index, stage in enumerate(network.stages):
            images = maps[f"stage{index}"] = stage(images)
        return maps

    def strides(self, arch):
        return {f"stage{index}": stride for index, stride in enumerate(arch.strides)}

    def channels(self, arch):
        return {f"stage{index}": 8 + index for index in range(len(arch.strides))}

    def get_stage(self, name):
        return name.split(".")[1]

    def input_size_requirement(self, arch, height, width):
        size = arch.image_size
        return f"{size}x{size} pixels" if size and (height, width) != (size, size) else None

    def layer_id(self, arch, name):
        return int(name.split(".")[1]) if name.startswith("stages.") else len(arch.strides)
