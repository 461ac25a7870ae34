"""Backbones for the tests, made here, with norm statistics that are not all zero and one."""

from dataclasses import replace

import torch
import torchvision

from virtex.backbones.resnet import ResNetArch
from virtex.checkpoints.backbone import Backbone, InputSpec, Source
from virtex.checkpoints.coverage import Coverage

IMAGENET_RGB = InputSpec("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_BGR = InputSpec("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 255.0)
ARCHS = {
    "resnet18": ResNetArch(18, "basic"),
    "resnet34": ResNetArch(34, "basic"),
    "resnet50": ResNetArch(50, "bottleneck"),
    "wide_resnet50_2": ResNetArch(50, "bottleneck", width_per_group=128),
    "resnext50_32x4d": ResNetArch(50, "bottleneck", width_per_group=4, groups=32),
}


def make_state_dict(name, seed=0):
    """torchvision's tensors without the classifier; norms as if trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = torchvision.models.get_model(name, weights=None)
        randomize_norms(network)
    return {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}


def randomize_norms(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.3, 1.0)
            torch.nn.init.normal_(module.bias, 0, 0.2)


def make_backbone(name, stride_in_1x1=False, spec=IMAGENET_RGB):
    """A ``Backbone`` as if it had come from a file."""
    arch = replace(ARCHS[name], stride_in_1x1=stride_in_1x1)
    source = Source(name, "made in a test", "0" * 64, "torchvision", Coverage({}))
    return Backbone(arch, make_state_dict(name), spec, source)
