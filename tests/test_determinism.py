"""The same seed on the same machine: the same record, whichever tool; and so in two processes.

That two processes have the gradients of one, tests/training/test_loop.py shows; that the probes,
captions and pretraining come to the same in both, the tests of those tools.
"""

import json
import shutil

import pytest

from tests.eval_tools import probe_runs
from tests.faults.small_runs import (
    DETECTOR,
    RUNS,
    Run,
    evaluated,
    places,
    result_of,
    two_processes,
    undisturbed,
)
from tests.faults.started_tools import INATURALIST, LINEAR, SVM, TRANSFER
from tests.run_states import assert_equal

CACHED = ("svm by liblinear", "low-shot", "cached", "knn")
TOOLS = {"fractions": INATURALIST, "cached": LINEAR, "knn": LINEAR}


def detection(task):
    def arguments(out, *flags, **settings):
        return evaluated(out, "--task", task, "--protocol", "toy", *flags, **DETECTOR | settings)

    return Run(TRANSFER, arguments, "", "")


def probe(kind):
    def arguments(out, *flags, **settings):
        cache = () if kind == "fractions" else ("--cache-dir", out.with_name(f"{out.name} cache"))
        argv = probe_runs.arguments(kind, places().data, out, *cache, *flags, **settings)
        return ["--checkpoint", places().network, *argv[2:]]

    record = "fraction_0.1/result.json" if kind == "fractions" else "result.json"
    return Run(TOOLS.get(kind, SVM), arguments, "", "", record, ())


ALL = {
    **RUNS,
    **{task: detection(task) for task in ("lvis", "voc")},
    **{kind: probe(kind) for kind in (*CACHED, "fractions")},
}
QUICK = ("pretraining", "transfer", "linear")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ALL if metafunc.config.getoption("--whole") else QUICK)


@pytest.fixture
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "out"
    yield path
    shutil.rmtree(path.parent)


def record_of(run, out):
    return json.loads((out / run.record).read_text()) | {"timing": None, "created": None}


def test_the_same_again_is_the_same(kind, out):
    """Bit by bit, and in another number of workers that load images."""
    run, other = ALL[kind], out.with_name("other")
    detects = run.module == TRANSFER
    workers = {} if detects else ("--num-workers", "2")
    run.start(other, *workers).ended_well()
    if kind in RUNS:
        assert_equal(result_of(run, other), undisturbed(kind)[0])
        return
    run.start(out).ended_well()
    assert record_of(run, other) == record_of(run, out)
    for name in run.left:
        assert_equal(result_of(run, other)[name], result_of(run, out)[name])


def test_another_seed_is_another_result(out):
    RUNS["linear"].start(out, "--seed", "1").ended_well()
    first = undisturbed("linear")[0]["model_final.pth"]["model"]
    second = result_of(RUNS["linear"], out)["model_final.pth"]["model"]
    assert any((first[name] != second[name]).any() for name in first)


def test_two_processes_score_a_detector_as_one_does(out):
    run = RUNS["transfer"]
    run.start(out).ended_well()
    weights = ("--eval-only", "--weights", out / "model_final.pth")
    together = out.with_name("together")
    for process in two_processes(run, together, *weights):
        process.ended_well()
    one, two = record_of(run, out), record_of(run, together)
    assert two["environment"]["processes"] == 2
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-9)
