"""A pretrained backbone for classification: images to pooled features or logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.backbones.registry import check_input_size, family_of
from virtex.checkpoints.backbone import Backbone, build_network
from virtex.pretraining.models.losses import Losses, LossSum

Batch = dict[str, Tensor]
HEAD_STD = 0.01  # of a new classifier's weights; its bias starts at 0 (protocols of VirTex, MoCo)


class PooledBackbone(nn.Module):
    """A network with its input normalization and its pooled features.

    Attributes:
        cnn: the network, under its family's canonical tensor names.
        feature_size: features of one image.
        frozen: whether parameters and BatchNorm statistics do not change.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, frozen: bool):
        super().__init__()
        self.arch, self.family = backbone.arch, family_of(backbone.arch)
        self.feature_size = list(self.family.channels(backbone.arch).values())[-1]
        self.cnn = build_network(backbone).requires_grad_(not frozen)
        self.frozen, self.bgr = frozen, backbone.input.channel_order == "BGR"
        # of pixels in 0 … 255; not saved, since the checkpoint's entry holds them
        scale = 255.0 / backbone.input.scale
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone.input, name)) * scale
            self.register_buffer(name, values[:, None, None], persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "PooledBackbone":
        super().train(mode)
        if self.frozen:
            self.cnn.eval()  # else BatchNorm would update its statistics
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return features (batch, feature_size) of RGB images (batch, 3, height, width), uint8.

        Raises:
            UserError: the network does not take images of this size.
        """
        check_input_size(self.arch, images.shape[-2], images.shape[-1])
        if self.bgr:
            images = images.flip(1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.family.features(self.cnn, (images.float() - self.mean) / self.std)
        return self.family.pool(maps)["avg"]


class Classifier(nn.Module):
    """A backbone and a linear layer.

    Its checkpoint has the names of a pretraining's, so that it is read by the same format.
    """

    def __init__(self, visual: PooledBackbone, classes: int):
        super().__init__()
        self.visual, self.head = visual, nn.Linear(visual.feature_size, classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def scores(self, images: Tensor) -> Tensor:
        """Return logits (batch, classes) of images (batch, 3, height, width), uint8."""
        return self.head(self.visual(images))

    def forward(self, batch: Batch) -> Losses:
        """Return the cross entropy summed over the images.

        Args:
            batch: ``image`` (batch, 3, height, width) uint8, ``label`` (batch,) int64.
        """
        labels = batch["label"]
        total = F.cross_entropy(self.scores(batch["image"]), labels, reduction="sum")
        return {"cross_entropy": LossSum(total, torch.tensor(len(labels), device=labels.device))}
