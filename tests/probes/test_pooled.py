"""The backbone under a classifier: the network that was pretrained, and frozen where asked."""

import pytest
import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from tests.detectron.backbones import IMAGENET_BGR, make_backbone
from virtex.probes.classifier_training import HEAD_STD, Classifier
from virtex.probes.pooled import PooledBackbone


def some_pictures(number=2, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, size, size), generator=generator, dtype=torch.uint8)


def original(name, state_dict):
    """torchvision's network without its classifier."""
    network = torchvision.models.get_model(name)
    network.fc = torch.nn.Identity()
    network.load_state_dict(state_dict)
    return network.eval()


def features_of(backbone, images):
    with torch.no_grad():
        return PooledBackbone(backbone, frozen=True)(images)


def assert_same_features(found, expected):
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- the same network on the same numbers ---


@torch.no_grad()
def test_images_are_normalized_as_in_torchvision():
    backbone, images = make_backbone("resnet18"), some_pictures()
    pixels = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = original("resnet18", backbone.state_dict)(pixels)
    assert_same_features(features_of(backbone, images), expected)


@torch.no_grad()
def test_caffe_input_is_bgr_minus_mean():
    backbone, images = make_backbone("resnet18", spec=IMAGENET_BGR), some_pictures()
    red, green, blue = images.float().unbind(dim=1)
    pixels = torch.stack([blue - 103.53, green - 116.28, red - 123.675], dim=1)
    expected = original("resnet18", backbone.state_dict)(pixels)
    assert_same_features(features_of(backbone, images), expected)


@torch.no_grad()
def test_stride_in_1x1_is_kept():
    backbone = make_backbone("resnet50", stride_in_1x1=True)
    network, images = original("resnet50", backbone.state_dict), some_pictures()
    pixels = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    in_3x3 = network(pixels)
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    expected = network(pixels)
    assert not torch.allclose(in_3x3, expected, atol=1e-2)
    assert_same_features(features_of(backbone, images), expected)


@pytest.mark.parametrize(("name", "features"), [("resnet18", 512), ("resnet50", 2048)])
def test_number_of_features(name, features):
    visual = PooledBackbone(make_backbone(name), frozen=True)
    assert visual.feature_size == features
    assert visual(some_pictures(3, 32)).shape == (3, features)


def test_mean_and_std_are_not_saved():
    visual = PooledBackbone(make_backbone("resnet18"), frozen=True)
    assert {name.partition(".")[0] for name in visual.state_dict()} == {"cnn"}


# --- frozen, or not ---


def trained_one_step(frozen):
    """A classifier after a step, and its backbone's tensors from before."""
    torch.manual_seed(0)
    model = Classifier(PooledBackbone(make_backbone("resnet18"), frozen), 5).train()
    before = {name: tensor.clone() for name, tensor in model.visual.cnn.state_dict().items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = model({"image": some_pictures(4, 32), "label": torch.arange(4)})
    losses["cross_entropy"].total.backward()
    optimizer.step()
    return model, before


def changed(model, before):
    after = model.visual.cnn.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_backbone_stays_in_eval_mode():
    model = Classifier(PooledBackbone(make_backbone("resnet18"), frozen=True), 5)
    for module in (model.train(), model.eval().train(), model.train(True)):
        assert module.training and module.head.training
        assert not any(layer.training for layer in module.visual.cnn.modules())


def test_frozen_backbone_keeps_every_tensor():
    model, before = trained_one_step(frozen=True)
    assert changed(model, before) == set()
    assert model.head.bias.abs().max() > 0  # and the head has learnt


def test_frozen_backbone_has_no_gradient():
    model, _ = trained_one_step(frozen=True)
    assert not any(p.requires_grad or p.grad is not None for p in model.visual.parameters())
    assert not model.visual(some_pictures()).requires_grad
    assert model.head.weight.grad is not None


def test_trained_backbone_updates_its_statistics():
    model, before = trained_one_step(frozen=False)
    assert changed(model, before) == set(before)
    assert all(p.grad is not None for p in model.visual.parameters())


def test_trained_backbone_follows_the_mode():
    visual = PooledBackbone(make_backbone("resnet18"), frozen=False)
    assert all(layer.training for layer in visual.cnn.modules())
    assert not any(layer.training for layer in visual.eval().cnn.modules())


# --- the head ---


def test_head_initialization():
    torch.manual_seed(0)
    head = Classifier(PooledBackbone(make_backbone("resnet18"), frozen=True), 1000).head
    assert head.weight.shape == (1000, 512)
    assert abs(head.weight.mean().item()) < 1e-4
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert HEAD_STD == 0.01
    # as normal as a normal one: a uniform one of that deviation never exceeds 1.74 of it
    assert (head.weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, abs=0.002)
    assert (head.bias == 0).all()


def test_loss_is_the_sum_of_cross_entropies():
    backbone = make_backbone("resnet18")
    model = Classifier(PooledBackbone(backbone, frozen=True), 5)
    images, labels = some_pictures(4, 32), torch.tensor([0, 4, 2, 2])
    loss = model({"image": images, "label": labels})["cross_entropy"]
    alone = [F.cross_entropy(model.logits(images[i : i + 1])[0], labels[i]) for i in range(4)]
    assert loss.total.item() == pytest.approx(sum(alone).item(), rel=1e-5)
    assert loss.count.item() == 4


def test_checkpoint_has_the_names_of_pretraining():
    backbone = make_backbone("resnet18")
    saved = Classifier(PooledBackbone(backbone, frozen=True), 5).state_dict()
    names = {f"visual.cnn.{name}" for name in backbone.state_dict}
    assert saved.keys() == names | {"head.weight", "head.bias"}
