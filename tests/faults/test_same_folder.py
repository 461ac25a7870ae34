"""Of two runs on one output folder, one is refused and the other is not affected."""

import pytest

from tests.faults.runs import RUNS, names_in, result_of, undisturbed
from tests.selection import whole_only


@pytest.mark.parametrize("kind", ["svm", *whole_only("pretraining")])
def test_second_run_is_refused(kind, out, started):
    run = RUNS[kind]
    first = started(run.start(out, stop_at=run.early)).stopped()
    before = names_in(out)
    for flags in ((), ("--resume",), ("--overwrite",)):
        started(run.start(out, *flags)).fails("", out)
    assert names_in(out) == before
    first.resume().succeeds()
    assert result_of(run, out) == undisturbed(kind)


def test_finished_folder_needs_resume_or_overwrite(out, started):
    run = RUNS["svm"]
    started(run.start(out)).succeeds()
    assert not (out / ".lock").exists()
    started(run.start(out)).fails("", out)
    for flag in ("--resume", "--overwrite"):
        started(run.start(out, flag)).succeeds()
        assert result_of(run, out) == undisturbed("svm")
