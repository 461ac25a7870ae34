"""Formats are detected by keys, never by a file's name, and never by a guess."""

import checkpoint_writers as writers
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tests.errors import raises_code
from virtex.checkpoints import Format, load_backbone, register_format
from virtex.checkpoints.detect import collect_state_dicts, detect_format
from virtex.checkpoints.formats import get_format


def meta_network(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name).state_dict()
    return {key: value for key, value in network.items() if not key.startswith("fc.")}


@pytest.fixture
def shapes():
    """ResNet-50's names with tensors that have shapes and no data."""
    return meta_network("resnet50")


@pytest.mark.parametrize(("name", "container"), [("torchvision", "model"), ("timm", "model_ema")])
def test_ambiguous_formats_need_a_choice(name, container, shapes):
    content = writers.torchvision_training_with_ema(shapes)
    with raises_code("checkpoint.ambiguous_format", "--format torchvision", "--format timm"):
        detect_format(content)
    parsed = detect_format(content, name)
    assert (parsed.format.name, parsed.container) == (name, container)


def test_formats_with_the_same_weights_agree(shapes):
    """simsiam's file also has the keys of solo-learn and PyContrast."""
    assert detect_format(writers.timm_training(shapes)).container == "state_dict_ema"
    assert detect_format(writers.simsiam(shapes)).format.name == "simsiam"


def test_copies_need_a_choice(shapes):
    with raises_code("checkpoint.ambiguous_format", "lightly_teacher", "lightly_student"):
        detect_format(writers.lightly_dino(shapes))


def test_unknown_container_names_the_closest_format(shapes):
    del shapes["layer3.4.bn2.bias"]
    content = {"params": {**shapes, "odd.weight": torch.zeros(1)}}
    with raises_code(
        "checkpoint.unknown_format",
        *("torchvision", "264 of 265", "layer3.4.bn2.bias", "'state_dict' or 'model'", "'params'"),
    ):
        detect_format(content)


def test_unknown_prefix_suggests_the_option(shapes):
    content = {"state_dict": writers.prefixed("net.trunk.", shapes)}
    with raises_code("checkpoint.unknown_format", "--format prefix:net.trunk."):
        detect_format(content)
    assert detect_format(content, "prefix:net.trunk.").arch.name == "resnet50"


def test_explicit_format_that_does_not_fit(shapes):
    with raises_code("checkpoint.unknown_format", "moco", "keys in 'model': vis"):
        detect_format(writers.virtex(shapes), "moco")


def test_unknown_format_name_suggests_others():
    with raises_code("checkpoint.unknown_format", "moco_v4", "moco_v3"):
        get_format("moco_v4")


@pytest.mark.parametrize("content", [{"epoch": 3, "note": "?"}, [1, 2], {}])
def test_file_without_tensors(content):
    with raises_code("checkpoint.no_tensors", *(content if isinstance(content, dict) else ())):
        detect_format(content)


def test_two_keys_for_one_tensor_are_refused(shapes):
    content = writers.detectron2_c4(shapes)
    twin = {f"backbone.{k[10:]}": v for k, v in content["model"].items() if "res5.0" in k}
    content["model"] |= twin
    with raises_code("checkpoint.unsupported_architecture", "layer4.0"):
        detect_format(content)


def test_modules_keep_their_own_weights():
    """The state_dicts are built one after another, each where the last one was in memory."""
    networks = {name: torch.nn.Linear(1, 1) for name in ("student", "teacher", "third")}
    for number, network in enumerate(networks.values()):
        torch.nn.init.constant_(network.weight, number)
    found = collect_state_dicts(networks).by_path
    assert [float(found[name]["weight"]) for name in networks] == [0.0, 1.0, 2.0]


def test_mappings_that_contain_themselves_end():
    content = {"weight": torch.zeros(1)}
    content["again"] = content
    assert len(collect_state_dicts(content).by_path) == 6


def test_too_many_tensors_are_refused():
    tensor = torch.zeros(1)
    with raises_code("checkpoint.unreadable", "entries"):
        collect_state_dicts({f"module.x{n}": tensor for n in range(190_000)})


@pytest.mark.parametrize("name", ["\x1b[2Jconv1.weight", "a" * 301])
def test_unprintable_tensor_names_are_refused(name):
    with raises_code("checkpoint.unreadable", "of"):
        collect_state_dicts({name: torch.zeros(1)})


