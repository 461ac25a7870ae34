"""What a network expects of an image, by the file, the config beside it, or the format."""

import argparse
import json

import checkpoint_writers as writers
import pytest
import torch

from tests.errors import raises_code
from virtex.backbones.resnet import ResNetArch
from virtex.checkpoints import InputSpec, load_backbone
from virtex.checkpoints.formats import get_format
from virtex.checkpoints.inputs import CAFFE_BGR, IMAGENET_RGB, resolve_input
from virtex.checkpoints.statements import is_same, parse_openmmlab, read_statements

SPEC = {"channel_order": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3, "scale": 1.0}
CONFIG = """
INPUT: {FORMAT: RGB}
MODEL:
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {STRIDE_IN_1X1: false}
"""
# As Detectron2's LazyConfig.save writes it, shortened
LAZY_CONFIG = """
model:
  _target_: detectron2.modeling.GeneralizedRCNN
  backbone:
    bottom_up:
      stages: {depth: 18, norm: FrozenBN, stride_in_1x1: false}
  input_format: RGB
  pixel_mean: [123.675, 116.28, 103.53]
  pixel_std: [58.395, 57.12, 57.375]
lr_multiplier: !!python/object/apply:os.getcwd []
"""
RGB_255 = InputSpec("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0)


@pytest.fixture
def detector(resnet18, here):
    return writers.save(writers.detectron2_fpn(resnet18), here / "model_final.pth")


@pytest.mark.parametrize("config", [CONFIG, LAZY_CONFIG], ids=["CfgNode", "LazyConfig"])
def test_detectron2_config_beside_the_file(config, detector, here):
    (here / "config.yaml").write_text(config)
    backbone = load_backbone(detector)
    assert backbone.input == RGB_255
    assert backbone.arch.stride_in_1x1 is False


def test_detector_without_a_config_needs_a_choice(detector):
    choices = ("--format detectron2", "--format detectron2_rgb", "config.yaml")
    with raises_code("checkpoint.input_not_stated", detector, *choices):
        load_backbone(detector)
    backbone = load_backbone(detector, "detectron2")
    assert (backbone.input, backbone.arch.stride_in_1x1) == (CAFFE_BGR, True)
    backbone = load_backbone(detector, "detectron2_rgb")
    assert (backbone.input, backbone.arch.stride_in_1x1) == (IMAGENET_RGB, False)


def test_missing_config_keys_are_asked_for(detector, here):
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    with raises_code("checkpoint.input_not_stated", "normalization, stride_in_1x1"):
        load_backbone(detector)
    notes = " ".join(load_backbone(detector, "detectron2").source.notes)
    assert "normalization, stride_in_1x1" in notes
    with raises_code("checkpoint.input_not_stated"):  # RGB's mean does not fit the stated BGR
        load_backbone(detector, "detectron2_rgb")


@pytest.mark.parametrize(
    "config", ["INPUT: [", "a: &a [*a]\nINPUT: {FORMAT: GRB}\n", "model: &a [*a]", "{}: 1"]
)
def test_unreadable_config_is_refused(config, detector, here):
    (here / "config.yaml").write_text(config)
    with raises_code("checkpoint.invalid_input_spec", "config.yaml"):
        load_backbone(detector)


def test_config_cannot_run_code(detector, here):
    (here / "config.yaml").write_text(
        f"INPUT: !!python/object/apply:os.mkdir ['{here / 'made'}']\n"
    )
    with raises_code("checkpoint.input_not_stated"):
        load_backbone(detector)
    assert not (here / "made").exists()


def test_entry_of_the_file_overrides_the_config(resnet18, here):
    content = writers.detectron2_c4(resnet18)
    content["virtex_backbone"] = {"input": SPEC, "stride_in_1x1": False}
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    backbone = load_backbone(writers.save(content, here / "model_final.pth"))
    assert backbone.input == InputSpec("RGB", (0.5,) * 3, (0.25,) * 3, 1.0)
    assert backbone.arch.stride_in_1x1 is False


@pytest.mark.parametrize(
    "entry",
    [
        {"stride_in_1x1": False},
        {"input": SPEC},
        {"input": SPEC, "stride_in_1x1": 1},
        {"input": {"channel_order": "GRB", "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"input": {"channel_order": "RGB", "mean": [0, 0, 0], "std": [1, 0, 1]}},
        "RGB",
    ],
)
def test_invalid_entry_is_refused(entry, resnet18, here):
    content = {**writers.detectron2_fpn(resnet18), "virtex_backbone": entry}
    with raises_code("checkpoint.invalid_input_spec", "virtex_backbone"):
        load_backbone(writers.save(content, here / "model_final.pth"))


# Statements about the network ------------------------------------------------------------------

RESNET50 = ResNetArch(50, "bottleneck")


def resolve(content, format="timm", arch=RESNET50, explicit=False, path="missing/file.pth"):
    row = get_format(format)
    return resolve_input(row, arch, read_statements(content, path, row.sidecars), explicit)


NAMES = [
    {"arch": "{}"},  # timm, MoCo
    {"args": argparse.Namespace(arch="{}")},  # DINO
    {"args": {"model": "{}"}},  # timm, torchvision
    {"opt": argparse.Namespace(arch="{}")},  # PixPro
    {"hyper_parameters": {"backbone": {"name": "{}"}}},  # solo-learn
    {"hyper_parameters": {"encoder": "{}"}},
]


def named(content, name):
    if isinstance(content, argparse.Namespace):
        return argparse.Namespace(**named(vars(content), name))
    if isinstance(content, dict):
        return {key: named(value, name) for key, value in content.items()}
    return content.format(name)


@pytest.mark.parametrize("content", NAMES)
def test_stated_name_of_another_network_is_refused(content):
    for name in ("resnetaa50", "resnetblur50", "resnet50d", "timm/resnet101", "wide_resnet50_2"):
        with raises_code("checkpoint.unexpected_architecture", name):
            resolve(named(content, name))
    for name in (
        "resnet50",
        "ResNet-50",
        "resnet50.a1_in1k",
        "vit_small",
        "my_run",
        "resnet50_v1.5",
    ):
        assert resolve(named(content, name))[:2] == (IMAGENET_RGB, RESNET50)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("resnext50_32x4d", ResNetArch(50, "bottleneck", 4, 32)),
        ("resnext101_32x8d", ResNetArch(101, "bottleneck", 8, 32)),
        ("wide_resnet50_2", ResNetArch(50, "bottleneck", 128, 1)),
        ("resnet18", ResNetArch(18, "basic")),
    ],
)
def test_names_of_torchvision_fit(name, arch):
    assert resolve({"arch": name}, arch=arch)[1] == arch
    with raises_code("checkpoint.unexpected_architecture", name):
        resolve({"arch": name})


@pytest.mark.parametrize(
    "content",
    [
        {"args": argparse.Namespace(bn_eps=1e-3)},
        {"args": {"model_kwargs": {"aa_layer": "blurpool"}}},
        {"args": {"model_kwargs": {"act_layer": "silu"}}},
        {"hyper_parameters": {"maxpool1": False}},
    ],
)
def test_other_computations_are_refused(content):
    with raises_code("checkpoint.unsupported_architecture"):
        resolve(content)


def test_stated_normalization_of_timm():
    args = argparse.Namespace(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], bn_eps=None)
    spec, _, notes = resolve({"arch": "resnet50", "args": args})
    assert spec == InputSpec("RGB", (0.5,) * 3, (0.5,) * 3, 1.0)
    assert "args.mean" in " ".join(notes)


