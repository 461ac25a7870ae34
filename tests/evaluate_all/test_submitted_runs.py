"""Runs as jobs: submitit's executor for this machine does what Slurm's does."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.evaluate_all.cluster import make_cluster
from tests.evaluate_all.evaluations import (
    EARLY,
    INTERRUPTIBLE,
    Evaluation,
    in_this_process,
    records_in,
    refused,
)
from tests.evaluate_all.small_tools import (
    NOTE,
    STUBBORN,
    at_the_same_time,
    entries_of,
    is_alive,
    notes_in,
    wait_until,
)
from virtex.errors import UserError
from virtex.evaluate_all import submitting
from virtex.evaluate_all.running import run_all
from virtex.evaluate_all.submitting import Submission, Submitit, job_parameters

submitit = pytest.importorskip("submitit")


@pytest.fixture
def evaluation(data, checkpoints, tmp_path):
    names, more = [str(checkpoints / "first.pth")], ["--launcher", "submitit-local"]
    found = Evaluation(names, data, tmp_path / "out", more=more)
    yield found
    shutil.rmtree(tmp_path)


def job_processes(out):
    """Numbers of the processes that run the jobs of this output folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(out / "logs/submitit") in words:
            found.append(int(folder.name))
    return found


def preempt_when(out, text):
    """Send the jobs what a cluster sends before it takes the machine away, once one says this."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if any(text in log.read_text() for log in (out / "logs").glob("*.log")):
            for number in job_processes(out):
                os.kill(number, signal.SIGUSR2)
            return
        time.sleep(0.02)


def test_a_preempted_job_resumes(evaluation):
    evaluation.task, evaluation.arguments = "imagenet_linear", INTERRUPTIBLE
    out = evaluation.out
    preempting = threading.Thread(target=preempt_when, args=(out, EARLY))
    preempting.start()
    in_this_process(evaluation)
    preempting.join()
    assert evaluation.status == 0
    assert evaluation.printed.count("submitted as job ") == 1
    (record,) = records_in(out).values()
    assert record["model"]["name"] == evaluation.checkpoints[0]
    (log,) = (out / "logs").glob("*.log")
    text = log.read_text()
    assert text.count("=== ") == 2 and "after iteration" in text
    assert (out / "leaderboard.csv").exists()


# A tool for each end: the first fails, the second's job dies, the third waits for the others.
ENDS = """
import os, pathlib, signal, sys, time
if sys.argv[1].endswith("0"):
    sys.exit("tool.py: error: no data")
