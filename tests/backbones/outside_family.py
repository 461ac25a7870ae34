"""A backbone family in one module: residual MLPs on patches of 32x32 images."""

from dataclasses import dataclass, field

import torch
from torch import nn

from virtex.backbones.registry import Arch, Family

SIZE, PATCH = 32, 8


@dataclass(frozen=True)
class PatchMLPArch(Arch):
    family: str = field(default="patch_mlp", init=False)
    width: int
    depth: int

    @property
    def name(self):
        return f"patch_mlp_{self.depth}x{self.width}"


class PatchMLP(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn(width, SIZE // PATCH, SIZE // PATCH))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))


class PatchMLPFamily(Family):
    name = "patch_mlp"
    default_arch = PatchMLPArch(64, 4)
    anchor_key = "embed.weight"

    def detect(self, tensors):
        if not {"embed.weight", "positions"} <= tensors.keys():
            return None
        depth = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
        return PatchMLPArch(len(tensors["embed.weight"]), depth)

    def build(self, arch):
        return PatchMLP(arch.width, arch.depth)

    def features(self, network, images):
        x = network.embed(images) + network.positions
        for layer in network.layers:
            x = x + layer(x).relu()
        return {"last": x}

    def strides(self, arch):
        return {"last": PATCH}

    def channels(self, arch):
        return {"last": arch.width}

    def representations(self, arch):
        return {"max": arch.width, "avg": arch.width}

    def represent(self, network, images, name):
        features = self.features(network, images)["last"]
        return features.amax(dim=(2, 3)) if name == "max" else features.mean(dim=(2, 3))

    def get_stage(self, name):
        return ".".join(name.split(".")[:2]) if name.startswith("layers.") else "embedding"

    def layer_id(self, arch, name):
        return 1 + int(name.split(".")[1]) if name.startswith("layers.") else 0

    def input_size_requirement(self, arch, height, width):
        return None if height == width == SIZE else f"{SIZE}x{SIZE} pixels"
