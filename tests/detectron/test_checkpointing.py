"""Checkpoints of detectors: what is damaged is rejected before anything is restored."""

import copy

import pytest
import torch
from detectron2.modeling import build_model

from tests.errors import raises_code
from tests.run_states import assert_equal
from virtex.detectron.checkpointing import compare_statements
from virtex.detectron.compat import default_config
from virtex.detectron.settings import build_settings
from virtex.detectron.trainer import Trainer
from virtex.tasks import packaged_protocol

SMALL = [
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8"),
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A trainer after one step, whose checkpoint is in its folder."""
    clipped = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"]
    overrides = [*SMALL, *clipped, "SOLVER.MAX_ITER", "9", "SOLVER.STEPS", "(8,)"]
    cfg = build_settings(packaged_protocol("coco", "toy"), overrides, 1, "cpu").cfg
    cfg.OUTPUT_DIR = str(tmp_path_factory.mktemp("run"))
    trainer = Trainer(cfg, build_model(cfg), [])
    for weight in trainer.model.parameters():
        weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    trainer.scheduler.step()
    trainer.path = trainer.checkpoints.save("model_final.pth", iteration=0)
    trainer.content = torch.load(trainer.path, weights_only=True)
    return trainer


def test_sound_checkpoint_is_resumed(trainer):
    torch.save(trainer.content, trainer.path)
    assert trainer.resume() == 1


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)),
            "optimizer.state.0.momentum_buffer",
        ),
        (lambda c: c["optimizer"]["param_groups"][0].update(momentum="x"), "momentum"),
        (lambda c: c.update(iteration="0"), "iteration"),
        (lambda c: c.update(iteration=-7), "iteration"),
        (lambda c: c.pop("iteration"), "iteration"),
        (lambda c: c.update(scheduler=[1]), "scheduler"),
        (lambda c: c["scheduler"].update(last_epoch=5), "scheduler.last_epoch"),
        (lambda c: c["stopwatch"].update(seconds="x"), "stopwatch.seconds"),
    ],
)
def test_damaged_checkpoint_is_rejected(trainer, damage, named):
    content = copy.deepcopy(trainer.content)
    damage(content)
    torch.save(content, trainer.path)
    before = copy.deepcopy([trainer.model.state_dict(), trainer.optimizer.state_dict()])
    with raises_code("resume.invalid_checkpoint", trainer.path, named):
        trainer.resume()
    assert_equal([trainer.model.state_dict(), trainer.optimizer.state_dict()], before)


def test_checkpoint_beyond_the_end_is_rejected(trainer):
    torch.save({**trainer.content, "iteration": 9}, trainer.path)
    with raises_code("resume.beyond_end", trainer.path):
        trainer.resume()


# Statements of a detector's file against the settings of an evaluation -------------------------

SPEC = {
    "channel_order": "BGR",
    "mean": [103.53, 116.28, 123.675],
    "std": [1.0, 1.0, 1.0],
    "scale": 255.0,
}


def entry(stride_in_1x1=True, classes=("cat", "dog"), **spec):
    fields = {"stride_in_1x1": stride_in_1x1, "classes": list(classes)}
    return {"virtex_backbone": {"input": SPEC | spec, **fields}}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (entry(channel_order="RGB"), "channel order"),
        (entry(mean=[0.0, 0.0, 0.0]), "normalization"),
        (entry(std=[57.375, 57.12, 58.395]), "normalization"),
        (entry(stride_in_1x1=False), "stride in 1x1"),
        (entry(classes=("dog", "cat")), "classes"),
        ({"model": {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}}, "norm"),
    ],
)
def test_contradicting_statement_is_rejected(content, named, tmp_path):
    path = tmp_path / "weights.pth"
    with raises_code("detection.weights_mismatch", path, named):
        compare_statements(default_config(), content, path, ["cat", "dog"])


def test_statements_that_agree(tmp_path):
    path = tmp_path / "weights.pth"
    assert compare_statements(default_config(), entry(), path, ["cat", "dog"]) == []
    assert compare_statements(default_config(), entry(), path, None) == []
    assert compare_statements(default_config(), {}, path, None) == [
        "channel_order",
        "normalization",
    ]
    (tmp_path / "config.yaml").write_text(default_config().dump())
    assert compare_statements(default_config(), {}, path, None) == []
    (tmp_path / "config.yaml").write_text("MODEL: {RESNETS: {RES5_DILATION: 2}}\n")
    with raises_code("detection.weights_mismatch", path, "config.yaml.MODEL.RESNETS.RES5_DILATION"):
        compare_statements(default_config(), {}, path, None)
