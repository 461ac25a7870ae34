"""Published models by name, and the entry point of torch.hub."""

from pathlib import Path

import torch
import torchvision

from tests.errors import raises_code
from virtex import zoo
from virtex.checkpoints.loading import load_backbone
from virtex.config import load_config, packaged_configs, save_config
from virtex.pretraining.models.build import build_model

RESNET18 = "torchvision::resnet18"
REPOSITORY = Path(__file__).resolve().parents[2]


def hub(**kwargs):
    return torch.hub.load(str(REPOSITORY), "resnet50", source="local", **kwargs)


def test_every_published_config_has_an_entry():
    published = {name for name in packaged_configs() if "_ablations/" in name}
    assert published == {entry.config for entry in zoo.entries().values() if entry.config}


def test_model_is_found_by_its_last_part():
    assert zoo.find("bicaptioning_R_101_L1_H1024").arch == "resnet101"
    assert zoo.find("width_ablations/bicaptioning_R_50_L1_H512.yaml").arch == "resnet50"


def test_unknown_and_ambiguous_names_are_errors():
    with raises_code("zoo.ambiguous", "hub/resnet50", "torchvision/resnet50"):
        zoo.find("resnet50")
    with raises_code("zoo.unknown_model", "bicaptioning_R_50_L1_H512"):
        zoo.find("width_ablations/bicaptioning_R_50_L1_H513")


def test_whole_model_has_its_textual_head():
    model = zoo.get("width_ablations/bicaptioning_R_50_L1_H512")
    assert not model.training
    assert model.textual.output.weight.shape == (10000, 512)
    assert model.backward_textual is not None


def test_backbone_is_not_a_whole_model():
    with raises_code("zoo.not_a_model", "hub/resnet50"):
        zoo.get("hub/resnet50")


def test_published_weights_are_loaded_strictly(tmp_path):
    source = zoo.get("token_classification_R_50")
    torch.save({"model": source.state_dict(), "iteration": 500000}, tmp_path / "whole.pth")
    model = zoo.get("token_classification_R_50")
    assert not torch.equal(model.textual.output.weight, source.textual.output.weight)
    zoo.load_weights(model, str(tmp_path / "whole.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_incomplete_weights_are_rejected(tmp_path):
    model = zoo.get("token_classification_R_50")
    weights = model.state_dict()
    del weights["textual.output.bias"]
    torch.save({"model": weights}, tmp_path / "torn.pth")
    with raises_code("checkpoint.other_model", "textual.output.bias"):
        zoo.load_weights(model, str(tmp_path / "torn.pth"))


def test_trained_model_is_loaded_with_the_config_beside_it(tmp_path):
    name = "token_classification_R_50"
    config = load_config(name, ["DATA.VOCAB_SIZE", "50", "MODEL.VISUAL.NAME", RESNET18])
    source = build_model(config)
    torch.save({"model": source.state_dict()}, tmp_path / "model_final.pth")
    with raises_code("zoo.no_config", tmp_path / "pretrain_config.yaml"):
        zoo.load(tmp_path / "model_final.pth")
    save_config(config, tmp_path / "pretrain_config.yaml")
    model = zoo.load(tmp_path / "model_final.pth")
    assert not model.training
    assert torch.equal(model.textual.output.weight, source.textual.output.weight)


def test_hub_returns_spatial_features():
    model = hub().eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 224, 224)).shape == (2, 2048, 7, 7)


def test_hub_loads_any_checkpoint(tmp_path):
    """Of MoCo; features are those of torchvision's network with the same weights."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50().eval()
    weights = {f"module.encoder_q.{name}": value for name, value in reference.state_dict().items()}
    weights["module.encoder_q.fc.weight"] = torch.randn(128, 2048)
    weights["module.encoder_q.fc.bias"] = torch.randn(128)
    torch.save({"state_dict": weights, "arch": "resnet50", "epoch": 200}, tmp_path / "moco.pth")
    model = hub(pretrained=str(tmp_path / "moco.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        reference.fc = torch.nn.Identity()
        torch.testing.assert_close(model(image).mean(dim=(2, 3)), reference(image))
    expected = load_backbone(tmp_path / "moco.pth").state_dict
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_hub_rejects_another_network(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with raises_code("checkpoint.unexpected_architecture", "resnet18"):
        hub(pretrained=str(tmp_path / "resnet18.pth"))
