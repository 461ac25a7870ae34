"""A pretrained backbone for classification: pictures in, pooled features or class scores out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.checkpoints.architecture import FAMILIES, build_network
from virtex.checkpoints.backbone import Backbone
from virtex.engine.losses import Losses, LossSum

Batch = dict[str, Tensor]
HEAD_STD = 0.01  # of a new classifier's weights; its bias begins at 0 (protocols of VirTex, MoCo)


class PooledBackbone(nn.Module):
    """A network and the input it was pretrained with, up to its globally averaged last features.

    Attributes:
        cnn: the network, its tensors named as torchvision names them.
        feature_size: how many features an image has.
        frozen: whether the network stays as it is, its BatchNorm statistics included.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, frozen: bool):
        super().__init__()
        self.family = FAMILIES[backbone.arch.family]
        self.cnn = build_network(backbone).requires_grad_(not frozen)
        self.frozen, self.bgr = frozen, backbone.input.channel_order == "BGR"
        # of pixels in 0 … 255; not saved, for the checkpoint's entry says them
        scale = 255.0 / backbone.input.scale
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone.input, name)) * scale
            self.register_buffer(name, values[:, None, None], persistent=False)
        with torch.inference_mode():
            self.eval()
            self.feature_size = self(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[1]
        self.train()

    def train(self, mode: bool = True) -> "PooledBackbone":
        super().train(mode)
        if self.frozen:
            self.cnn.eval()  # else BatchNorm would go on learning its statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        """RGB pictures (batch, 3, height, width), uint8, to features (batch, feature_size)."""
        if self.bgr:
            images = images.flip(1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.family.features(self.cnn, (images.float() - self.mean) / self.std)
        return maps["res5"].mean(dim=(2, 3))


class Classifier(nn.Module):
    """A backbone and a linear layer.

    Its checkpoint names the backbone ``visual.cnn.…`` as a pretraining's does, so that it is
    read as one.
    """

    def __init__(self, visual: PooledBackbone, classes: int):
        super().__init__()
        self.visual, self.head = visual, nn.Linear(visual.feature_size, classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def scores(self, images: Tensor) -> Tensor:
        """Pictures (batch, 3, height, width), uint8, to logits (batch, classes)."""
        return self.head(self.visual(images))

    def forward(self, batch: Batch) -> Losses:
        """Cross entropy summed over the images.

        Args:
            batch: ``image`` (batch, 3, height, width) uint8, ``label`` (batch,) int64.
        """
        labels = batch["label"]
        total = F.cross_entropy(self.scores(batch["image"]), labels, reduction="sum")
        return {"cross_entropy": LossSum(total, torch.tensor(len(labels), device=labels.device))}
