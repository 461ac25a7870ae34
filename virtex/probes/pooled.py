"""A pretrained backbone with its input normalization: images to pooled features."""

from typing import Any

import torch
from torch import Tensor, nn

from virtex.backbones.registry import check_input_size, get_family
from virtex.checkpoints.backbone import Backbone, build_network
from virtex.errors import UserError
from virtex.text import escape


def resolve_representation(backbone: Backbone, name: str = "default") -> tuple[str, int]:
    """Return the representation of images that a name selects, and its number of features.

    Args:
        name: one of ``Family.representations``, or ``"default"`` for its first.

    Raises:
        UserError: the network has no such representation.
    """
    sizes = get_family(backbone.arch).representations(backbone.arch)
    name = next(iter(sizes)) if name == "default" else name
    if name not in sizes:
        raise UserError(
            f"MODEL.REPRESENTATION of {backbone.arch.name} should be one of "
            f"{', '.join(sizes)}, found {escape(name)}",
            code="config.representation",
        )
    return name, sizes[name]


class PooledBackbone(nn.Module):
    """A network with its input normalization and its pooled features.

    Attributes:
        cnn: the network, under its family's canonical tensor names.
        representation: name of the features, see ``Family.representations``.
        feature_size: number of features of an image.
        frozen: whether parameters and BatchNorm statistics stay fixed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, frozen: bool, representation: str = "default"):
        super().__init__()
        self.arch, self.family = backbone.arch, get_family(backbone.arch)
        self.representation, self.feature_size = resolve_representation(backbone, representation)
        self.cnn = build_network(backbone).requires_grad_(not frozen)
        unused = self.family.unused_prefixes(self.representation)
        for name, parameter in self.cnn.named_parameters():
            if name.startswith(unused):  # else DistributedDataParallel waits for their gradients
                parameter.requires_grad_(False)
        self.frozen, self.bgr = frozen, backbone.input.channel_order == "BGR"
        # of pixels in 0 … 255; not saved, since the checkpoint's entry contains them
        scale = 255.0 / backbone.input.scale
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone.input, name)) * scale
            self.register_buffer(name, values[:, None, None], persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "PooledBackbone":
        super().train(mode)
        if self.frozen:
            self.cnn.eval()  # no dropout, no drop path, no update of BatchNorm's statistics
        return self

    def describe(self) -> dict[str, Any]:
        """Return the representation and its number of features, for the record."""
        return {"name": self.representation, "features": self.feature_size}

    def forward(self, images: Tensor) -> Tensor:
        """Return features (batch, feature_size) of RGB images (batch, 3, height, width), uint8.

        Raises:
            UserError: the network does not support images of this size.
        """
        check_input_size(self.arch, images.shape[-2], images.shape[-1])
        if self.bgr:
            images = images.flip(1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            normalized = (images.float() - self.mean) / self.std
            return self.family.represent(self.cnn, normalized, self.representation)