if sys.argv[1].endswith("1"):
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(0.5)
pathlib.Path(sys.argv[1]).write_text("here")
"""


def launcher_in(folder):
    return Submitit("submitit-local", folder, job_parameters([], 0, 0, None))


def test_a_job_that_fails_or_dies_stops_no_other(tmp_path):
    entries = entries_of(tmp_path, ENDS, 3)
    assert run_all(entries, [()] * 3, launcher_in(tmp_path)) == 0
    assert entries[0].reason == "exit status 1: no data"
    assert "did not end in order" in entries[1].reason
    assert entries[2].reason.startswith("it ended without a record")
    assert (tmp_path / "note_2").exists()


def test_jobs_see_their_share_of_the_gpus(tmp_path):
    run_all(entries_of(tmp_path, NOTE, 2), [("3", "1"), ("0", "2")], launcher_in(tmp_path))
    assert {gpus for _, gpus, _, _ in notes_in(tmp_path, 2)} == {"3,1", "0,2"}


def test_an_interruption_ends_the_jobs_of_this_machine(tmp_path):
    entries = entries_of(tmp_path, STUBBORN.replace("SIG_IGN", "SIG_DFL"), 2)
    note = tmp_path / "note_0"

    def interrupt():
        wait_until(lambda: note.exists() and note.read_text(), "the tool runs")
        os.kill(os.getpid(), signal.SIGTERM)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    assert run_all(entries, [()], launcher_in(tmp_path)) == signal.SIGTERM
    interrupting.join()
    assert [entry.status for entry in entries] == ["interrupted", "not started"]
    assert not any(is_alive(number) for number in map(int, note.read_text().split()))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", make_cluster(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # what the cluster gives, not to be changed


def test_a_cluster_gets_all_runs_as_one_array(tmp_path, cluster):
    entries = entries_of(tmp_path, NOTE, 3)
    asked = ["slurm_partition=gpu", "timeout_min=90"]
    launcher = Submitit("slurm", tmp_path, job_parameters(asked, 2, 3, 2))
    said = []
    assert run_all(entries, [None] * 3, launcher, said.append) == 0
    assert [f"submitted as job 4242_{n} " in said[n] for n in range(3)] == [True] * 3
    notes = notes_in(tmp_path, 3)
    assert at_the_same_time(notes) == 3
    assert {gpus for _, gpus, _, _ in notes} == {"5"}
    script = (tmp_path / "logs/submitit/4242_submission.sh").read_text()
    options = {line.partition("--")[2] for line in script.splitlines()}
    assert options >= {
        *("partition=gpu", "time=90", "gpus-per-node=2", "cpus-per-task=8", "array=0-2%2"),
        "job-name=virtex",
    }


def test_an_interruption_leaves_the_jobs_on_the_cluster(tmp_path, cluster, capsys):
    entries = entries_of(tmp_path, NOTE, 2)

    def interrupt(line):
        if entries[1].run.name in line:
            os.kill(os.getpid(), signal.SIGINT)

    launcher = Submitit("slurm", tmp_path, job_parameters([], 0, 0, None))
    assert run_all(entries, [None] * 2, launcher, interrupt) == signal.SIGINT
    assert [entry.status for entry in entries] == ["on the cluster"] * 2
    assert "the jobs stay on the cluster (end them by: scancel 4242_0 4242_1)" in (
        capsys.readouterr().out
    )
    for place in range(2):
        wait_until((tmp_path / f"note_{place}.end").exists, "the jobs are through")


def test_without_slurm_it_is_refused(evaluation, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    evaluation.more = ["--launcher", "slurm"]
    assert "there is no sbatch on this machine" in refused(capsys, evaluation.argv)
    assert not evaluation.out.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timeout_min=long", "timeout_min"),
        ("color=1", "need to be prefixed by an executor name"),
        ("slurm_nonsense=1", "Unknown argument 'nonsense'"),
        ("gpu", "--slurm gpu: give KEY=VALUE"),
    ],
)
def test_a_parameter_that_submitit_does_not_have_is_refused(evaluation, capsys, text, told):
    evaluation.more += ["--slurm", text]
    error = refused(capsys, evaluation.argv)
    assert "--slurm" in error and told in error and "\n" not in error


def test_what_a_job_asks_for():
    asked = ["slurm_partition=gpu", "timeout_min=90", 'slurm_setup=["module load cuda"]']
    assert job_parameters(asked, 8, 3, 2) == {
        "name": "virtex",
        "timeout_min": 90,
        "cpus_per_task": 32,
        "gpus_per_node": 8,
        "slurm_array_parallelizm": 2,
        "slurm_partition": "gpu",
        "slurm_setup": ["module load cuda"],
    }


def test_two_jobs_never_do_the_same_run(tmp_path):
    (entry,) = entries_of(tmp_path, NOTE)
    submission = Submission(entry.run, None)
    (tmp_path / "logs").mkdir()
    with FileLock(f"{entry.run.log}.lock"), pytest.raises(UserError, match="an earlier job still"):
        submission()
    assert not (tmp_path / "note_0").exists()
    assert submission() == 0
    assert (tmp_path / "note_0").exists()


def test_a_job_whose_tool_is_told_to_end_waits_for_its_own_notice(tmp_path, monkeypatch):
    """A cluster that takes a machine back says so to all; the job is to be requeued, not over."""
    monkeypatch.setattr(submitting, "NOTICE_SECONDS", 0.5)
    (entry,) = entries_of(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    start = time.monotonic()
    assert Submission(entry.run, None)() == -signal.SIGTERM
    assert time.monotonic() - start > 0.5