def test_config_json_of_timm(here):
    config = {
        "architecture": "resnet50",
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (here / "config.json").write_text(json.dumps(config))
    spec = resolve({}, "torchvision", path=here / "model.safetensors")[0]
    assert spec == InputSpec("RGB", (0.5,) * 3, (0.5,) * 3, 1.0)
    (here / "config.json").write_text(json.dumps({"architecture": "resnetblur50"}))
    with raises_code("checkpoint.unexpected_architecture", "resnetblur50", "config.json"):
        resolve({}, "torchvision", path=here / "model.safetensors")


def test_two_statements_must_agree():
    content = {"hyper_parameters": {"maxpool1": True}, "args": {"mean": [0.5] * 3, "std": [1] * 3}}
    resolve(content)
    mean = {"pixel_mean": torch.full((3, 1, 1), 127.5), "pixel_std": torch.full((3, 1, 1), 255.0)}
    resolve(content | {"model": mean})  # the same in other units
    with raises_code("checkpoint.contradiction", "args.mean", "model.pixel_mean"):
        resolve(content | {"model": {**mean, "pixel_std": torch.ones(3, 1, 1)}})


@pytest.mark.parametrize("value", [torch.ones(2), [[1]], {"a": 1}, [torch.ones(2)]])
def test_odd_statements_are_refused(value):
    with raises_code("checkpoint.invalid_input_spec", "args.bn_eps"):
        resolve({"args": {"bn_eps": value}})


# OpenMMLab's configs ---------------------------------------------------------------------------


def mm(config):
    return {"meta": {"config": config, "CLASSES": ("cat", "dog")}}


def test_openmmlab_style_and_normalization(resnet50):
    spec, arch, _ = resolve(mm(writers.openmmlab_config(resnet50)), "openmmlab")
    assert (spec, arch.stride_in_1x1) == (RGB_255, False)
    spec, arch, _ = resolve(mm(writers.openmmlab_config(resnet50, "caffe")), "openmmlab")
    assert (spec, arch.stride_in_1x1) == (CAFFE_BGR, True)
    assert read_statements(mm(""), "file").facts["classes"].value == ("cat", "dog")


def test_openmmlab_without_a_config_needs_a_choice():
    with raises_code("checkpoint.input_not_stated", "--format openmmlab_caffe"):
        resolve({"meta": {"CLASSES": ("cat", "dog")}}, "openmmlab")
    assert resolve({}, "openmmlab", explicit=True)[0] == IMAGENET_RGB


MMENGINE = """
data_preprocessor = dict(
    type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True)
model = dict(type='FCOS', data_preprocessor=data_preprocessor, backbone=dict({}))
"""


@pytest.mark.parametrize(
    ("backbone", "code"),
    [
        ("type='ResNet', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)", "unsupported"),
        ("type='ResNet', depth=50, strides=(1, 2, 2, 1)", "unsupported"),
        ("type='ResNet', depth=50, norm_cfg=dict(type='BN', eps=0.001)", "unsupported"),
        ("type='ResNetV1d', depth=50", "unexpected"),
        ("type='mmdet.ResNet', depth=101", "unexpected"),
    ],
)
def test_openmmlab_backbones_with_other_computations(backbone, code):
    with raises_code(f"checkpoint.{code}_architecture"):
        resolve(mm(MMENGINE.format(backbone)), "openmmlab")


@pytest.mark.parametrize(
    "backbone",
    [
        "type='ResNet', depth=50",
        "type='ResNet', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), "
        "contract_dilation=True",
    ],
)
def test_openmmlab_backbones_with_the_same_features(backbone):
    spec, arch, _ = resolve(mm(MMENGINE.format(backbone)), "openmmlab")
    assert (spec, arch.stride_in_1x1) == (RGB_255, False)


@pytest.mark.parametrize(
    "text", ["model = dict(", "x = 1" * 10, "(" * 100_000, "model = f(__import__('os').abort())"]
)
def test_openmmlab_configs_are_not_executed(text):
    assert not parse_openmmlab(text).get("backbone")


def test_normalizations_are_compared_by_pixels():
    one = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), 255.0)
    other = (IMAGENET_RGB.mean[::-1], IMAGENET_RGB.std[::-1], 1.0)
    assert is_same(one, other)
    assert not is_same(one, (other[0], (1.0, 1.0, 1.0), 1.0))
