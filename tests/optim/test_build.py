"""Parameter groups: learning rates and weight decay by name."""

from torch import nn

from tests.errors import raises_code
from virtex.config import default_config
from virtex.config.validation import CHOICES
from virtex.optim import build_optimizer


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
