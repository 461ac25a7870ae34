"""The same seed on the same machine gives the same result, for every tool.

That two processes have the gradients of one is tested in tests/engine; that the probes, captioning
and pretraining have the same results in both, in the tests of those tools.
"""

import pytest

from tests.faults.files import read, read_lines
from tests.faults.runs import OTHERS, RUNS, result_of, two_processes, undisturbed

QUICK = ("pretraining", "linear")  # two trainings of a detector are compared in tests/detectron
ALONE = {"LOKY_MAX_CPU_COUNT": "1"}  # joblib's processes would outlive a forked one
whole = pytest.mark.whole


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[whole] * (k not in QUICK)) for k in (*RUNS, *OTHERS)]
)
def test_same_seed_gives_the_same_result(kind, out, started):
    """Bit by bit, also with another number of DataLoader workers."""
    run, other = {**RUNS, **OTHERS}[kind], out.with_name("other")
    started(run.start(other, workers=2, environment=ALONE)).succeeds()
    if kind in RUNS:
        assert result_of(run, other) == undisturbed(kind)
    else:
        started(run.start(out, environment=ALONE)).succeeds()
        assert result_of(run, other) == result_of(run, out)


@whole
def test_detector_trains_with_the_same_losses(out, started):
    """``result_of`` leaves out the losses of detectors, as a resumed run has other medians."""
    folders = out, out.with_name("other")
    for workers, folder in enumerate(folders):
        started(RUNS["transfer"].start(folder, workers=2 * workers)).succeeds()
    losses = [
        [line["total_loss"] for line in read_lines(folder / "metrics.json") if "total_loss" in line]
        for folder in folders
    ]
    assert losses[0] == losses[1] != []


def test_another_seed_gives_another_result(out, started):
    run = RUNS["linear"]
    started(run.start(out, "--seed", "1")).succeeds()
    first = undisturbed("linear")["model_final.pth"]["model"]
    assert result_of(run, out)["model_final.pth"]["model"] != first


@whole
def test_two_processes_score_a_detector_as_one(out, started):
    run, together = RUNS["transfer"], out.with_name("together")
    started(run.start(out)).succeeds()
    weights = ("--eval-only", "--weights", out / "model_final.pth")
    for process in [started(one) for one in two_processes(run, together, *weights)]:
        process.succeeds()
    one, two = (read(folder / run.record) for folder in (out, together))
    assert two["environment"]["processes"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-9)
