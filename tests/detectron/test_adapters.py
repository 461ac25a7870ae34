"""A checkpoint's backbone inside a Detectron2 detector computes what the original does."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling import Backbone as DetectronBackbone
from torch import nn

from tests.detectron.backbones import IMAGENET_BGR, make_backbone
from virtex.detectron import (
    adapters,
    heads,  # noqa: F401
)
from virtex.detectron.adapters import ConvertedBackbone, adapt, layout_of, register_adapter
from virtex.detectron.settings import build_settings
from virtex.detectron.verify import TOLERANCE, compare_features, compare_tensors, load_weights
from virtex.errors import UserError
from virtex.tasks import packaged_protocol

PROTOCOL_OF = {"FPN": ("coco", "toy"), "C4": ("voc", "toy")}
RESNETS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d")


def settings_for(layout, overrides=()):
    protocol = packaged_protocol(*PROTOCOL_OF.get(layout, ("coco", "toy")))
    return build_settings(protocol, list(overrides), 1, "cpu")


def detector_for(backbone, layout, overrides=()):
    settings = settings_for(layout, overrides)
    adaptation = adapt(backbone, settings.cfg)
    settings.set_by_checkpoint(adaptation.settings)
    return build_model(settings.cfg), adaptation


@pytest.mark.parametrize("layout", ["FPN", "C4"])
@pytest.mark.parametrize("name", RESNETS)
def test_features_match_torchvision_from_res2_to_res5(name, layout):
    backbone = make_backbone(name)
    detector, adaptation = detector_for(backbone, layout)
    load_weights(detector, adaptation)
    errors = compare_features(detector, adaptation, backbone.input)
    assert set(errors) == {"res2", "res3", "res4", "res5"}
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize("layout", ["FPN", "C4"])
def test_every_backbone_tensor_is_compared(layout):
    backbone = make_backbone("resnet50")
    detector, adaptation = detector_for(backbone, layout)
    counted = load_weights(detector, adaptation)
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
    detector, adaptation = detector_for(backbone, "DC5", overrides)
    load_weights(detector, adaptation)
    assert max(compare_features(detector, adaptation, backbone.input).values()) <= TOLERANCE


def test_dc5_refuses_basic_blocks():
    cfg = settings_for("FPN").cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    with pytest.raises(UserError, match="no dilated basic block"):
        adapt(make_backbone("resnet18"), cfg)


def test_stride_in_1x1_and_bgr_input_match():
    backbone = make_backbone("resnet50", stride_in_1x1=True, spec=IMAGENET_BGR)
    detector, adaptation = detector_for(backbone, "FPN")
    load_weights(detector, adaptation)
    assert detector.input_format == "BGR"
    assert max(compare_features(detector, adaptation, backbone.input).values()) <= TOLERANCE


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
def test_each_mistake_of_peers_is_caught_by_the_features(mistake):
    backbone = make_backbone("resnet50")
    settings = settings_for("FPN")
    adaptation = adapt(backbone, settings.cfg)
    settings.set_by_checkpoint(adaptation.settings)
    settings.cfg.merge_from_list(mistake)
    detector = build_model(settings.cfg)
    load_weights(detector, adaptation)
    with pytest.raises(UserError, match="does not compute what the checkpoint's network does"):
        compare_features(detector, adaptation, backbone.input)


def test_a_user_cannot_override_what_the_checkpoint_decides():
    settings = settings_for("FPN", ["INPUT.FORMAT", "BGR"])
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'RGB' for this checkpoint"):
        settings.set_by_checkpoint(adapt(make_backbone("resnet18"), settings.cfg).settings)


def test_res5_left_random_in_c4_is_caught():
    backbone = make_backbone("resnet18")
    detector, adaptation = detector_for(backbone, "C4")
    for name in [k for k in adaptation.weights if "res5" in k]:
        del adaptation.weights[name]
    with pytest.raises(UserError, match=r"roi_heads\.res5\..* was not filled"):
        load_weights(detector, adaptation)


def test_a_tensor_changed_after_loading_is_caught():
    backbone = make_backbone("resnet18")
    detector, adaptation = detector_for(backbone, "FPN")
    load_weights(detector, adaptation)
    with torch.no_grad():
        detector.backbone.bottom_up.res3[0].conv1.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(UserError, match=r"res3\.0\.conv1\.weight differs from the file"):
        compare_tensors(detector, adaptation)


def test_a_norm_without_running_statistics_is_refused():
    detector, adaptation = detector_for(
        make_backbone("resnet18"), "FPN", ["MODEL.RESNETS.NORM", "GN"]
    )
    with pytest.raises(UserError, match="norm layers must be BN, SyncBN or FrozenBN"):
        load_weights(detector, adaptation)


def test_frozen_bn_holds_the_same_network():
    backbone = make_backbone("resnet18")
    detector, adaptation = detector_for(backbone, "FPN", ["MODEL.RESNETS.NORM", "FrozenBN"])
    load_weights(detector, adaptation)
    assert max(compare_features(detector, adaptation, backbone.input).values()) <= TOLERANCE


def test_layouts_are_told_apart():
    cfg = get_cfg()
    assert layout_of(cfg) == "C4"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    assert layout_of(cfg) == "DC5"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    assert layout_of(cfg) == "FPN"


def test_an_unknown_family_names_the_known_ones():
    backbone = make_backbone("resnet18", family="swin")
    with pytest.raises(UserError, match=r"no adapter takes a swin backbone.*resnet in C4"):
        adapt(backbone, settings_for("FPN").cfg)


class TwoConvolutions(DetectronBackbone):
    """A third party's network, as a Detectron2 backbone."""

    def __init__(self):
        super().__init__()
        self.body = third_party_network()
        self._out_features = ["res4"]
        self._out_feature_channels, self._out_feature_strides = {"res4": 8}, {"res4": 4}

    def forward(self, x):
        return {"res4": self.body(x)}

    def output_shape(self):
        return {"res4": ShapeSpec(channels=8, stride=4)}


def third_party_network():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def test_a_third_party_registers_a_family(monkeypatch):
    monkeypatch.setattr(adapters, "ADAPTERS", dict(adapters.ADAPTERS))
    BACKBONE_REGISTRY._obj_map.pop("build_two_convolutions", None)
    BACKBONE_REGISTRY._do_register("build_two_convolutions", lambda cfg, shape: TwoConvolutions())
    network = third_party_network()

    @register_adapter("two_convolutions", "C4")
    def two_convolutions(backbone, cfg):
        return ConvertedBackbone(
            settings={"MODEL.BACKBONE.NAME": "build_two_convolutions",
                      **adapters.input_settings(backbone.input)},
            weights={f"backbone.body.{k}": v for k, v in backbone.state_dict.items()},
            owned=("backbone.",),
            detector_features=lambda detector, x: {"res4": detector.backbone.body(x)},
            reference_features=lambda x: {"res4": network(x)},
        )  # fmt: skip

    backbone = make_backbone("resnet18", family="two_convolutions", weights=network.state_dict())
    overrides = [
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", "1"),
    ]
    detector, adaptation = detector_for(backbone, "C4", overrides)
    assert load_weights(detector, adaptation)["compared"] == 4
    assert compare_features(detector, adaptation, backbone.input)["res4"] <= TOLERANCE
