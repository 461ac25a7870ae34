"""Parameter groups: learning rates and weight decay by name."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from tests.errors import raises_code
from virtex.backbones.registry import get_family
from virtex.backbones.resnet import ResNetArch
from virtex.backbones.vit import ViTArch
from virtex.config import default_config
from virtex.config.validation import CHOICES
from virtex.optim import build_optimizer
from virtex.optim.build import parameter_groups


class Model(nn.Module):
    """The names of a captioning model, and one that only resembles the backbone's."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Module()
        self.visual.cnn = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.textual = nn.Module()
        self.textual.embedding = nn.ModuleDict(
            {"words": nn.Embedding(5, 4), "layer_norm": nn.LayerNorm(4)}
        )
        self.textual.transformer = nn.Linear(4, 4)
        self.textual.output = nn.Linear(4, 5)
        self.textual.output.weight = self.textual.embedding["words"].weight
        self.textual.visual_cnn = nn.Linear(2, 4)


def make_config(**optim):
    config = default_config()
    for key, value in optim.items():
        config.OPTIM[key] = value
    return config


def named_groups(optimizer, model):
    """Group name -> names of its parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: {names[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
    }


def test_groups_by_name():
    model = Model()
    assert named_groups(build_optimizer(make_config(), model), model) == {
        "cnn": {f"visual.cnn.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")},
        "rest": {
            "textual.embedding.words.weight",
            "textual.transformer.weight",
            "textual.output.bias",
            "textual.visual_cnn.weight",
            "textual.visual_cnn.bias",
        },
        "rest, no decay": {
            "textual.embedding.layer_norm.weight",
            "textual.embedding.layer_norm.bias",
            "textual.transformer.bias",
        },
    }


def test_group_order_and_rates():
    config = make_config(NO_DECAY=".*bias", CNN_LR=0.2, LR=0.001, WEIGHT_DECAY=0.1)
    groups = build_optimizer(config, Model()).param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("cnn", 0.2, 0.1),
        ("cnn, no decay", 0.2, 0.0),
        ("rest", 0.001, 0.1),
        ("rest, no decay", 0.001, 0.0),
    ]


def test_tied_parameters_appear_once():
    model = Model()
    groups = build_optimizer(make_config(), model).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))


def test_no_decay_matches_from_the_start():
    model = Model()
    groups = named_groups(build_optimizer(make_config(NO_DECAY="bias"), model), model)
    assert list(groups) == ["cnn", "rest"]


def test_frozen_parameters_are_excluded():
    model = Model()
    model.visual.requires_grad_(False)
    groups = build_optimizer(make_config(), model).param_groups
    assert [group["name"] for group in groups] == ["rest", "rest, no decay"]


def test_all_parameters_frozen():
    with raises_code("config.nothing_to_train", "MODEL.VISUAL.FROZEN"):
        build_optimizer(make_config(), Model().requires_grad_(False))


def test_every_optimizer_name_builds():
    for name in CHOICES["OPTIM.OPTIMIZER_NAME"]:
        kind = type(build_optimizer(make_config(OPTIMIZER_NAME=name), Model()))
        assert kind.__name__.lower() == name


# Layer-wise decay and the family's rule of weight decay -------------------------------------------

RESNET = ResNetArch(18, "basic")
VIT = ViTArch(64, 3, 8, 4, 128, heads=1, registers=2, layer_scale=True)
BEIT = ViTArch(
    64, 2, 8, 4, 128, implementation="Beit", positions="none", relative_bias="per_block", heads=1
)


def classifier_of(arch):
    """Return a linear layer on a network, with the names of the probes' classifiers."""
    model = nn.Module()
    model.visual = nn.Module()
    model.visual.arch, model.visual.family = arch, get_family(arch)
    with torch.device("meta"):
        model.visual.cnn = model.visual.family.build(arch)
        model.head = nn.Linear(64, 5)
    return model


def settings_by_name(arch, **optim):
    """Return parameter name -> (learning rate, weight decay)."""
    model = classifier_of(arch)
    config = make_config(CNN_LR=0.01, LR=0.02, WEIGHT_DECAY=0.05, NO_DECAY="none", **optim)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)].removeprefix("visual.cnn."): (group["lr"], group["weight_decay"])
        for group in parameter_groups(config.OPTIM, model)
        for parameter in group["params"]
    }


