"""A checkpoint of every known project loads completely, or not at all."""

import checkpoint_writers as writers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.errors import raises_code
from virtex.checkpoints import FORMATS, load_backbone
from virtex.checkpoints.detect import collect_state_dicts, detect_format, parse_as
from virtex.checkpoints.inputs import CAFFE_BGR, IMAGENET_RGB, UNNORMALIZED_RGB

BY_NAME = [pytest.param(*entry, id=entry[1].__name__) for entry in writers.ALL_WRITERS]
FOLDED = {"caffe2", "caffe2_detectron"}  # writers whose files have no running statistics
# rows for files without names of their own project; they match some other projects' files, too
GENERIC = {"torchvision", "timm", "vissl", "encoder_prefix", "backbone_prefix"}


def load(path, name):
    """Load with a detected format; choose it if its files need a config that states the input."""
    return load_backbone(path, format=name if name.startswith("detectron2") else "auto")


def assert_same_weights(backbone, state_dict, without=()):
    assert backbone.state_dict.keys() == state_dict.keys()
    for name, tensor in backbone.state_dict.items():
        if name.endswith("num_batches_tracked"):
            assert tensor.shape == () and tensor in (0, 100)
        elif not name.endswith(tuple(without) or ("\0",)):
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()
            assert torch.equal(tensor, state_dict[name]), name


@pytest.mark.parametrize(("name", "writer"), BY_NAME)
def test_format_is_detected_and_all_tensors_load(name, writer, resnet18, here):
    path = writers.save(writer(resnet18), here / "checkpoint", writer)
    backbone = load(path, name)
    assert backbone.source.format == name
    assert backbone.arch.name == "resnet18"
    assert backbone.source.coverage.complete
    without = ("running_mean", "running_var") if writer.__name__ in FOLDED else ()
    assert_same_weights(backbone, resnet18, without)


@pytest.mark.parametrize(("name", "writer"), BY_NAME)
def test_formats_of_other_projects_do_not_match(name, writer, resnet18):
    content = writer(resnet18)
    found = collect_state_dicts(content)
    parsed = {row.name: parse_as(row, found, False) for row in FORMATS.values()}
    matching = {n for n, result in parsed.items() if result and not FORMATS[n].explicit_only}
    assert matching - GENERIC == {name} - GENERIC
    assert detect_format(content).format.name == name


@pytest.mark.parametrize(("name", "writer"), BY_NAME)
def test_missing_tensor_is_named(name, writer, resnet18, here):
    lost = "layer3.1.conv2.weight"
    partial = {key: value for key, value in resnet18.items() if key != lost}
    path = writers.save(writer(partial), here / "checkpoint", writer)
    with raises_code("checkpoint.incomplete", path, name, lost) as error:
        load(path, name)
    table = [line.split() for line in str(error.value).splitlines()]
    assert ["res4", "25", "24", "1", "0"] in table


def test_every_format_is_tested():
    """Those of other families are tested in tests/backbones."""
    written = {name for name, _ in writers.ALL_WRITERS}
    formats = {
        name for name, row in FORMATS.items() if not row.explicit_only and row.applies_to("resnet")
    }
    assert formats == written | {"caffe2_resnext"}  # that one: below


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("dino_student", writers.dino),
        ("lightly_student", writers.lightly_dino),
        ("lightly_teacher", writers.lightly_dino),
        ("lightly_momentum", writers.lightly),
        ("pycontrast_ema", writers.pycontrast),
        ("simclr", writers.imagenet_example),
        ("detectron2_backbone_caffe", writers.detectron2_backbone),
    ],
)
def test_explicit_only_formats(name, writer, resnet18, here):
    path = writers.save(writer(resnet18), here / "checkpoint", writer)
    backbone = load_backbone(path, format=name)
    assert backbone.source.format == name
    main = {"lightly_student", "simclr", "detectron2_backbone_caffe"}
    wanted = resnet18 if name in main else writers.moved(resnet18)
    assert torch.equal(backbone.state_dict["conv1.weight"], wanted["conv1.weight"])


@pytest.mark.parametrize("alias", ["pcl", "moco_v1", "moco_v2"])
def test_aliases(alias, resnet18, here):
    path = writers.save(writers.moco(resnet18), here / "checkpoint")
    assert load_backbone(path, format=alias).source.format == "moco"


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("moco", lambda sd: writers.moco(sd)["state_dict"]),
        ("virtex", lambda sd: writers.virtex(sd)["model"]),
        ("detectron2", lambda sd: writers.detectron2_fpn(sd)["model"]),
        ("barlow_twins", lambda sd: writers.barlow_twins(sd)["model"]),
        ("torchvision", writers.torchvision_published),
    ],
)
def test_safetensors(name, writer, resnet18, here):
    path = str(here / "model.safetensors")
    save_file({key: value.contiguous() for key, value in writer(resnet18).items()}, path)
    backbone = load(path, name)
    assert backbone.source.format == name
    assert_same_weights(backbone, resnet18)


def test_legacy_torch_file(resnet18, here):
    path = here / "old.pth.tar"
    torch.save(writers.moco(resnet18), path, _use_new_zipfile_serialization=False)
    assert_same_weights(load_backbone(str(path)), resnet18)


def test_bfloat16_becomes_float32(resnet18, here):
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in resnet18.items()}
    backbone = load_backbone(writers.save(half, here / "checkpoint"))
    assert_same_weights(backbone, {k: v.float() for k, v in half.items()})
    assert "stored as bfloat16, loaded as float32" in backbone.source.notes


