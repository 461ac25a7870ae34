"""Runs as jobs, with submitit's local executor and a fake Slurm."""

import os
import pickle
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.errors import raises_code
from tests.evaluate_all.cluster import make_cluster
from tests.evaluate_all.evaluations import (
    EARLY,
    INTERRUPTIBLE,
    Evaluation,
    evaluate,
    read_records,
)
from tests.evaluate_all.fake_runs import (
    NOTE,
    STUBBORN,
    count_parallel,
    fake_runs,
    is_alive,
    read_notes,
    wait_until,
)
from virtex.evaluate_all import launchers
from virtex.evaluate_all.execution import run_all
from virtex.evaluate_all.launchers import Submission, SubmititLauncher, job_parameters

pytest.importorskip("submitit")


def job_processes(out):
    """Ids of the processes that execute the jobs of this output folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(out / "logs/submitit") in words[-2]:
            found.append(int(folder.name))
    return found


def preempt_when(out, text):
    """Send the jobs the signal of a preemption once a log contains ``text``."""
    wait_until(lambda: any(text in log.read_text() for log in (out / "logs").glob("*.log")))
    for number in job_processes(out):
        os.kill(number, signal.SIGUSR2)


@pytest.mark.whole
def test_preempted_job_resumes(data, checkpoints, tmp_path):
    evaluation = Evaluation(
        [str(checkpoints / "first.pth")],
        data,
        tmp_path / "out",
        "imagenet_linear",
        INTERRUPTIBLE,
        more=["--launcher", "submitit-local"],
    )
    out = evaluation.out
    preempting = threading.Thread(target=preempt_when, args=(out, EARLY))
    preempting.start()
    evaluate(evaluation)
    preempting.join()
    assert evaluation.status == 0, evaluation.errors
    assert evaluation.printed.count("submitted as job ") == 1
    assert len(read_records(out)) == 1
    (log,) = (out / "logs").glob("*.log")
    assert log.read_text().count("=== ") == 2 and "after iteration" in log.read_text()
    assert (out / "leaderboard.csv").exists()
    shutil.rmtree(tmp_path)


# The first fails, the job of the second dies, the third succeeds
ENDS = """
import os, pathlib, signal, sys, time
if sys.argv[1].endswith("0"):
    sys.exit("tool.py: error: no data")
if sys.argv[1].endswith("1"):
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(0.5)
pathlib.Path(sys.argv[1]).write_text("here")
"""


def local_launcher(folder):
    return SubmititLauncher("submitit-local", folder, job_parameters([], 0, 0, None))


def test_failed_jobs_stop_no_others(tmp_path):
    runs = fake_runs(tmp_path, ENDS, 3)
    assert run_all(runs, [()] * 3, local_launcher(tmp_path)) == 0
    assert runs[0].reason == "exit status 1: no data"
    assert "exit status 1: job " in runs[1].reason
    assert runs[2].reason.endswith("[run.no_record]")
    assert (tmp_path / "note_2").exists()


def test_local_jobs_use_their_gpus_and_are_stopped(tmp_path):
    run_all(fake_runs(tmp_path, NOTE, 2), [("3", "1"), ("0", "2")], local_launcher(tmp_path))
    assert {gpus for _, gpus, _, _ in read_notes(tmp_path, 2)} == {"3,1", "0,2"}

    runs = fake_runs(tmp_path / "stopped", STUBBORN.replace("SIG_IGN", "SIG_DFL"), 2)
    (tmp_path / "stopped").mkdir()
    note = tmp_path / "stopped" / "note_0"

    def interrupt():
        wait_until(lambda: note.exists() and note.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    assert run_all(runs, [()], local_launcher(tmp_path / "stopped")) == signal.SIGTERM
    interrupting.join()
    assert [run.status for run in runs] == ["interrupted", "pending"]
    assert not any(is_alive(number) for number in map(int, note.read_text().split()))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", make_cluster(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # assigned by the cluster


def test_slurm_gets_all_runs_as_one_array(tmp_path, cluster):
    options = ["slurm_partition=gpu", "timeout_min=90"]
    launcher = SubmititLauncher("slurm", tmp_path, job_parameters(options, 2, 3, 2))
    lines = []
    assert (
        run_all(fake_runs(tmp_path, NOTE, 3, parallel=3), [None] * 3, launcher, lines.append) == 0
    )
    assert all(f"submitted as job 4242_{n} " in lines[n] for n in range(3))
    notes = read_notes(tmp_path, 3)
    assert count_parallel(notes) == 3
    assert {gpus for _, gpus, _, _ in notes} == {"5"}
    (script,) = (tmp_path / "logs/submitit").glob("*/4242_submission.sh")
    assert script.parent.stat().st_mode & 0o777 == 0o700
    assert {line.partition("--")[2] for line in script.read_text().splitlines()} >= {
        *("partition=gpu", "time=90", "gpus-per-node=2", "cpus-per-task=8", "array=0-2%2"),
        "job-name=virtex",
    }


def test_results_of_submitit_are_not_read(tmp_path, cluster, monkeypatch):
    """Results that someone has put where the jobs' own are expected execute nothing."""

    class Planted:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    launcher = SubmititLauncher("slurm", tmp_path, job_parameters([], 0, 0, None))
    for folder in (launcher.folder.parent, launcher.folder):
        folder.mkdir(parents=True, exist_ok=True)
        for job in ("4242_0", "4242_1"):
            (folder / f"{job}_0_result.pkl").write_bytes(pickle.dumps(Planted()))
    monkeypatch.setattr(launchers, "SHARED_SECONDS", 300)  # the jobs are still running
    runs = fake_runs(tmp_path, "raise SystemExit('error: no data')", 2)
    run_all(runs, [None] * 2, launcher)
    assert [run.reason for run in runs] == ["exit status 1: no data"] * 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["a\n#SBATCH --wrap=b", "%j", "%A", "a\\b"])