def test_layer_decay_of_a_vit():
    found = settings_by_name(VIT, LAYER_DECAY=0.5)
    rates = {name: lr for name, (lr, _) in found.items()}
    for name in ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight"):
        assert rates[name] == 0.01 / 16
    blocks = [
        {lr for name, lr in rates.items() if name.startswith(f"blocks.{n}.")} for n in range(3)
    ]
    assert blocks == [{0.01 / 8}, {0.01 / 4}, {0.01 / 2}]
    assert rates["norm.weight"] == 0.01
    assert rates["head.weight"] == rates["head.bias"] == 0.02


def test_layer_decay_of_a_resnet():
    rates = {name: lr for name, (lr, _) in settings_by_name(RESNET, LAYER_DECAY=0.5).items()}
    assert rates["conv1.weight"] == rates["bn1.bias"] == 0.01 / 2**9
    assert rates["layer1.0.conv1.weight"] == 0.01 / 2**8
    assert rates["layer4.1.bn2.weight"] == 0.01 / 2
    assert rates["head.bias"] == 0.02


def test_rates_and_weight_decay_are_timms():
    """timm counts the final norm to the last block, MAE and BEiT to the head."""
    with torch.device("meta"):
        network = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=1, num_classes=5
        )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    expected = {
        names[id(parameter)]: (0.01 * group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(
            network, 0.05, network.no_weight_decay(), layer_decay=0.65
        )
        for parameter in group["params"]
    }
    arch = ViTArch(64, 3, 8, 4, 256, heads=1)
    found = settings_by_name(arch, LAYER_DECAY=0.65)
    assert found.keys() == expected.keys()
    found |= {name: (lr / 2, decay) for name, (lr, decay) in found.items() if "head." in name}
    different = {n for n in found if found[n] != pytest.approx(expected[n], rel=1e-9)}
    assert different == {"norm.weight", "norm.bias"}


def test_layer_groups_are_named_from_the_stem_to_the_head():
    model = classifier_of(VIT)
    groups = parameter_groups(make_config(LAYER_DECAY=0.5, NO_DECAY="none").OPTIM, model)
    assert [group["name"] for group in groups if "no decay" not in group["name"]] == [
        *(f"cnn, layer {layer}" for layer in range(4)),
        "rest",
    ]
    assert groups[-2]["name"] == "rest" and groups[-3]["name"] == "cnn, layer 4, no decay"


def test_layer_decay_of_1_changes_nothing():
    assert set(settings_by_name(VIT).values()) == {(0.01, 0.05), (0.01, 0), (0.02, 0.05), (0.02, 0)}
    names = [group["name"] for group in parameter_groups(make_config().OPTIM, classifier_of(VIT))]
    assert names == ["cnn", "cnn, no decay", "rest", "rest, no decay"]


@pytest.mark.parametrize("arch", [VIT, BEIT])
def test_matrices_alone_have_weight_decay(arch):
    decayed = {name for name, (_, decay) in settings_by_name(arch).items() if decay}
    matrices = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert decayed == {
        "patch_embed.proj.weight",
        *(f"blocks.{n}.{m}.weight" for n in range(arch.depth) for m in matrices),
        "head.weight",
    }


@pytest.mark.parametrize(
    ("name", "ndim", "expected"),
    [
        ("layers.0.blocks.1.attn.relative_position_bias_table", 2, False),
        ("layers.0.blocks.1.attn.logit_scale", 3, False),
        ("layers.0.blocks.1.attn.cpb_mlp.0.weight", 2, False),
        ("absolute_pos_embed", 3, False),
        ("pos_embed_win", 4, False),
        ("dist_token", 3, False),
        ("stages.0.blocks.1.gamma", 1, False),
        ("layers.0.blocks.1.attn.qkv.weight", 2, True),
        ("attn_pool.latent", 3, True),
    ],
)
def test_weight_decay_by_name(name, ndim, expected):
    assert get_family(VIT).has_weight_decay(name, ndim) is expected


def test_resnets_decay_all_parameters():
    assert {decay for _, decay in settings_by_name(RESNET).values()} == {0.05}