def test_weights_are_independent_of_the_file(resnet18, here):
    path = here / "checkpoint"
    backbone = load_backbone(writers.save(dict(resnet18), path))
    path.write_bytes(b"")
    assert_same_weights(backbone, resnet18)


@pytest.mark.parametrize("writer", [writers.detectron2_c4, writers.caffe2])
def test_bottlenecks_in_detectron2_and_caffe2_names(writer, resnet50, here):
    name = "detectron2" if writer is writers.detectron2_c4 else "auto"
    backbone = load_backbone(writers.save(writer(resnet50), here / "checkpoint", writer), name)
    assert backbone.arch.name == "resnet50"
    convolutions = [name for name in resnet50 if resnet50[name].ndim == 4]
    assert len(convolutions) == 53
    assert all(torch.equal(backbone.state_dict[n], resnet50[n]) for n in convolutions)


def test_folded_batch_norm_is_equivalent(resnet18, here):
    path = writers.save(writers.caffe2(resnet18), here / "R-18.pkl", writers.caffe2)
    norm = torch.nn.BatchNorm2d(64).eval()
    weights = load_backbone(path).state_dict
    norm.load_state_dict({k.removeprefix("bn1."): v for k, v in weights.items() if k[:4] == "bn1."})
    x = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    scale, shift = resnet18["bn1.weight"], resnet18["bn1.bias"]
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), x * scale[:, None, None] + shift[:, None, None])


def test_mismatched_shapes_are_reported(resnet18, here):
    wrong = {**resnet18, "layer2.0.bn1.weight": torch.ones(64)}
    path = writers.save(writers.moco(wrong), here / "checkpoint")
    with raises_code("checkpoint.incomplete", "layer2.0.bn1.weight", "(64,)", "(128,)"):
        load_backbone(path)


def test_nan_and_infinity_are_refused(resnet18, here):
    bad = dict(resnet18)
    bad["layer1.0.conv1.weight"] = torch.full_like(bad["layer1.0.conv1.weight"], float("nan"))
    bad["bn1.running_var"] = torch.full((64,), float("inf"))
    path = writers.save(bad, here / "checkpoint")
    names = "bn1.running_var, layer1.0.conv1.weight"
    with raises_code("checkpoint.not_finite", path, names):
        load_backbone(path)


def test_quantized_weights_are_refused(resnet18, here):
    bad = {**resnet18, "conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)}
    with raises_code("checkpoint.not_floating_point", "conv1.weight"):
        load_backbone(writers.save(bad, here / "checkpoint"))


def test_missing_stage_is_counted(resnet50, here):
    beheaded = {k: v for k, v in resnet50.items() if not k.startswith("layer4.")}
    with raises_code("checkpoint.incomplete") as error:
        load_backbone(writers.save(writers.detectron2_c4(beheaded), here / "file"), "detectron2")
    assert any(
        line.split()[:4] == ["res5", "50", "0", "50"] for line in str(error.value).split("\n")
    )


@pytest.mark.parametrize(
    ("name", "writer", "unused"),
    [
        (
            "moco",
            writers.moco,
            {
                "module.encoder_q.fc": 9,
                "module.encoder_k": 129,
                "module.queue": 1,
                "module.queue_ptr": 1,
            },
        ),
        (
            "detectron2",
            writers.detectron2_c4,
            {"roi_heads.res5.norm": 5, "roi_heads.box_predictor": 2},
        ),
        ("dino", writers.dino, {"module.head": 9, "student": 129}),
    ],
)
def test_unused_tensors_are_counted_by_group(name, writer, unused, resnet18, here):
    path = writers.save(writer(resnet18), here / "checkpoint")
    assert load(path, name).source.coverage.unused == unused


@pytest.mark.parametrize(
    ("name", "writer", "spec", "stride_in_1x1"),
    [
        ("auto", writers.moco, IMAGENET_RGB, False),
        ("auto", writers.simclr_sthalles, UNNORMALIZED_RGB, False),
        ("auto", writers.detectron2_backbone, IMAGENET_RGB, False),
        ("auto", writers.caffe2, CAFFE_BGR, True),
        ("detectron2", writers.detectron2_zoo_detector, CAFFE_BGR, True),
        ("detectron2_rgb", writers.detectron2_zoo_detector, IMAGENET_RGB, False),
        ("torchvision_caffe", writers.hub_without_classifier, CAFFE_BGR, True),
        ("openmmlab_caffe", lambda sd: writers.prefixed("backbone.", sd), CAFFE_BGR, True),
    ],
)
def test_input_and_stride_of_formats(name, writer, spec, stride_in_1x1, resnet18, here):
    path = writers.save(writer(resnet18), here / "checkpoint", writer)
    backbone = load_backbone(path, name)
    assert (backbone.input, backbone.arch.stride_in_1x1) == (spec, stride_in_1x1)


def test_resnext_in_caffe2_names(here):
    state_dict = writers.randomized("resnext50_32x4d")
    path = writers.save(writers.caffe2(state_dict), here / "X-50.pkl", writers.caffe2)
    backbone = load_backbone(path)
    assert (backbone.source.format, backbone.arch.name) == ("caffe2_resnext", "resnext50_32x4d")
    assert backbone.arch.stride_in_1x1 is False
    assert backbone.input.std == (57.375, 57.12, 58.395)


def test_big_endian_arrays(resnet18, here):
    content = writers.detectron2_backbone(resnet18)
    content["model"] = {
        name: np.asarray(array).astype(np.asarray(array).dtype.newbyteorder(">"))
        for name, array in content["model"].items()
    }
    path = writers.save(content, here / "R-18.pkl", writers.detectron2_backbone)
    assert_same_weights(load_backbone(path), resnet18)
