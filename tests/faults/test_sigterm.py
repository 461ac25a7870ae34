"""SIGTERM: a training saves, exits with status 75, and ``--resume`` comes to the same result."""

import os
import signal

import pytest

from tests.faults.files import unfinished
from tests.faults.processes import Process
from tests.faults.runs import RUNS, result_of, two_processes, undisturbed
from tests.selection import whole_only
from virtex.engine.signals import RESUME

TRAINED = [
    "pretraining",
    *whole_only("transfer", "linear", "fine-tuning"),
]


def assert_saved(kind, out):
    assert (out / (out / "last_checkpoint").read_text()).is_file()
    assert not (out / RUNS[kind].record).exists()


@pytest.mark.parametrize("workers", [0, *whole_only(2)])
@pytest.mark.parametrize("kind", TRAINED)
def test_training_saves_and_resumes(kind, workers, out, started):
    """A cluster signals the whole process group, DataLoader workers included."""
    run = RUNS[kind]
    process = started(run.start(out, stop_at=run.early, workers=workers)).stopped()
    os.killpg(process.process.pid, signal.SIGTERM)
    assert process.resume().status() == RESUME, process.printed
    assert "Traceback" not in process.printed
    assert_saved(kind, out)
    started(run.start(out, "--resume", workers=workers)).succeeds()
    # metrics.json has one more line: the iteration of the stop
    assert result_of(run, out) | {"metrics.json": 0} == undisturbed(kind) | {"metrics.json": 0}


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["pretraining", "transfer"])
def test_signal_to_one_of_two_processes_stops_both(kind, out, started):
    run = RUNS[kind]
    first, second = map(started, two_processes(run, out, stop_at=run.early))
    first.stopped()
    second.send(signal.SIGTERM)
    first.resume()
    assert (first.status(), second.status()) == (RESUME, RESUME), first.printed + second.printed
    assert_saved(kind, out)


@pytest.mark.parametrize("kind", ["svm", *whole_only("captioning")])
def test_evaluation_without_checkpoints_stops(kind, out, started):
    run = RUNS[kind]
    process = started(run.start(out, stop_at=run.early)).stopped()
    process.send(signal.SIGTERM)
    assert process.resume().status() == RESUME, process.printed
    assert not [path for path in unfinished(out.parent) if "partial-" in path]
    started(run.start(out, "--resume")).succeeds()
    assert result_of(run, out) == undisturbed(kind)


def test_tool_that_cannot_resume_ends_by_the_signal(tmp_path, started):
    argv = [tmp_path / "toy", "--train-images", "4", "--val-images", "2"]
    environment = {"VIRTEX_TESTS_STOP_AT": "toy.unfinished.json"}
    tool = "virtex.eval_tools.make_toy_data"
    process = started(Process(tool, argv, tmp_path / "printed", environment)).stopped()
    process.send(signal.SIGTERM)
    assert process.resume().status() in (-signal.SIGTERM, 128 + signal.SIGTERM)
