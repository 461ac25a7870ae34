"""A training that diverges ends with a sentence, and its last good checkpoint stays."""

import pytest
import torch

from tests.faults.small_runs import RUNS, Run, detection, has_come, result_of, two_processes
from virtex.engine.checkpoints import last_checkpoint

# of the last iterations alone, and of all
TOO_HIGH = {
    "pretraining": {"OPTIM__LR": 1e30, "OPTIM__CNN_LR": 1e30},
    "transfer": {"SOLVER__BASE_LR": 1e15},
    "linear": {"OPTIM__LR": 1e38},
    "fine-tuning": {"OPTIM__LR": 1e30, "OPTIM__CNN_LR": 1e30},
}
OFTEN = {"transfer": {"SOLVER__CHECKPOINT_PERIOD": 1}}
EACH = ("--checkpoint-every", "1")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", TOO_HIGH)


def each_iteration_saved(kind, out, *flags, **settings):
    settings = {**OFTEN.get(kind, {}), **settings}
    return RUNS[kind].start(out, *flags, *(() if kind in OFTEN else EACH), **settings)


def assert_finite(file):
    """Whatever training lost, nothing that is not finite was ever saved."""
    content = torch.load(file, weights_only=True)
    for name, tensor in content["model"].items():
        assert torch.as_tensor(tensor).double().isfinite().all(), (file, name)


def test_a_learning_rate_that_is_too_high_is_said(kind, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    run = started(each_iteration_saved(kind, out, **TOO_HIGH[kind]))
    said = run.refuses()
    assert "not finite" in said or " is nan" in said or " is inf" in said
    assert "lower" in said
    for file in out.glob("model_*.pth"):
        assert_finite(file)
    assert not (out / RUNS[kind].record).exists()
    assert not list(out.glob(".*.unfinished"))
    assert not (out / ".lock").exists()


def test_pretraining_goes_on_at_a_lower_rate_from_its_last_good_checkpoint(out, started):
    run = RUNS["pretraining"]
    first = started(run.start(out))
    has_come(first, out, "iter: 6  ")
    first.kill()
    good = last_checkpoint(out)
    high = TOO_HIGH["pretraining"]
    assert "lower the learning rate" in started(run.start(out, "--resume", **high)).refuses()
    assert last_checkpoint(out) == good
    lower = {"OPTIM__LR": 0.001, "OPTIM__CNN_LR": 0.001}
    started(run.start(out, "--resume", **lower)).ended_well()
    changes = result_of(run, out)[run.record]["changes"]
    assert {change["now"] for change in changes} == {1e30, 0.001}
    assert_finite(out / "model_final.pth")


def test_an_evaluation_is_not_resumed_at_another_rate(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for kind in ("transfer", "linear", "fine-tuning"):
        folder = out / kind
        started(each_iteration_saved(kind, folder, **TOO_HIGH[kind])).refuses()
        said = started(each_iteration_saved(kind, folder, "--resume")).refuses()
        assert "was started with" in said
        assert "--overwrite" in said
        started(each_iteration_saved(kind, folder, "--overwrite")).ended_well()


@pytest.mark.parametrize("lost_in", [0, 1])
def test_a_loss_that_one_of_two_processes_lost_ends_both(lost_in, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    settings = {"MODEL.ROI_HEADS.NAME": "LostInOneProcess", "SOLVER.CHECKPOINT_PERIOD": 1}
    run = Run("tests.faults.not_finite", detection("coco"))
    more = {"LOST_IN": str(lost_in)}
    two = [started(one) for one in two_processes(run, out, environment=more, **settings)]
    assert [run.ends() for run in two] == [2, 2], two[0].tail() + two[1].tail()
    assert "the loss is not finite at iteration 3" in two[0].sentence()
    two[1].sentence()
    assert last_checkpoint(out).name == "model_0000002.pth"
    for file in out.glob("model_*.pth"):
        assert_finite(file)
