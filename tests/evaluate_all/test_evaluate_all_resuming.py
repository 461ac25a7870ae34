"""An evaluation that is killed goes on where it stopped."""

import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.evaluate_all.evaluations import (
    EARLY,
    INTERRUPTIBLE,
    Evaluation,
    in_this_process,
    records_in,
)


@pytest.fixture
def training(data, checkpoints, tmp_path):
    """A linear probe of 80 iterations; a note in its log is its progress."""
    evaluation = Evaluation([str(checkpoints / "first.pth")], data, tmp_path / "out")
    evaluation.task, evaluation.arguments = "imagenet_linear", INTERRUPTIBLE
    yield evaluation
    shutil.rmtree(tmp_path)


def log_of(evaluation):
    (log,) = (evaluation.out / "logs").glob("*.log")
    return log


def started_until(evaluation, text):
    """The evaluation as a process, once its run has said this."""
    process = subprocess.Popen(
        evaluation.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 120
    while not any(text in log.read_text() for log in (evaluation.out / "logs").glob("*.log")):
        assert process.poll() is None and time.monotonic() < end, f"it did not say {text!r}"
        time.sleep(0.01)
    return process


def test_a_killed_evaluation_is_resumed_by_the_same_command(training):
    killed = started_until(training, EARLY)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert not records_in(training.out)
    dry = in_this_process(training, "--dry-run")
    assert (dry.status, dry.printed.count("to resume")) == (0, 1)
    training.more.clear()

    assert in_this_process(training).status == 0
    (went_on,) = re.findall(
        r"(?:going on|resuming) after iteration (\d+)", log_of(training).read_text()
    )
    assert 3 <= int(went_on) < 80
    assert f"after iteration {went_on}" in training.printed  # a run alone streams
    (record,) = records_in(training.out).values()
    assert record["metrics"]["top1"] is not None
