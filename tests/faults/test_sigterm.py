"""SIGTERM, as a cluster sends it with time left: saved, and a status that says "resume me"."""

import os
import signal
import time

import pytest

from tests.faults.small_runs import (
    EVALUATE_ALL_RUN,
    RUNS,
    has_come,
    result_of,
    two_machines,
    two_processes,
    undisturbed,
)
from tests.faults.started_tools import Started, worker_processes
from virtex.engine.signals import RESUME

TRAINED = ("pretraining", "transfer", "linear", "fine-tuning")
SAVED = "stopped by SIGTERM, saved at iteration "


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize(
            "kind", TRAINED if metafunc.config.getoption("--whole") else TRAINED[:2]
        )


def stopped(run):
    """Its sentence."""
    assert run.ends() == RESUME, run.tail()
    assert "Traceback" not in run.said + run.errors, run.tail()
    return run.errors.strip().splitlines()[-1]


def assert_same(kind, out):
    """But for the curves, to which a stopped run adds the iteration at which it stopped."""
    found, (expected, _) = result_of(RUNS[kind], out), undisturbed(kind)
    assert found | {"metrics.json": None} == expected | {"metrics.json": None}


def rarely(kind):
    """No validation, which has nothing to save, while it is told."""
    return () if kind == "transfer" else ("--checkpoint-every", "100")


def test_a_training_saves_where_it_is_and_goes_on_to_the_same_result(kind, out, started):
    run = started(RUNS[kind].start(out, *rarely(kind)))
    has_come(run, out, RUNS[kind].training)
    run.send(signal.SIGTERM)
    sentence = stopped(run)
    assert SAVED in sentence and sentence.endswith("continue with --resume")
    assert (out / (out / "last_checkpoint").read_text()).is_file()
    assert not (out / RUNS[kind].record).exists()
    again = started(RUNS[kind].start(out, "--resume")).ended_well()
    iteration = sentence.partition(SAVED)[2].partition(";")[0]
    assert f"resuming after iteration {iteration}" in again.said
    assert_same(kind, out)


def test_a_cluster_tells_the_workers_too(kind, out, started):
    run = started(RUNS[kind].start(out, *rarely(kind), workers=2))
    has_come(run, out, RUNS[kind].training)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert SAVED in stopped(run)
    started(RUNS[kind].start(out, "--resume", workers=2)).ended_well()
    assert_same(kind, out)


def test_one_of_two_processes_is_told_and_both_leave_at_the_same_iteration(kind, out, started):
    runs = [started(run) for run in two_processes(RUNS[kind], out, *rarely(kind))]
    has_come(runs[0], out, RUNS[kind].training)
    runs[1].send(signal.SIGTERM)
    assert SAVED in stopped(runs[0])
    assert runs[1].ends() == RESUME, runs[1].tail()
    assert (out / (out / "last_checkpoint").read_text()).is_file()


@pytest.mark.parametrize("scored", ["transfer", "svm", "captioning"])
def test_a_cluster_tells_the_workers_of_an_evaluation_too(scored, out, started, whole):
    if not (whole or scored == "transfer"):
        pytest.skip("with --whole")
    run = started(RUNS[scored].start(out, workers=2))
    has_come(run, out, RUNS[scored].evaluating)
    run.until(lambda: len(worker_processes(run)) >= 2, "its workers")
    os.killpg(run.process.pid, signal.SIGTERM)
    assert stopped(run).endswith("stopped by SIGTERM; continue with --resume")
    started(RUNS[scored].start(out, "--resume", workers=2)).ended_well()
    assert result_of(RUNS[scored], out) == undisturbed(scored)[0]


@pytest.mark.parametrize("when", ["its process starts", "it trains"])
def test_a_launcher_passes_it_on(when, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    two = [started(run) for run in two_machines(RUNS["pretraining"], out, *rarely("pretraining"))]
    if when == "it trains":
        has_come(two[0], out, RUNS["pretraining"].training)
    else:
        for launcher in two:
            launcher.until(lambda one=launcher: worker_processes(one), "its process")
    for launcher in two:
        launcher.send(signal.SIGTERM)
    for launcher in two:
        assert launcher.ends() == RESUME, launcher.tail()
    assert ("saved at iteration" in two[0].errors) == (when == "it trains")
    for launcher in [started(run) for run in two_machines(RUNS["pretraining"], out, "--resume")]:
        launcher.ended_well()


def test_what_has_nothing_to_save_stops_at_once(out, started):
    run = started(RUNS["svm"].start(out))
    has_come(run, out, RUNS["svm"].training)
    run.send(signal.SIGTERM)
    asked = time.monotonic()
    assert stopped(run).endswith("stopped by SIGTERM; continue with --resume")
    assert time.monotonic() - asked < 60
    assert not list(out.with_name("out features").glob("partial-*"))


def test_an_evaluation_of_many_stops_its_runs_and_the_same_command_goes_on(out, started, whole):
    if not whole:
        pytest.skip("with --whole: it starts tools anew each time")
    run = started(EVALUATE_ALL_RUN.start(out))
    has_come(run, out, EVALUATE_ALL_RUN.training)
    run.send(signal.SIGTERM)
    assert stopped(run).endswith("interrupted; the same command goes on")
    (log,) = (out / "logs").glob("*.log")
    assert "stopped by SIGTERM" in log.read_text()
    again = started(EVALUATE_ALL_RUN.start(out)).ended_well()
    assert "resuming after iteration" in again.said


def test_a_tool_that_resumes_nothing_is_ended_by_the_signal_itself(tmp_path, started):
    run = Started(
        "virtex.eval_tools.make_toy_data",
        [tmp_path / "toy", "--train-images", "4000"],
        tmp_path / "said",
    )
    started(run).until(lambda: (tmp_path / "toy").exists())
    run.send(signal.SIGTERM)
    assert run.ends() == -signal.SIGTERM
