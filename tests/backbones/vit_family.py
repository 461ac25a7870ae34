"""torchvision's vision transformers as a backbone family, in one module."""

import re
from dataclasses import dataclass, field

import torch
from torch import nn
from torchvision.models import VisionTransformer

from virtex.backbones.registry import Arch, Family


@dataclass(frozen=True)
class ViTArch(Arch):
    family: str = field(default="outside_vit", init=False)
    image_size: int
    patch_size: int
    layers: int
    hidden_dim: int
    mlp_dim: int

    @property
    def name(self):
        return f"vit_{self.layers}x{self.hidden_dim}_{self.patch_size}"


class ViTFamily(Family):
    name = "outside_vit"
    default_arch = ViTArch(224, 16, 12, 768, 3072)
    anchor_key = "encoder.layers.encoder_layer_0.ln_1.weight"

    def detect(self, tensors):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if "conv_proj.weight" not in shapes or "encoder.pos_embedding" not in shapes:
            return None
        hidden_dim, _, patch_size, _ = shapes["conv_proj.weight"]
        grid = round((shapes["encoder.pos_embedding"][1] - 1) ** 0.5)
        layers = len({n.split(".")[2] for n in shapes if n.startswith("encoder.layers.")})
        mlp_dim = shapes["encoder.layers.encoder_layer_0.mlp.0.weight"][0]
        return ViTArch(grid * patch_size, patch_size, layers, hidden_dim, mlp_dim)

    def build(self, arch):
        heads = arch.hidden_dim // 64
        sizes = (arch.image_size, arch.patch_size, arch.layers, heads, arch.hidden_dim)
        network = VisionTransformer(*sizes, arch.mlp_dim)
        network.heads = nn.Identity()
        return network

    def features(self, network, images):
        batch, _, height, width = images.shape
        tokens = network._process_input(images)
        tokens = torch.cat([network.class_token.expand(batch, -1, -1), tokens], dim=1)
        tokens = network.encoder(tokens)
        grid = (height // network.patch_size, width // network.patch_size)
        return {"encoder": tokens[:, 1:].transpose(1, 2).unflatten(2, grid)}

    def strides(self, arch):
        return {"encoder": arch.patch_size}

    def channels(self, arch):
        return {"encoder": arch.hidden_dim}

    def get_stage(self, name):
        block = re.search(r"encoder_layer_\d+", name)
        return block[0] if block else "norm" if name.startswith("encoder.ln") else "embedding"

    def layer_id(self, arch, name):
        block = re.search(r"encoder_layer_(\d+)", name)
        if block:
            return 1 + int(block[1])
        return arch.layers + 1 if name.startswith("encoder.ln") else 0

    def input_size_requirement(self, arch, height, width):
        size = arch.image_size
        return None if height == width == size else f"{size}x{size} pixels"
