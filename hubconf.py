"""Entry points of ``torch.hub``.

import torch
backbone = torch.hub.load("kdexd/virtex", "resnet50", pretrained=True)
backbone = torch.hub.load("path/to/this/folder", "resnet50", source="local", pretrained=FILE)
features = backbone(images)  # (batch, 2048, 7, 7) for images (batch, 3, 224, 224)
"""

from virtex.zoo import resnet50  # noqa: F401 (the entry point)

dependencies = ["torch", "torchvision", "fvcore", "iopath", "safetensors", "yaml"]
