"""The architecture is read off shapes; what Detectron2 was told stands beside its file."""

import checkpoint_writers as writers
import pytest
import torch
import torchvision

from virtex.checkpoints import Arch, CheckpointError, InputSpec, build_network, load_backbone
from virtex.checkpoints.architecture import expected_shapes, read_arch


def meta_network(name):
    with torch.device("meta"):
        return torchvision.models.get_model(name).state_dict()


@pytest.mark.parametrize(
    ("name", "depth", "block", "width_per_group", "groups"),
    [
        ("resnet18", 18, "basic", 64, 1),
        ("resnet34", 34, "basic", 64, 1),
        ("resnet50", 50, "bottleneck", 64, 1),
        ("resnet101", 101, "bottleneck", 64, 1),
        ("resnet152", 152, "bottleneck", 64, 1),
        ("wide_resnet50_2", 50, "bottleneck", 128, 1),
        ("wide_resnet101_2", 101, "bottleneck", 128, 1),
        ("resnext50_32x4d", 50, "bottleneck", 4, 32),
        ("resnext101_32x8d", 101, "bottleneck", 8, 32),
        ("resnext101_64x4d", 101, "bottleneck", 4, 64),
    ],
)
def test_torchvisions_networks_are_read_by_their_own_name(
    name, depth, block, width_per_group, groups
):
    state_dict = meta_network(name)
    arch = read_arch(state_dict)
    assert arch == Arch("resnet", depth, block, width_per_group, groups)
    assert arch.name == name
    wanted = {k for k in state_dict if not k.startswith("fc.") and not k.endswith("_tracked")}
    assert expected_shapes(arch).keys() == wanted


def test_one_odd_tensor_does_not_change_the_architecture():
    state_dict = meta_network("resnet50")
    state_dict["layer1.0.conv1.weight"] = torch.empty(128, 64, 1, 1)
    del state_dict["layer3.2.conv2.weight"]
    assert read_arch(state_dict).name == "resnet50"


def test_other_names_are_no_architecture_at_all():
    assert read_arch(meta_network("vgg11")) is None


def test_a_backbone_becomes_a_network_that_computes_the_same(here):
    torchvision_network = torchvision.models.resnet18(weights=None).eval()
    path = writers.save(writers.moco_v3(torchvision_network.state_dict()), here / "checkpoint")
    ours = build_network(load_backbone(path)).eval()
    torchvision_network.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(x), torchvision_network(x))


# What a detector expects of an image -----------------------------------------------------------

CONFIG = """
INPUT: {FORMAT: RGB}
MODEL:
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {STRIDE_IN_1X1: false}
"""


@pytest.fixture
def detector(resnet18, here):
    return writers.save(writers.detectron2_fpn(resnet18), here / "model_final.pth")


def test_the_config_beside_a_detector_says_its_input(detector, here):
    (here / "config.yaml").write_text(CONFIG)
    backbone = load_backbone(detector)
    assert backbone.input == InputSpec(
        "RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0
    )
    assert backbone.arch.stride_in_1x1 is False


def test_without_one_detectron2s_defaults_are_assumed_and_noted(detector):
    backbone = load_backbone(detector)
    assert backbone.input == InputSpec("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 255.0)
    assert backbone.arch.stride_in_1x1 is True
    assert any("defaults are assumed" in note for note in backbone.source.notes)


def test_what_the_config_leaves_open_is_noted(detector, here):
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    notes = " ".join(load_backbone(detector).source.notes)
    assert "silent on MODEL.PIXEL_MEAN, MODEL.PIXEL_STD, MODEL.RESNETS.STRIDE_IN_1X1" in notes


def test_a_config_that_would_run_code_is_refused(detector, here):
    (here / "config.yaml").write_text("INPUT: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(CheckpointError, match="is not plain YAML"):
        load_backbone(detector)


def test_the_files_own_word_goes_before_the_config(resnet18, here):
    spec = {"channel_order": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3, "scale": 1.0}
    content = writers.detectron2_c4(resnet18)
    content["virtex_backbone"] = {"input": spec, "stride_in_1x1": False}
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    backbone = load_backbone(writers.save(content, here / "model_final.pth"))
    assert backbone.input == InputSpec("RGB", (0.5,) * 3, (0.25,) * 3, 1.0)
    assert backbone.arch.stride_in_1x1 is False


@pytest.mark.parametrize(
    "entry",
    [
        {"stride_in_1x1": False},
        {"input": {"channel_order": "GRB", "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"input": {"channel_order": "RGB", "mean": [0, 0, 0], "std": [1, 0, 1]}},
        "RGB",
    ],
)
def test_a_word_that_makes_no_sense_is_refused(entry, resnet18, here):
    content = {**writers.detectron2_fpn(resnet18), "virtex_backbone": entry}
    with pytest.raises(CheckpointError, match='entry "virtex_backbone" should hold'):
        load_backbone(writers.save(content, here / "model_final.pth"))
