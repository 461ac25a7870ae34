"""Networks of Detectron2 and Caffe2 files have the features that Detectron2 computes."""

import checkpoint_writers as writers
import pytest
import torch

import virtex.detectron  # noqa: F401  makes detectron2 importable
from virtex.backbones.resnet import resnet_features
from virtex.checkpoints import build_network, load_backbone

pytest.importorskip("detectron2")


def detector(weights=""):
    """Detectron2's Faster R-CNN R50-C4 in evaluation mode, on the CPU."""
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    config.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))
    config.MODEL.DEVICE = "cpu"
    model = build_model(config).eval()
    DetectionCheckpointer(model).load(weights)
    return model


def features_of(model, x):
    """res2 … res5 of the detector for images (batch, 3, height, width), normalized."""
    stem, features = model.backbone.stem(x), {}
    for stage in ("res2", "res3", "res4"):
        stem = features[stage] = getattr(model.backbone, stage)(stem)
    return {**features, "res5": model.roi_heads.res5(stem)}


@pytest.mark.parametrize("writer", [writers.caffe2, writers.detectron2_backbone])
def test_pickles_have_the_features_of_detectron2(writer, resnet50, here):
    path = writers.save(writer(resnet50), here / "R-50.pkl", writer)
    name = "detectron2_backbone_caffe" if writer is writers.detectron2_backbone else "auto"
    ours = build_network(load_backbone(path, format=name)).eval()
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = features_of(detector(path), x)
        for stage, feature in resnet_features(ours, x).items():
            torch.testing.assert_close(feature, theirs[stage], rtol=1e-4, atol=0.0)


def test_detector_has_the_same_features(here):
    model = detector()
    path = writers.save({"model": model.state_dict(), "iteration": 3}, here / "model_final.pth")
    ours = build_network(load_backbone(path, format="detectron2")).eval()
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = features_of(model, x)
        for stage, feature in resnet_features(ours, x).items():
            torch.testing.assert_close(feature, theirs[stage])
