"""The protocols and the configs of Detectron2's zoo that networks of every family can use."""

import json

import pytest
import torch
import torchvision

from tests.detectron import backbones
from tests.detectron.small_runs import PROPOSALS, SMALL, assert_resumed_exactly
from tests.detectron.tiny_networks import NETWORKS, VITS, TinyArch, TinyFamily, make_backbone
from tests.errors import raises_code
from tests.selection import whole_only
from virtex.backbones import registry
from virtex.backbones.convnext import ConvNeXtArch
from virtex.backbones.vit import ViTArch
from virtex.detectron.adapters import convert_backbone, detector_layout
from virtex.detectron.optimizer import build_optimizer
from virtex.detectron.settings import build_settings, load_config
from virtex.detectron.trainer import build_detector
from virtex.detectron.transfer import DetectorEvaluator
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import TASKS, packaged_protocol
from virtex.tasks.detection import protocol_from_config

ARCHS = ["resnet18", VITS["mae"], *NETWORKS, TinyArch()]
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch):
    registry.get_families()
    monkeypatch.setitem(registry.FAMILIES, "tiny", TinyFamily())


def backbone_of(arch):
    return backbones.make_backbone(arch) if isinstance(arch, str) else make_backbone(arch)


def parse(toy, out, *arguments):
    common = [*("--checkpoint", "made", "--data-root", toy, "--output-dir", out, "--num-gpus", "0")]
    return detectron2_transfer.build_parser().parse_intermixed_args([*map(str, common), *arguments])


# --- Detectron2's zoo --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "arch"),
    [
        (CASCADE, VITS["mae"]),
        (RETINANET, NETWORKS[1]),
        *whole_only(*((CASCADE, arch) for arch in ARCHS if arch != VITS["mae"])),
        *whole_only(*((RETINANET, arch) for arch in ARCHS if arch != NETWORKS[1])),
    ],
    ids=str,
)
def test_zoo_config_trains_on_every_family(tmp_path, toy, config, arch):
    iterations = ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "(8,)", "SOLVER.WARMUP_ITERS", "2"]
    few = [*PROPOSALS, "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"] if config == CASCADE else []
    args = parse(toy, tmp_path, "--config", config, *SMALL, *iterations, *few)
    backbone = backbone_of(arch)
    evaluator = DetectorEvaluator(args, protocol_from_config(config), backbone)
    evaluator.check(backbone)
    metrics = evaluator(backbone)
    assert metrics.keys() >= {"bbox/AP", *(["segm/AP"] if config == CASCADE else [])}
    assert evaluator.report.verification["tensors"]["equal"]
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert json.loads(lines[0])["iteration"] == 9
    for name, parameter in evaluator.detector.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


@pytest.mark.parametrize(
    "config",
    ["COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"],
)
def test_panoptic_config_is_refused(config):
    with raises_code("config.invalid_value", "PanopticFPN"):
        build_settings(protocol_from_config(config), [], 1, "cpu")


@pytest.mark.parametrize("arch", [VITS["mae"], *NETWORKS, TinyArch()], ids=str)
@pytest.mark.parametrize(
    "config",
    ["PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"],
)
def test_configs_without_pyramid_are_refused(config, arch):
    cfg = build_settings(protocol_from_config(config), [], 1, "cpu").cfg
    with raises_code("detection.unsupported_backbone", "fpn-24k"):
        convert_backbone(make_backbone(arch), cfg)


# --- packaged protocols ------------------------------------------------------------------------


def detection_protocols():
    return [
        (task, name)
        for task in TASKS.values()
        if task.command == "detectron2_transfer"
        for name in task.protocols
    ]


@pytest.mark.parametrize(
    ("task", "name"), detection_protocols(), ids=lambda part: getattr(part, "name", part)
)
def test_c4_protocols_are_unsupported(tmp_path, task, name):
    torch.save(make_backbone(DINO).state_dict, tmp_path / "dino.pth")
    arguments = ["--task", task.name, "--protocol", name, "--format", "dino_vit"]
    args = parse(tmp_path, tmp_path, *arguments)
    args.checkpoint = str(tmp_path / "dino.pth")
    reason = task.unsupported_reason(args, True) if task.unsupported_reason else ""
    layout = detector_layout(load_config(task.protocols[name]))
    assert bool(reason) == (layout == "C4")
    assert not reason or "voc:fpn-24k" in reason


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("task", "name"), detection_protocols(), ids=lambda part: getattr(part, "name", part)
)
def test_vitdet_protocols_do_not_support_a_resnet(resnet_file, tmp_path, task, name):
    args = parse(tmp_path, tmp_path, "--task", task.name, "--protocol", name)
    args.checkpoint = str(resnet_file)
    reason = task.unsupported_reason(args, True) if task.unsupported_reason else ""
    assert bool(reason) == (load_config(task.protocols[name]).MODEL.VIT.DEPTH > 0)
    assert not reason or f"{task.name}:2x" in reason


DINO = ViTArch(128, 2, 16, 7, 128, heads=2, interpolation="offset")


