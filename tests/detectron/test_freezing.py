"""A frozen backbone does not change while the pyramid and the heads are trained."""

import pytest
import torch
from detectron2.modeling import build_backbone
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from timm.layers.drop import DropPath
from torch import nn

from tests.detectron import backbones
from tests.detectron.small_runs import assert_resumed_exactly, run_small
from tests.detectron.tiny_networks import NETWORKS, VITS, TinyArch, TinyFamily, make_backbone
from tests.errors import raises_code
from tests.run_states import assert_equal
from tests.selection import whole_only
from virtex.backbones import registry
from virtex.detectron import pyramid, transfer, vit  # noqa: F401  (register backbones)
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.settings import build_settings
from virtex.engine.frozen import freeze, tensors_sha256
from virtex.tasks import packaged_protocol


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch):
    registry.get_families()
    monkeypatch.setitem(registry.FAMILIES, "tiny", TinyFamily())


def frozen_pyramid(backbone, *overrides):
    """Return the pyramid, and the frozen network below it."""
    settings = build_settings(packaged_protocol("coco", "toy-frozen"), overrides, 1, "cpu")
    settings.cfg.MODEL.NETWORK.DROP_PATH = 0.5  # as of a protocol, which a network may lack
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    fpn = build_backbone(settings.cfg)
    weights = {name.removeprefix("backbone."): w for name, w in converted.weights.items()}
    fpn.load_state_dict(weights, strict=False)
    network = fpn.get_submodule(converted.prefixes[0].strip(".").removeprefix("backbone."))
    freeze(network)
    return fpn, network


@pytest.mark.parametrize("arch", ["resnet18", VITS["dinov2"], *NETWORKS, TinyArch()])
def test_training_changes_only_the_pyramid(arch):
    make = backbones.make_backbone if isinstance(arch, str) else make_backbone
    fpn, network = frozen_pyramid(make(arch))
    fpn.eval()
    fpn.train()  # as after an evaluation
    before, others = tensors_sha256(network), [p for p in fpn.parameters() if p.requires_grad]
    assert others
    copies = [p.detach().clone() for p in others]
    optimizer = torch.optim.SGD(fpn.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    images = torch.randn(2, 3, 64, 96)
    for _ in range(2):
        optimizer.zero_grad()
        sum(x.square().mean() for x in fpn(images).values()).backward()
        optimizer.step()
    if get_bn_modules(fpn):
        update_bn_stats(fpn, iter([images] * 2), 2)
    assert tensors_sha256(network) == before
    assert not any(torch.equal(p, copy) for p, copy in zip(others, copies, strict=True))
    assert not any(module.training for module in network.modules())
    fpn.eval()
    expected = fpn(images)
    fpn.train()
    with torch.no_grad():
        for module in fpn.modules():  # the pyramid's batch norm as in eval mode
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert_equal(fpn(images), expected)  # no dropped paths


def test_drop_path_is_part_of_the_frozen_network():
    _, network = frozen_pyramid(make_backbone(NETWORKS[1]))
    assert any(isinstance(m, DropPath) and m.drop_prob > 0 for m in network.modules())


@pytest.mark.parametrize("arch", [VITS["mae"], NETWORKS[0]])
def test_no_activations_are_kept(arch):
    """The pyramid's input requires no gradient, so that autograd records nothing below it."""
    fpn, network = frozen_pyramid(make_backbone(arch))
    outputs = []
    for module in network.modules():
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    maps = fpn.train()(torch.randn(1, 3, 64, 64))
    assert all(x.requires_grad for x in maps.values())
    tensors = [x for x in outputs if isinstance(x, torch.Tensor)]
    assert tensors and not any(x.requires_grad for x in tensors)


# --- runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["coco", *whole_only("voc")])
def test_run_is_resumed_exactly(tmp_path, toy, task):
    arguments = ("--checkpoint", "random:resnet18", "--task", task, "--protocol", "toy-frozen")
    record = assert_resumed_exactly(toy, tmp_path / "out", *arguments)
    frozen = record["verification"]["frozen_backbone"]
    assert frozen["unchanged"] and len(frozen["tensors_sha256"]) == 64


VOC = ("--checkpoint", "random:resnet18", "--task", "voc", "--protocol", "toy-frozen")


def test_changed_backbone_fails_the_run(tmp_path, toy, capsys, monkeypatch):
    monkeypatch.setattr(transfer, "freeze", lambda network: None)
    assert run_small(toy, tmp_path / "out", *VOC) == 2
    assert "[probe.backbone_changed]" in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("MODEL.BACKBONE.FREEZE_AT", "2"), ("SOLVER.LAYER_DECAY", "0.5")]
)
def test_settings_of_training_have_no_effect(tmp_path, toy, capsys, key, value):
    assert run_small(toy, tmp_path / "out", *VOC, key, value) == 2
    assert "[config.no_effect]" in capsys.readouterr().err


def test_c4_is_refused():
    protocol = packaged_protocol("voc", "toy")
    cfg = build_settings(protocol, ["MODEL.BACKBONE.FROZEN", "True"], 1, "cpu").cfg
    with raises_code("detection.frozen_c4", "MODEL.BACKBONE.FROZEN", "fpn-24k"):
        convert_backbone(backbones.make_backbone("resnet18"), cfg)
