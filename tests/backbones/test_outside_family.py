"""A family that is registered outside of this package, in every task."""

import pytest
import torch

from tests.backbones.outside_family import PatchMLPArch, PatchMLPFamily
from tests.errors import raises_code
from tests.probes.small_probes import make_images, settings_of, small_extractor
from virtex.backbones import registry
from virtex.checkpoints import load_backbone
from virtex.checkpoints.detect import detect_format
from virtex.cli import run_tool
from virtex.data.toy.plan import Plan
from virtex.data.toy.voc import write_voc
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.compat import default_config
from virtex.eval_tools import detectron2_transfer
from virtex.probes.classifier_training import ClassifierTraining, TrainingOptions
from virtex.probes.knn import NearestNeighbors
from virtex.probes.pooled import PooledBackbone
from virtex.probes.svm import Voc07Svm

ARCH = PatchMLPArch(64, 2)
SIZE_32 = ("DATA.IMAGE_RESIZE_SIZE", 36, "DATA.IMAGE_CROP_SIZE", 32)
SIZE_48 = ("DATA.IMAGE_RESIZE_SIZE", 48, "DATA.IMAGE_CROP_SIZE", 48)
SHORT = ("OPTIM.BATCH_SIZE", 4, "OPTIM.NUM_EPOCHS", 1, "OPTIM.WARMUP_EPOCHS", 0)


@pytest.fixture(scope="module", autouse=True)
def family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FAMILIES", dict(registry.get_families()))
        yield registry.register_family(PatchMLPFamily())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, family):
    torch.manual_seed(0)
    weights = family.build(ARCH).state_dict()
    weights["head.weight"] = torch.zeros(10, 64)
    path = tmp_path_factory.mktemp("outside") / "patch_mlp.pth"
    torch.save({"model": weights, "epoch": 1}, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return make_images(folder / "train", 9), make_images(folder / "val", 6, seed=1)


def test_coverage_is_counted_by_block(checkpoint):
    backbone = load_backbone(checkpoint)
    coverage = backbone.source.coverage
    groups = {name: len(group.loaded) for name, group in coverage.stages.items()}
    assert groups == {"embedding": 3, "layers.0": 2, "layers.1": 2}
    assert coverage.complete and coverage.unused == {"head": 1}
    record = backbone.record()
    assert (record["family"], record["arch"]["width"]) == ("patch_mlp", 64)
    assert record["params"] == sum(t.numel() for t in backbone.state_dict.values())


def test_missing_tensors_are_named(checkpoint, tmp_path):
    content = torch.load(checkpoint)
    del content["model"]["layers.1.bias"]
    torch.save(content, tmp_path / "incomplete.pth")
    with raises_code("checkpoint.incomplete", "layers.1.bias"):
        load_backbone(tmp_path / "incomplete.pth")


def test_unknown_prefix_is_found_by_the_anchor_key(checkpoint):
    content = {f"net.{k}": v for k, v in torch.load(checkpoint)["model"].items()}
    with raises_code("checkpoint.unknown_format", "prefix:net."):
        detect_format(content)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    write_voc(Plan(root, 0, 16, 6, coco_train_images=2))
    return root


@pytest.fixture(params=["knn", "svm", "linear"])
def build_evaluator(request, images, voc, tmp_path):
    """Build an evaluator with overrides of its protocol."""

    def build(*overrides):
        extractor = small_extractor(tmp_path)
        if request.param == "knn":
            settings = settings_of("imagenet_knn", "toy", "KNN.NEIGHBORS", [3], *overrides)
            return NearestNeighbors(*images, settings, extractor)
        if request.param == "svm":
            return Voc07Svm(voc, settings_of("voc07_svm", "toy", *overrides), extractor)
        settings = settings_of("imagenet_linear", "toy", *SHORT, *overrides)
        return ClassifierTraining(
            *images, settings, TrainingOptions(tmp_path, torch.device("cpu"), seed=0)
        )

    return build


def test_probes_run(build_evaluator, checkpoint, tmp_path):
    evaluator, backbone = build_evaluator(*SIZE_32), load_backbone(checkpoint)
    evaluator.check(backbone)
    metrics = evaluator(backbone)
    assert all(0 <= value <= 100 for value in metrics.values())
    assert evaluator.report.details["representation"] == {"name": "max", "features": 64}
    if isinstance(evaluator, ClassifierTraining):
        trained = load_backbone(tmp_path / "model_final.pth")
        assert (trained.arch, trained.source.format) == (ARCH, "virtex")


def test_other_image_sizes_are_refused(build_evaluator, checkpoint):
    backbone = load_backbone(checkpoint)
    with raises_code("checkpoint.input_size", "32x32", "48x48"):
        build_evaluator(*SIZE_48).check(backbone)
    with raises_code("checkpoint.input_size", "32x32", "64x64"):
        PooledBackbone(backbone, frozen=True)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("task", ["coco", "voc"])
def test_detectors_refuse_it(task, checkpoint, tmp_path, capsys):
    argv = ["--checkpoint", str(checkpoint), "--task", task, "--protocol", "toy", "--num-gpus", "0"]
    argv += ["--data-root", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), argv)
    message = capsys.readouterr().err
    assert exit.value.code == 2 and "[detection.unsupported_backbone]" in message
    assert message.count("\n") == 1 and ARCH.name in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["FPN", "C4", "DC5"])
def test_every_layout_refuses_it(layout, checkpoint):
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone" if layout == "FPN" else "build_resnet"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5" if layout == "DC5" else "res4"]
    with raises_code("detection.unsupported_backbone", layout, ARCH.name):
        convert_backbone(load_backbone(checkpoint), cfg)
