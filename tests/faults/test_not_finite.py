"""A training that diverges ends with an error, and its last finite checkpoint remains."""

import pytest
import torch

from tests.faults.runs import RUNS
from tests.selection import whole_only
from virtex.engine.checkpoints import last_checkpoint

TOO_HIGH = {
    "pretraining": {"OPTIM__LR": 1e30, "OPTIM__CNN_LR": 1e30},
    "transfer": {"SOLVER__BASE_LR": 1e15, "SOLVER__CHECKPOINT_PERIOD": 1},
    "linear": {"OPTIM__LR": 1e38},
}


def assert_finite(folder):
    for file in folder.glob("model_*.pth"):
        for name, tensor in torch.load(file, weights_only=True)["model"].items():
            assert torch.as_tensor(tensor).double().isfinite().all(), (file, name)


@pytest.mark.parametrize("kind", ["linear", *whole_only("pretraining", "transfer")])
def test_diverging_training_is_reported(kind, out, started):
    often = () if kind == "transfer" else ("--checkpoint-every", "1")
    started(RUNS[kind].start(out, *often, **TOO_HIGH[kind])).fails("", "lower")
    assert_finite(out)
    assert not (out / RUNS[kind].record).exists()
    assert not list(out.glob(".*.unfinished")) and not (out / ".lock").exists()


@pytest.mark.whole
def test_pretraining_resumes_at_a_lower_rate(out, started):
    run = RUNS["pretraining"]
    started(run.start(out, stop_at="model_0000010.pth")).stopped().kill()
    good = last_checkpoint(out)
    started(run.start(out, "--resume", **TOO_HIGH["pretraining"])).fails("", "lower")
    assert last_checkpoint(out) == good
    lower = {"OPTIM__LR": 0.001, "OPTIM__CNN_LR": 0.001}
    started(run.start(out, "--resume", **lower)).succeeds()
    assert_finite(out)
