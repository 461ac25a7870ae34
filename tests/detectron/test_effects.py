"""Every setting of Detectron2 has an effect, or is refused."""

from fnmatch import fnmatchcase

import pytest
import torch
from detectron2.modeling import build_model

from tests.errors import raises_code
from virtex.backbones.registry import get_families
from virtex.config import flatten, get_setting
from virtex.detectron import (  # noqa: F401 (register backbones and heads)
    federated,
    heads,
    pyramid,
    vit,
)
from virtex.detectron.adapters import encode_arch
from virtex.detectron.checks import FLAGS, validate_run
from virtex.detectron.compat import default_config
from virtex.detectron.effects import (
    READ_LATER,
    READ_LATER_IF,
    UNSUPPORTED,
    RecordingConfig,
    validate_effects,
    validate_supported,
)
from virtex.detectron.settings import load_config
from virtex.detectron.trainer import check_solver
from virtex.tasks import packaged_protocol
from virtex.tasks.detection import protocol_from_config

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"


def used_keys(cfg, **changed):
    """Return the keys that detector, optimizer, schedule and augmentations read."""
    for key, value in {"MODEL.DEVICE": "meta", **changed}.items():
        cfg.merge_from_list([key, value])
    read = set()
    recording = RecordingConfig(cfg, read)
    with torch.device("meta"):
        model = build_model(recording)
    check_solver(recording, model, {})
    validate_effects(recording, ["SOLVER.BASE_LR"])
    return read


def test_every_setting_has_an_effect_or_is_refused():
    tasks = ("coco", "voc", "coco_keypoints")
    coco, voc, keypoints = (load_config(packaged_protocol(task, None)) for task in tasks)
    used = (
        used_keys(coco, **{"SOLVER.CLIP_GRADIENTS.ENABLED": True, "INPUT.CROP.ENABLED": True})
        | used_keys(keypoints)
        | used_keys(voc, **{"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR"})
        | used_keys(load_config(protocol_from_config(RETINANET)))
        | used_keys(load_config(protocol_from_config(CASCADE)), **{"INPUT.AUGMENTATION": "lsj"})
        | used_keys(load_config(packaged_protocol("ade20k", "fpn")))
    )
    for builder, family, protocol in (
        ("network", "convnext", ("coco", None)),
        ("vit", "vit", ("lvis", "vitdet")),
    ):
        arch = encode_arch(get_families()[family].default_arch)
        network = {
            "MODEL.BACKBONE.NAME": f"build_{builder}_fpn_backbone",
            "MODEL.NETWORK.ARCH": arch,
            "SOLVER.OPTIMIZER": "ADAMW",
        }
        used |= used_keys(load_config(packaged_protocol(*protocol)), **network)
    if "NUM_DECAYS" in coco.SOLVER:  # official Detectron2
        cosine = {"SOLVER.LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"}
        used |= used_keys(load_config(packaged_protocol("coco", None)), **cosine)
    for key in flatten(default_config()):
        later = any(fnmatchcase(key, name) for name in (*READ_LATER, *READ_LATER_IF))
        refused = key in FLAGS or any(fnmatchcase(key, name) for name in UNSUPPORTED)
        assert key in used or later or refused, key
        assert not (later and refused), key


def other(value):
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*map(other, value)] or ["x"]
    return value + (type(value)("x") if isinstance(value, str) else 1)


@pytest.mark.parametrize("pattern", UNSUPPORTED)
def test_unsupported_setting(pattern):
    keys = [key for key in flatten(default_config()) if fnmatchcase(key, pattern)]
    assert keys or pattern == "FLOAT32_PRECISION" or "FED_LOSS" in pattern  # not in v0.5
    packaged = load_config(packaged_protocol("coco", None))
    validate_supported(packaged)
    for key in keys:
        cfg = packaged.clone()
        *sections, name = key.split(".")
        node = cfg
        for section in sections:
            node = node[section]
        node[name] = other(get_setting(cfg, key))
        with raises_code("config.invalid_value", key):
            validate_supported(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.CROP.TYPE", "other"),
        ("INPUT.MASK_FORMAT", "other"),
        ("INPUT.RANDOM_FLIP", "other"),
        ("INPUT.MIN_SIZE_TRAIN", (-5,)),
        ("MODEL.META_ARCHITECTURE", "PanopticFPN"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "other"),
        ("TEST.PRECISE_BN.NUM_ITER", -1),
    ],
)
def test_unsupported_value(key, value):
    cfg = load_config(packaged_protocol("coco", None))
    cfg.merge_from_list([key, value])
    with raises_code("config.invalid_value", key):
        validate_run(cfg, (), "cpu")


@pytest.mark.parametrize(
    ("key", "value"), [("INPUT.CROP.ENABLED", True), ("INPUT.AUGMENTATION", "lsj")]
)
def test_crop_of_masks_needs_shapely(monkeypatch, key, value):
    cfg = load_config(packaged_protocol("coco", None))
    cfg.merge_from_list([key, value])
    monkeypatch.setattr("virtex.detectron.effects.find_spec", lambda name: None)
    with raises_code("environment.shapely", key):
        validate_supported(cfg)
    cfg.MODEL.MASK_ON = False
    validate_supported(cfg)


def test_crop_size_is_height_and_width():
    cfg = load_config(packaged_protocol("coco", None))
    cfg.INPUT.CROP.ENABLED, cfg.MODEL.MASK_ON = True, False
    validate_supported(cfg)
    cfg.INPUT.CROP.SIZE = [0.5, 1.5]
    with raises_code("config.invalid_value", "INPUT.CROP.SIZE"):
        validate_supported(cfg)


@pytest.mark.parametrize(
    ("key", "task"),
    [
        ("MODEL.RETINANET.NUM_CONVS", "coco"),
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", "voc"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "coco"),
        ("MODEL.FPN.NORM", "voc"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "coco"),
        ("DATALOADER.REPEAT_THRESHOLD", "coco"),
        ("INPUT.CROP.SIZE", "coco"),
        ("TEST.AUG.ENABLED", "coco"),
    ],
)
def test_override_without_effect(key, task):
    cfg = load_config(packaged_protocol(task, None))
    cfg.MODEL.DEVICE = "meta"
    recording = RecordingConfig(cfg, set())
    with torch.device("meta"):
        check_solver(recording, build_model(recording), {})
    validate_effects(recording, ["SOLVER.BASE_LR", "SOLVER.MAX_ITER", "TEST.DETECTIONS_PER_IMAGE"])
    with raises_code("config.no_effect", key):
        validate_effects(recording, [key])


def test_invalid_augmentation():
    cfg = load_config(packaged_protocol("coco", None))
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"  # of two sizes, not of six
    with raises_code("config.input"):
        validate_effects(RecordingConfig(cfg, set()), [])
