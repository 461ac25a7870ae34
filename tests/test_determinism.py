"""The same seed on the same machine: the same record, whichever tool; and so in two processes.

That two processes have the gradients of one, tests/engine/test_loop.py shows; that the probes,
captions and pretraining come to the same in both, the tests of those tools.
"""

import shutil

import pytest

from tests.faults.left_behind import as_lines, said_by
from tests.faults.small_runs import (
    ALL,
    FEATURES,
    RUNS,
    Run,
    detection,
    probe,
    result_of,
    two_processes,
    undisturbed,
)
from tests.faults.started_tools import INATURALIST, SVM, TRANSFER

RECORDED = {
    **RUNS,
    **{name: ALL[name] for name in ("VOC detection", "cached probe", "kNN")},
    "LVIS": Run(TRANSFER, detection("lvis"), workers="DATALOADER.NUM_WORKERS"),
    **{kind: Run(SVM, probe(kind), caches=FEATURES) for kind in ("svm by liblinear", "low-shot")},
    "fractions": Run(INATURALIST, probe("fractions"), record="fraction_0.1/result.json"),
}
ALONE = {"LOKY_MAX_CPU_COUNT": "1"}  # joblib's processes would outlive one that was forked off
QUICK = ("pretraining", "transfer", "linear")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", RECORDED if metafunc.config.getoption("--whole") else QUICK)


@pytest.fixture
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "out"
    yield path
    shutil.rmtree(path.parent)


def test_the_same_again_is_the_same(kind, out):
    """Bit by bit, and in another number of workers that load images."""
    run, other = RECORDED[kind], out.with_name("other")
    run.start(other, workers=2, environment=ALONE).ended_well()
    if kind in RUNS:
        assert result_of(run, other) == undisturbed(kind)[0]
    else:
        run.start(out, environment=ALONE).ended_well()
        assert said_by(other / run.record) == said_by(out / run.record)


def losses_in(out):
    """Which ``result_of`` leaves out, as a resumed run has other medians."""
    lines = as_lines(out / "metrics.json")
    return [line["total_loss"] for line in lines if "total_loss" in line]


def test_a_detector_trains_with_the_same_losses(out):
    other = out.with_name("other")
    RUNS["transfer"].start(out).ended_well()
    RUNS["transfer"].start(other, workers=2).ended_well()
    assert losses_in(other) == losses_in(out) != []


def test_another_seed_is_another_result(out):
    RUNS["linear"].start(out, "--seed", "1").ended_well()
    first = undisturbed("linear")[0]["model_final.pth"]["model"]
    assert result_of(RUNS["linear"], out)["model_final.pth"]["model"] != first


def test_two_processes_score_a_detector_as_one_does(out):
    run = RUNS["transfer"]
    run.start(out).ended_well()
    weights = ("--eval-only", "--weights", out / "model_final.pth")
    together = out.with_name("together")
    for process in two_processes(run, together, *weights):
        process.ended_well()
    one, two = said_by(out / run.record), said_by(together / run.record)
    assert two["environment"]["processes"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-9)