def test_folder_name_that_scripts_interpret(tmp_path, cluster, name):
    for launcher in launchers.LAUNCHERS:
        with raises_code("arguments.slurm", "--output-dir"):
            SubmititLauncher(launcher, tmp_path / name, job_parameters([], 0, 0, None))


def test_interruption_leaves_jobs_on_the_cluster(tmp_path, cluster, capsys):
    runs = fake_runs(tmp_path, NOTE, 2)

    def interrupt(line):
        if runs[1].name in line:
            os.kill(os.getpid(), signal.SIGINT)

    launcher = SubmititLauncher("slurm", tmp_path, job_parameters([], 0, 0, None))
    assert run_all(runs, [None] * 2, launcher, interrupt) == signal.SIGINT
    assert [run.status for run in runs] == ["submitted"] * 2
    assert "scancel 4242_0 4242_1" in capsys.readouterr().out
    for place in range(2):
        wait_until((tmp_path / f"note_{place}.end").exists)


def test_missing_programs_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with raises_code("environment.slurm", "sbatch"):
        SubmititLauncher("slurm", tmp_path, {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with raises_code("environment.missing_package", "pip install submitit"):
        SubmititLauncher("submitit-local", tmp_path, {})


@pytest.mark.parametrize("text", ["timeout_min=long", "color=1", "slurm_nonsense=1", "gpu"])
def test_invalid_slurm_options(tmp_path, text):
    with raises_code("arguments.slurm", "--slurm"):
        SubmititLauncher("submitit-local", tmp_path, job_parameters([text], 0, 0, None))


def test_job_parameters():
    options = ["slurm_partition=gpu", "timeout_min=90", 'slurm_setup=["module load cuda"]']
    assert job_parameters(options, 8, 3, 2) == {
        "name": "virtex",
        "timeout_min": 90,
        "cpus_per_task": 32,
        "gpus_per_node": 8,
        "slurm_array_parallelism": 2,
        "slurm_partition": "gpu",
        "slurm_setup": ["module load cuda"],
    }


def test_terminated_job_waits_for_its_own_signal(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(launchers.time, "sleep", waits.append)
    (run,) = fake_runs(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    Submission(run.command, run.log, None, tmp_path / "ended")()
    assert (tmp_path / "ended").read_text() == str(-signal.SIGTERM)
    assert launchers.NOTICE_SECONDS in waits