# Networks that are not plain ResNets -----------------------------------------------------------


def deep_stem(shapes):
    stem = {"conv1.0.weight": torch.empty(32, 3, 3, 3), "conv1.1.weight": torch.empty(32)}
    return {k: v for k, v in shapes.items() if k != "conv1.weight"} | stem


def clip_resnet(shapes):
    visual = {
        **shapes,
        "conv1.weight": torch.empty(32, 3, 3, 3),
        "conv2.weight": torch.empty(32, 32, 3, 3),
        "attnpool.positional_embedding": torch.empty(50, 2048),
    }
    return writers.prefixed("visual.", visual) | {"logit_scale": torch.tensor(1.0)}


def open_clip(shapes):
    return {"epoch": 3, "state_dict": writers.prefixed("module.", clip_resnet(shapes))}


def byol_of_jax(shapes):
    weights = {"res_net50/~/initial_conv": {"w": np.zeros((7, 7, 3, 64), np.float32)}}
    return {"experiment_state": {"online_params": weights}}


def cmc_of_lab(shapes):
    half = {**shapes, "conv1.weight": torch.empty(64, 1, 7, 7)}
    return {"model": writers.prefixed("module.encoder1.", half)}


def cifar_stem(shapes):
    return {**shapes, "conv1.weight": torch.empty(64, 3, 3, 3)}


def twice_as_wide(shapes):
    return {**shapes, "conv1.weight": torch.empty(128, 3, 7, 7)}


def squeeze_and_excitation(shapes):
    return {**shapes, **writers.linear("layer1.0.se.fc1")}


def anti_aliased(shapes):
    return {**shapes, "layer2.0.conv3.0.filt": torch.empty(128, 1, 3, 3)}


def deformable(shapes):
    content = writers.detectron2_fpn(shapes)
    content["model"]["backbone.bottom_up.res4.0.conv2_offset.weight"] = torch.empty(18, 256, 3, 3)
    return content


def group_norm(shapes):
    return {k: v for k, v in shapes.items() if "running" not in k and "tracked" not in k}


def resnet26(shapes):
    dropped = {"layer1": "2", "layer2": "23", "layer3": "2345", "layer4": "2"}
    blocks = {k: k.split(".")[1] for k in shapes}
    return {k: v for k, v in shapes.items() if blocks[k] not in dropped.get(k.split(".")[0], "")}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (deep_stem, "deep stem"),
        (clip_resnet, "CLIP"),
        (open_clip, "CLIP"),
        (byol_of_jax, "JAX"),
        (cmc_of_lab, "(64, 1, 7, 7)"),
        (cifar_stem, "(64, 3, 3, 3)"),
        (twice_as_wide, "(128, 3, 7, 7)"),
        (squeeze_and_excitation, "layer1.0.se.fc1.weight"),
        (anti_aliased, "layer2.0.conv3.0.filt"),
        (deformable, "layer3.0.conv2_offset.weight"),
        (group_norm, "no running statistics"),
        (resnet26, "2, 2, 2, 2 bottleneck blocks"),
    ],
)
def test_variants_of_resnet_are_refused(network, reason):
    with raises_code("checkpoint.unsupported_architecture", reason):
        detect_format(network(meta_network("resnet50")))


def test_register_format(registered, resnet18, here):
    register_format(
        Format(
            "acme",
            "a company",
            containers=("nets.vision",),
            strip=("acme.",),
            required_prefixes=("acme.",),
        )
    )
    content = {"nets": {"vision": writers.prefixed("module.acme.", resnet18)}, "step": 5}
    backbone = load_backbone(writers.save(content, here / "checkpoint"))
    assert backbone.source.format == "acme"
    assert torch.equal(backbone.state_dict["bn1.bias"], resnet18["bn1.bias"])


def test_format_needs_its_own_name_and_known_dialects(registered):
    with pytest.raises(ValueError, match="'pcl'"):
        register_format(Format("new", "someone", aliases=("pcl",)))
    with pytest.raises(ValueError, match="klingon"):
        register_format(Format("new", "someone", dialects=("klingon",)))


def test_safetensors_match_at_the_root_in_any_format(resnet18, here):
    path = str(here / "teacher.safetensors")
    weights = writers.dino(resnet18)["teacher"]
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    assert load_backbone(path, format="dino").source.coverage.complete
