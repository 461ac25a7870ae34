"""Vision transformers in the probes: representations, frozen and fine-tuned networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import normalize

from tests.errors import raises_code
from tests.probes.small_probes import make_images, settings_of, small_extractor
from tests.probes.small_vit import (
    FEATURES,
    SIZE,
    SMALL_IMAGES,
    build_vit,
    features_by_hand,
    load_vit,
)
from virtex.probes.classifier_training import Classifier
from virtex.probes.features import center_view
from virtex.probes.pooled import PooledBackbone, resolve_representation


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", FEATURES)
@torch.no_grad()
def test_features_are_timms(backbone, images, name):
    pixels = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = features_by_hand(build_vit(), pixels)
    pooled = PooledBackbone(backbone, frozen=True, representation=name)
    found = pooled(images)
    assert pooled.describe() == {"name": name, "features": FEATURES[name]}
    assert found.shape == (3, FEATURES[name])
    torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5)


def test_default_representation_is_the_first(backbone):
    assert resolve_representation(backbone) == ("cls", FEATURES["cls"])
    averaged = replace(backbone, arch=replace(backbone.arch, final_norm="fc_norm"))
    assert resolve_representation(averaged) == ("avg", FEATURES["avg"])


def test_last4_cls_needs_four_blocks(backbone):
    shallow = replace(backbone, arch=replace(backbone.arch, depth=3))
    with raises_code("config.representation", "cls+avg", "last4-cls"):
        resolve_representation(shallow, "last4-cls")


def test_features_are_cached_by_representation(backbone, tmp_path):
    view = center_view(settings_of("imagenet_knn", "toy", *SMALL_IMAGES).DATA)
    data, found = make_images(tmp_path / "val", 3), {}
    for name in (*FEATURES, "default"):
        extractor = small_extractor(tmp_path, representation=name)
        extractor.open(backbone)
        found[name] = extractor.extract(data, view)
        assert extractor.images == (0 if name == "default" else 3)
        assert extractor.close()["unchanged"] is True
    assert {name: found[name].shape for name in FEATURES} == {
        n: (3, s) for n, s in FEATURES.items()
    }
    assert np.array_equal(found["default"], found["cls"])


# Frozen, or not ----------------------------------------------------------------------------------


def test_frozen_network_has_no_dropout(backbone, images):
    model = Classifier(PooledBackbone(backbone, frozen=True), 5)
    dropouts = [layer for layer in model.visual.cnn.modules() if isinstance(layer, nn.Dropout)]
    for layer in dropouts:
        layer.p = 0.5
    model.train()
    assert dropouts and not any(layer.training for layer in model.visual.cnn.modules())
    assert torch.equal(model.visual(images), model.visual(images))
    assert not any(p.requires_grad for p in model.visual.parameters())


@pytest.mark.parametrize("name", FEATURES)
def test_all_parameters_are_fine_tuned(backbone, images, name):
    model = Classifier(PooledBackbone(backbone, frozen=False, representation=name), 5).train()
    assert model.head.weight.shape == (5, FEATURES[name])
    loss = model({"image": images, "label": torch.arange(3)})["cross_entropy"].total
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
