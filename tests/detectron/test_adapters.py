"""A backbone in a Detectron2 detector computes the features of the original network."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from tests.detectron.backbones import IMAGENET_BGR, make_backbone
from tests.errors import raises_code
from tests.selection import whole_only
from virtex.detectron import heads  # noqa: F401  registers region heads
from virtex.detectron.adapters import convert_backbone, detector_layout
from virtex.detectron.settings import build_settings
from virtex.detectron.verify import TOLERANCE, compare_features, compare_tensors, load_weights
from virtex.errors import UserError
from virtex.tasks import packaged_protocol

PROTOCOL_OF = {"FPN": ("coco", "toy"), "C4": ("voc", "toy")}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", *whole_only("wide_resnet50_2"))


def settings_for(layout, overrides=()):
    protocol = packaged_protocol(*PROTOCOL_OF.get(layout, ("coco", "toy")))
    return build_settings(protocol, list(overrides), 1, "cpu")


def detector_for(backbone, layout, overrides=()):
    settings = settings_for(layout, overrides)
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    return build_model(settings.cfg), converted


@pytest.mark.parametrize("layout", ["FPN", "C4"])
@pytest.mark.parametrize("name", RESNETS)
def test_features_match_torchvision_from_res2_to_res5(name, layout):
    backbone = make_backbone(name)
    detector, converted = detector_for(backbone, layout)
    load_weights(detector, converted)
    errors = compare_features(detector, converted, backbone.input)
    assert set(errors) == {"res2", "res3", "res4", "res5"}
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize("layout", ["FPN", "C4"])
def test_all_backbone_tensors_are_compared(layout):
    backbone = make_backbone("resnet50")
    detector, converted = detector_for(backbone, layout)
    counted = load_weights(detector, converted)
    expected = sum(not k.endswith("num_batches_tracked") for k in backbone.state_dict)
    assert counted == {"compared": expected, "equal": True}


def test_dilated_res5_matches():
    backbone = make_backbone("resnet50")
    overrides = [
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.RES5_DILATION", "2"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res5']", "MODEL.RPN.IN_FEATURES", "['res5']"),
        *("MODEL.ROI_HEADS.IN_FEATURES", "['res5']"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32, 64]]"),
    ]
    detector, converted = detector_for(backbone, "DC5", overrides)
    load_weights(detector, converted)
    assert max(compare_features(detector, converted, backbone.input).values()) <= TOLERANCE


def test_dc5_refuses_basic_blocks():
    cfg = settings_for("FPN").cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    with raises_code("detection.unsupported_backbone", "resnet18", "DC5"):
        convert_backbone(make_backbone("resnet18"), cfg)


def test_stride_in_1x1_and_bgr_input_match():
    backbone = make_backbone("resnet50", stride_in_1x1=True, spec=IMAGENET_BGR)
    detector, converted = detector_for(backbone, "FPN")
    load_weights(detector, converted)
    assert detector.input_format == "BGR"
    assert max(compare_features(detector, converted, backbone.input).values()) <= TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    [
        ["INPUT.FORMAT", "BGR"],
        ["MODEL.PIXEL_MEAN", "[0, 0, 0]"],
        ["MODEL.PIXEL_STD", "[1, 1, 1]"],
        ["MODEL.RESNETS.STRIDE_IN_1X1", "True"],
    ],
    ids=lambda pair: pair[0],
)
def test_wrong_settings_change_the_features(mistake):
    backbone = make_backbone("resnet50")
    settings = settings_for("FPN")
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    settings.cfg.merge_from_list(mistake)
    detector = build_model(settings.cfg)
    load_weights(detector, converted)
    with raises_code("detection.features_differ"):
        compare_features(detector, converted, backbone.input)


def test_settings_of_the_checkpoint_cannot_be_overridden():
    settings = settings_for("FPN", ["INPUT.FORMAT", "BGR"])
    converted = convert_backbone(make_backbone("resnet18"), settings.cfg)
    with pytest.raises(UserError, match=r"INPUT\.FORMAT"):
        settings.set_from_checkpoint(converted.settings)


def test_random_res5_in_c4_is_found():
    backbone = make_backbone("resnet18")
    detector, converted = detector_for(backbone, "C4")
    for name in [k for k in converted.weights if "res5" in k]:
        del converted.weights[name]
    with raises_code("detection.weights_differ", "roi_heads.res5."):
        load_weights(detector, converted)


def test_tensor_changed_after_loading_is_found():
    backbone = make_backbone("resnet18")
    detector, converted = detector_for(backbone, "FPN")
    load_weights(detector, converted)
    with torch.no_grad():
        detector.backbone.bottom_up.res3[0].conv1.weight[0, 0, 0, 0] += 1e-6
    with raises_code("detection.weights_differ", "res3.0.conv1.weight"):
        compare_tensors(detector, converted)


def test_norm_without_running_statistics_is_refused():
    detector, converted = detector_for(
        make_backbone("resnet18"), "FPN", ["MODEL.RESNETS.NORM", "GN"]
    )
    with raises_code("detection.weights_differ", "FrozenBN"):
        load_weights(detector, converted)


def test_frozen_bn():
    backbone = make_backbone("resnet18")
    detector, converted = detector_for(backbone, "FPN", ["MODEL.RESNETS.NORM", "FrozenBN"])
    load_weights(detector, converted)
    assert max(compare_features(detector, converted, backbone.input).values()) <= TOLERANCE


def test_layouts():
    cfg = get_cfg()
    assert detector_layout(cfg) == "C4"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    assert detector_layout(cfg) == "DC5"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    assert detector_layout(cfg) == "FPN"
