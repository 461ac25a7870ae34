"""Entry points of ``torch.hub``: the backbone, for images (batch, 3, 224, 224).

>>> backbone = torch.hub.load("path/to/this/folder", "resnet50", source="local", pretrained=True)
>>> backbone(images).shape
(batch, 2048, 7, 7)
"""

from virtex.zoo import resnet50  # noqa: F401 (the entry point)

dependencies = [
    *("torch", "torchvision", "fvcore", "iopath", "safetensors", "yaml"),
    *("requests", "filelock", "tqdm"),
]
