"""Entry points of ``torch.hub``.

import torch
backbone = torch.hub.load("kdexd/virtex", "resnet50", pretrained=True)
backbone = torch.hub.load("path/to/this/folder", "resnet50", source="local", pretrained=FILE)
features = backbone(images)  # (batch, 2048, 7, 7) for images (batch, 3, 224, 224)
"""

dependencies = ["torch", "torchvision", "fvcore", "iopath", "safetensors", "yaml"]


def resnet50(pretrained=False, **kwargs):
    """ResNet-50 that gives its last feature map, with torchvision's parameter names.

    Args:
        pretrained: ``True``: the backbone of VirTex's best model (bicaptioning, L1 H2048),
            downloaded once; a path, address or other name of a checkpoint: the backbone in it,
            whatever its format; ``False``: randomly initialised.
        kwargs: for ``torchvision.models.ResNet``.

    Returns:
        A network from RGB images (batch, 3, height, width), normalised with ImageNet's mean and
        standard deviation, to features (batch, 2048, height / 32, width / 32).

    Raises:
        virtex.errors.UserError: the checkpoint cannot be had or is no complete ResNet-50.
    """
    from virtex.models.resnet import SpatialResNet50

    model = SpatialResNet50(**kwargs)
    if pretrained:
        from virtex import zoo

        model.load_backbone(zoo.find("hub/resnet50").url if pretrained is True else pretrained)
    return model
