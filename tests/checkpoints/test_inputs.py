"""What a network expects of an image, by the file, the config beside it, or the format."""

import checkpoint_writers as writers
import pytest

from tests.errors import raises_code
from virtex.checkpoints import InputSpec, load_backbone

SPEC = {"channel_order": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3, "scale": 1.0}
CONFIG = """
INPUT: {FORMAT: RGB}
MODEL:
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {STRIDE_IN_1X1: false}
"""


@pytest.fixture
def detector(resnet18, here):
    return writers.save(writers.detectron2_fpn(resnet18), here / "model_final.pth")


def test_detectron2_config_beside_the_file(detector, here):
    (here / "config.yaml").write_text(CONFIG)
    backbone = load_backbone(detector)
    assert backbone.input == InputSpec(
        "RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0
    )
    assert backbone.arch.stride_in_1x1 is False


def test_detectron2_defaults_without_a_config(detector):
    backbone = load_backbone(detector)
    assert backbone.input == InputSpec("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 255.0)
    assert backbone.arch.stride_in_1x1 is True
    assert any("defaults are assumed" in note for note in backbone.source.notes)


def test_missing_config_keys_are_noted(detector, here):
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    notes = " ".join(load_backbone(detector).source.notes)
    assert "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD, MODEL.RESNETS.STRIDE_IN_1X1" in notes


def test_config_that_would_run_code_is_refused(detector, here):
    (here / "config.yaml").write_text("INPUT: !!python/object/apply:os.getcwd []\n")
    with raises_code("checkpoint.invalid_input_spec", here / "config.yaml"):
        load_backbone(detector)


def test_entry_of_the_file_overrides_the_config(resnet18, here):
    content = writers.detectron2_c4(resnet18)
    content["virtex_backbone"] = {"input": SPEC, "stride_in_1x1": False}
    (here / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    backbone = load_backbone(writers.save(content, here / "model_final.pth"))
    assert backbone.input == InputSpec("RGB", (0.5,) * 3, (0.25,) * 3, 1.0)
    assert backbone.arch.stride_in_1x1 is False


@pytest.mark.parametrize(
    "entry",
    [
        {"stride_in_1x1": False},
        {"input": SPEC},
        {"input": SPEC, "stride_in_1x1": 1},
        {"input": {"channel_order": "GRB", "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"input": {"channel_order": "RGB", "mean": [0, 0, 0], "std": [1, 0, 1]}},
        "RGB",
    ],
)
def test_invalid_entry_is_refused(entry, resnet18, here):
    content = {**writers.detectron2_fpn(resnet18), "virtex_backbone": entry}
    with raises_code("checkpoint.invalid_input_spec", "virtex_backbone"):
        load_backbone(writers.save(content, here / "model_final.pth"))