@pytest.mark.parametrize(
    ("name", "epochs", "steps", "drop_path"),
    [("adamw-1x", 12, (8, 11), 0.1), ("adamw-3x", 36, (27, 33), 0.2)],
)
def test_adamw_schedules_match_swin(name, epochs, steps, drop_path):
    """mask_rcnn_swin_tiny_patch4_window7_mstrain_480-800_adamw_{1,3}x_coco.py."""
    run = build_settings(packaged_protocol("coco", name), [], 8, "cuda")
    assert run.deviations() == []
    solver, epoch = run.cfg.SOLVER, -(-117266 // 16)
    assert solver.IMS_PER_BATCH == 16
    assert (solver.MAX_ITER, *solver.STEPS) == tuple(n * epoch for n in (epochs, *steps))
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("ADAMW", 1e-4, 0.05)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (500, 0.001)
    assert drop_path == run.cfg.MODEL.NETWORK.DROP_PATH
    sizes = run.cfg.INPUT
    assert (list(sizes.MIN_SIZE_TRAIN), sizes.MAX_SIZE_TRAIN) == ([*range(480, 801, 32)], 1333)


def groups_of(protocol, arch):
    """Return the detector and its parameters -> (learning rate, weight decay)."""
    settings = build_settings(packaged_protocol("coco", protocol), [], 8, "cpu")
    converted = convert_backbone(make_backbone(arch), settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    detector = build_detector(settings.cfg)
    optimizer = build_optimizer(settings.cfg, detector, converted.layer_ids)
    assert isinstance(optimizer, torch.optim.AdamW)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return detector, {n: groups[id(p)] for n, p in detector.named_parameters() if p.requires_grad}


def test_no_weight_decay_matches_swin():
    """Its ``paramwise_cfg`` names parts of the names, the same as in timm's network."""
    _, found = groups_of("adamw-3x", NETWORKS[1])
    exempt = ("norm", "relative_position_bias_table", "absolute_pos_embed")
    for name, group in found.items():
        assert group == (1e-4, 0 if any(part in name for part in exempt) else 0.05), name
    assert {decay for _, decay in found.values()} == {0, 0.05}
    assert found["roi_heads.box_head.fc1.bias"] == (1e-4, 0.05)


def test_layer_decay_matches_convnext():
    """Exponents as in the LearningRateDecayOptimizerConstructor of its repository, for ConvNeXt-T.

    There, 6 layers of the network are counted from the stem, 0, to the heads, 7.
    """
    detector, found = groups_of("adamw-3x-convnext", ConvNeXtArch((3, 3, 9, 3), (8, 16, 24, 32)))
    layers = {
        "stem.0.weight": 0,
        "stages.0.blocks.2.conv_dw.weight": 1,
        "stages.1.downsample.1.weight": 2,
        "stages.1.blocks.0.mlp.fc1.weight": 2,
        "stages.2.downsample.1.weight": 3,
        "stages.2.blocks.2.conv_dw.weight": 3,
        "stages.2.blocks.3.conv_dw.weight": 4,
        "stages.2.blocks.8.conv_dw.weight": 5,
        "stages.3.blocks.2.conv_dw.weight": 6,
    }
    for name, layer in layers.items():
        expected = pytest.approx((1e-4 * 0.95 ** (7 - layer), 0.05))
        assert found[f"backbone.bottom_up.network.{name}"] == expected, name
    for name in ("backbone.bottom_up.out_norms.res5.weight", "roi_heads.box_head.fc1.bias"):
        assert found[name] == (1e-4, 0)
    for name, (_, decay) in found.items():  # "no_decay" there
        dims = detector.get_parameter(name).dim()
        assert decay == (0 if dims == 1 or name.endswith(".bias") else 0.05), name


def test_networks_without_drop_path():
    protocol = packaged_protocol("coco", "toy-adamw")
    for arch in ("resnet18", TinyArch()):
        settings = build_settings(protocol, [], 1, "cpu")
        converted = convert_backbone(backbone_of(arch), settings.cfg)
        settings.set_from_checkpoint(converted.settings)
        assert settings.cfg.MODEL.NETWORK.DROP_PATH == 0
        assert settings.deviations() == []
        assert any("no stochastic depth" in note for note in converted.notes)


# --- runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "protocol", "arch"),
    [
        ("coco", "toy-adamw", "swin"),
        *whole_only(("coco", "toy-adamw", "vit"), ("coco", "toy-adamw", "resnet18")),
        ("voc", "toy-fpn", "vit"),
        *whole_only(("voc", "toy-fpn", "swin"), ("voc", "toy-fpn", "resnet18")),
    ],
)
def test_run_is_resumed_exactly(tmp_path, toy, task, protocol, arch):
    checkpoint = "random:resnet18"
    if arch != "resnet18":
        checkpoint = tmp_path / f"{arch}.pth"
        torch.save(make_backbone({"vit": DINO, "swin": NETWORKS[1]}[arch]).state_dict, checkpoint)
    arguments = ("--checkpoint", checkpoint, "--task", task, "--protocol", protocol)
    if arch == "vit":
        arguments += ("--format", "dino_vit")
    record = assert_resumed_exactly(toy, tmp_path / "out", *arguments)
    assert record["protocol"]["name"] == TASKS[task].protocols[protocol].name
