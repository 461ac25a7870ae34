"""Networks of every family below a linear layer: gradients, layers, and their checkpoints."""

from dataclasses import replace

import pytest
import torch

from tests.detectron.tiny_networks import NETWORKS, VITS, make_backbone
from virtex.backbones.registry import expected_shapes, get_families, get_family
from virtex.backbones.resnet import ResNetArch
from virtex.checkpoints import load_backbone
from virtex.checkpoints.inputs import saved_input
from virtex.probes.classifier_training import Classifier
from virtex.probes.pooled import PooledBackbone

SIGLIP = replace(VITS["siglip"], positions="all")  # as it is detected: no other tokens
ARCHS = [ResNetArch(18, "basic"), *(VITS | {"siglip": SIGLIP}).values(), *NETWORKS]
REPRESENTATIONS = [
    (arch, name) for arch in ARCHS for name in get_family(arch).representations(arch)
]


def images_for(arch):
    size = getattr(arch, "image_size", 64)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("arch", "name"), REPRESENTATIONS)
def test_every_trained_parameter_has_a_gradient(arch, name):
    """DistributedDataParallel would wait for the gradients of others."""
    model = Classifier(PooledBackbone(make_backbone(arch), False, name), 3).train()
    loss = model({"image": images_for(arch), "label": torch.arange(2)})["cross_entropy"].total
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert all(n.startswith("visual.cnn.attn_pool.") for n in frozen)


@pytest.mark.parametrize("arch", ARCHS)
def test_fine_tuned_checkpoint_is_loaded(arch, tmp_path):
    backbone = make_backbone(arch)
    model = Classifier(PooledBackbone(backbone, frozen=False), 3)
    torch.save({"model": model.state_dict(), **saved_input(backbone)}, tmp_path / "model.pth")
    found = load_backbone(tmp_path / "model.pth")
    assert (found.source.format, found.arch, found.input) == ("virtex", arch, backbone.input)
    assert found.state_dict.keys() == backbone.state_dict.keys()
    assert all(torch.equal(t, backbone.state_dict[n]) for n, t in found.state_dict.items())


@pytest.mark.parametrize("family", get_families().values(), ids=lambda family: family.name)
def test_layers_lie_between_stem_and_head(family):
    arch = family.default_arch
    layers = {family.layer_id(arch, name) for name in expected_shapes(arch)}
    assert {0, family.head_layer(arch) - 1} <= layers <= set(range(family.head_layer(arch) + 1))
