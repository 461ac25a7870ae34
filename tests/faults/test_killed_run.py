"""SIGKILL: complete files remain, and ``--resume`` comes to the result of an undisturbed run."""

import os
import signal

import pytest

from tests.faults.files import incomplete, unfinished
from tests.faults.runs import RUNS, result_of, two_processes, undisturbed
from tests.selection import whole_only

QUICK = (("pretraining", "early"), ("svm", "early"))
CASES = [
    pytest.param(kind, when, marks=[pytest.mark.whole] * ((kind, when) not in QUICK))
    for kind in RUNS
    for when in ("early", "late")
]


@pytest.mark.parametrize(("kind", "when"), CASES)
def test_killed_run_resumes_to_the_same_result(kind, when, out, started):
    run = RUNS[kind]
    started(run.start(out, stop_at=getattr(run, when))).stopped().kill()
    assert incomplete(out.parent) == []
    assert not (out / run.record).exists()
    started(run.start(out, "--resume")).succeeds()
    assert result_of(run, out) == undisturbed(kind)
    assert unfinished(out.parent) == []


@pytest.mark.parametrize("kind", ["pretraining", *whole_only("transfer", "linear")])
def test_killed_worker_is_reported(kind, out, started):
    run = RUNS[kind]
    process = started(run.start(out, stop_at=run.early, workers=2)).stopped()
    os.kill(process.children()[-1], signal.SIGKILL)
    process.resume().fails("", "--resume", is_interrupted=True)
    assert incomplete(out) == []
    started(run.start(out, "--resume", workers=2)).succeeds()
    assert result_of(run, out) == undisturbed(kind)


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["pretraining", "transfer"])
def test_killed_rank_ends_the_other(kind, out, started):
    run = RUNS[kind]
    first, second = map(started, two_processes(run, out, stop_at=run.early))
    first.stopped()
    second.kill()
    first.resume().fails("", "--resume")
