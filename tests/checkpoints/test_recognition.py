"""Which format a file is of: by its keys, never by its name, and never by a guess."""

import checkpoint_writers as writers
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from virtex.backbones.resnet import build_resnet, resnet_features
from virtex.checkpoints import (
    CheckpointError,
    Family,
    Format,
    load_backbone,
    register_family,
    register_format,
)
from virtex.checkpoints.formats import get_format
from virtex.checkpoints.recognition import recognize


def meta_network(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name).state_dict()
    return {key: value for key, value in network.items() if not key.startswith("fc.")}


@pytest.fixture
def shapes():
    """ResNet-50's names with tensors that have shapes and no data."""
    return meta_network("resnet50")


def test_two_formats_that_read_different_weights_are_an_error_naming_both(shapes):
    content = writers.torchvision_training_with_ema(shapes)
    with pytest.raises(CheckpointError) as error:
        recognize(content)
    for words in ("torchvision and timm", "--format torchvision", "--format timm", "'model_ema'"):
        assert words in str(error.value)


@pytest.mark.parametrize(("name", "container"), [("torchvision", "model"), ("timm", "model_ema")])
def test_the_user_decides_between_them(name, container, shapes):
    content = writers.torchvision_training_with_ema(shapes)
    reading = recognize(content, name)
    assert (reading.format.name, reading.container) == (name, container)


def test_averaged_weights_that_only_timm_writes_are_no_question(shapes):
    assert recognize(writers.timm_training(shapes)).container == "state_dict_ema"


def test_formats_that_read_the_same_weights_are_no_conflict(shapes):
    """simsiam's file is also solo-learn's and PyContrast's key style."""
    assert recognize(writers.simsiam(shapes)).format.name == "simsiam"


def test_without_a_main_network_the_copies_are_offered(shapes):
    with pytest.raises(CheckpointError, match="--format lightly_teacher or --format lightly_st"):
        recognize(writers.lightly_dino(shapes))


def test_an_unknown_container_gets_the_nearest_format_what_it_lacks_and_the_keys(shapes):
    del shapes["layer3.4.bn2.bias"]
    with pytest.raises(CheckpointError) as error:
        recognize({"params": {**shapes, "odd.weight": torch.zeros(1)}})
    for words in (
        "no known format: the nearest is torchvision, with 264 of 265 tensors in 'params'",
        "without layer3.4.bn2.bias",
        "it expects them in 'state_dict' or 'model' or the root",
        "keys found in 'params': conv1.weight, bn1.weight",
    ):
        assert words in str(error.value)


def test_an_unknown_prefix_gets_the_option_that_reads_it(shapes):
    content = {"state_dict": writers.prefixed("net.trunk.", shapes)}
    with pytest.raises(CheckpointError, match=r"--format prefix:net\.trunk\. reads"):
        recognize(content)
    assert recognize(content, "prefix:net.trunk.").arch.name == "resnet50"


def test_a_format_that_was_chosen_and_does_not_fit_says_so(shapes):
    with pytest.raises(CheckpointError, match=r"not of format moco: .* keys found in 'model': vis"):
        recognize(writers.virtex(shapes), "moco")


def test_an_unknown_format_name_gets_the_nearest_names():
    with pytest.raises(
        CheckpointError, match="no checkpoint format 'moco_v4': did you mean moco_v"
    ):
        get_format("moco_v4")


def test_a_file_without_tensors_says_what_it_holds():
    with pytest.raises(CheckpointError, match="but a mapping with the keys 'epoch', 'note'"):
        recognize({"epoch": 3, "note": "?"})
    with pytest.raises(CheckpointError, match="but an object of type list"):
        recognize([1, 2])


def test_two_keys_for_one_tensor_are_refused(shapes):
    content = writers.detectron2_c4(shapes)
    twin = {f"backbone.{k[10:]}": v for k, v in content["model"].items() if "res5.0" in k}
    content["model"] |= twin
    with pytest.raises(CheckpointError, match=r"stand for layer4.0"):
        recognize(content)


# Networks that are no plain ResNets ----------------------------------------------------------


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


def vision_transformer(shapes):
    blocks = writers.linear("blocks.0.attn.qkv") | writers.linear("patch_embed.proj")
    return {"model": {"cls_token": torch.empty(1, 1, 5), **blocks}}


def clip_transformer(shapes):
    return {"visual.class_embedding": torch.empty(5), **writers.linear("visual.proj")}


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
        (clip_resnet, "CLIP's modified ResNet"),
        (open_clip, "CLIP's modified ResNet"),
        (vision_transformer, "a vision transformer"),
        (clip_transformer, "a vision transformer"),
        (byol_of_jax, "SAME, which at stride 2 samples other pixels"),
        (cmc_of_lab, r"of shape \(64, 1, 7, 7\), does not take the 3 channels"),
        (cifar_stem, r"of shape \(64, 3, 3, 3\), is not 7x7"),
        (twice_as_wide, r"of shape \(128, 3, 7, 7\), does not have 64 filters"),
        (squeeze_and_excitation, r"2 tensors inside its stages.*layer1\.0\.se\.fc1\.weight"),
        (anti_aliased, r"no place in a plain resnet50: layer2\.0\.conv3\.0\.filt"),
        (deformable, r"layer3\.0\.conv2_offset\.weight"),
        (group_norm, "no running statistics"),
        (resnet26, r"2, 2, 2, 2 bottleneck blocks; a ResNet has 3, 4, 6, 3 \(50\)"),
    ],
)
def test_a_relative_of_resnet_is_refused_with_the_reason(network, reason):
    with pytest.raises(CheckpointError, match=reason):
        recognize(network(meta_network("resnet50")))


# Other people's formats and networks -----------------------------------------------------------


def test_anyone_can_add_a_format(registered, resnet18, here):
    register_format(
        Format("acme", "a company", containers=("nets.vision",), strip=("acme.",), marks=("acme.",))
    )
    content = {"nets": {"vision": writers.prefixed("module.acme.", resnet18)}, "step": 5}
    backbone = load_backbone(writers.save(content, here / "checkpoint"))
    assert backbone.source.format == "acme"
    assert torch.equal(backbone.state_dict["bn1.bias"], resnet18["bn1.bias"])


def test_a_format_needs_a_name_of_its_own_and_a_known_dialect(registered):
    with pytest.raises(ValueError, match="'pcl' is registered already"):
        register_format(Format("new", "someone", aliases=("pcl",)))
    with pytest.raises(ValueError, match="klingon"):
        register_format(Format("new", "someone", naming=("klingon",)))


def test_anyone_can_add_a_family_of_networks(registered, resnet18, here):
    """A ResNet whose stem is called ``entry``: refused by none, known to its family."""
    from virtex.checkpoints.backbone import Arch

    def read(state_dict, stride_in_1x1):
        return Arch("entry", 18, "basic") if "entry.conv1.weight" in state_dict else None

    class Entry(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.entry = build_resnet(Arch("resnet", 18, "basic"))

    register_family(
        Family("entry", read, lambda arch: Entry(), lambda net, x: resnet_features(net.entry, x))
    )
    content = {"state_dict": writers.prefixed("entry.", resnet18)}
    backbone = load_backbone(writers.save(content, here / "checkpoint"), format="torchvision")
    assert backbone.arch.family == "entry"
    assert torch.equal(backbone.state_dict["entry.bn1.bias"], resnet18["bn1.bias"])


def test_safetensors_match_at_the_root_whatever_the_projects_container(resnet18, here):
    path = str(here / "teacher.safetensors")
    weights = writers.dino(resnet18)["teacher"]
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    assert load_backbone(path, format="dino").source.coverage.complete
