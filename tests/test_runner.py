"""The one runner, from claiming the folder to the record, with the cheapest of jobs."""

import argparse
import json
import os

import pytest

from tests.errors import raises_code
from virtex import run_folder, runner
from virtex.errors import UserError
from virtex.files import Manifest, record_file, replace_file
from virtex.run_folder import RUN_FILE, check_same_run, claim_folder, flatten, read_run_file
from virtex.runner import Job


class Counting(Job):
    """Write numbers up to ``args.target``, one file each, and stop at ``args.stop_at``."""

    def prepare(self, backbone):
        if self.args.target < 0:
            raise UserError(f"target {self.args.target} is negative", "test.negative")

    def identity(self):
        return {"target": self.args.target, "data": {"train": {"images": self.args.size}}}

    def is_finished(self):
        return (self.folder / "result.json").is_file()

    def write_inputs(self):
        write(self.folder / "config.yaml", "A: 1\n")

    def run(self):
        done = len(list(self.folder.glob("model_*.pth"))) if self.args.resume else 0
        for number in range(done, self.args.target):
            if number == self.args.stop_at:
                raise KeyboardInterrupt
            write(self.folder / f"model_{number:07d}.pth", str(number))
        return {"first": float(done)}

    def write_record(self, metrics):
        write(self.folder / "result.json", json.dumps(metrics))


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda file: file.write(text.encode()))


def plan(args):
    return [Counting(args, args.folder)]


@pytest.fixture
def start(tmp_path):
    """Run the job in the folder "run"; returns the metrics in its record."""

    def run(folder="run", **given):
        values = {
            **{"target": 4, "size": 10, "stop_at": None, "resume": False, "overwrite": False},
            **{"num_gpus": 0, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"},
            "folder": tmp_path / folder,
            **given,
        }
        args = argparse.Namespace(**values)
        assert runner.run(args, plan) == 0
        return json.loads((args.folder / "result.json").read_text())

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_run_leaves_record_and_run_file(start, tmp_path):
    assert start() == {"first": 0.0}
    found = contents(tmp_path / "run")
    assert {RUN_FILE, "result.json", "config.yaml", "log.txt"} <= found.keys()
    assert run_folder.LOCK_FILE not in found
    assert read_run_file(tmp_path / "run")["identity"]["target"] == 4


def test_interrupted_run_is_resumed(start):
    with pytest.raises(KeyboardInterrupt):
        start(stop_at=2)
    assert start(resume=True) == {"first": 2.0}


def test_finished_run_is_not_repeated(start, tmp_path):
    start()
    before = contents(tmp_path / "run")
    start(resume=True)
    assert contents(tmp_path / "run") == before


def test_overwrite_starts_over(start, tmp_path):
    start(target=6)
    assert start(target=3, overwrite=True) == {"first": 0.0}
    assert len(list((tmp_path / "run").glob("model_*.pth"))) == 3


def test_existing_run_is_protected(start, tmp_path):
    start()
    before = contents(tmp_path / "run")
    with raises_code("run.exists", tmp_path / "run", "--resume", "--overwrite"):
        start()
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("changed", "key"), [({"target": 5}, "target"), ({"size": 11}, "data.train.images")]
)
def test_other_run_is_not_resumed(start, tmp_path, changed, key):
    start()
    before = contents(tmp_path / "run")
    with raises_code("resume.mismatch", tmp_path / "run", key):
        start(resume=True, **changed)
    assert contents(tmp_path / "run") == before


def test_invalid_input_leaves_nothing(start, tmp_path):
    with raises_code("test.negative", "-1"):
        start(target=-1)
    assert list(tmp_path.iterdir()) == []


def test_invalid_input_keeps_the_overwritten_run(start, tmp_path):
    start()
    before = contents(tmp_path / "run")
    with raises_code("test.negative"):
        start(target=-1, overwrite=True)
    assert contents(tmp_path / "run") == before


def test_foreign_files_are_protected(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_final.pth").write_text("mine")
    for flags in ({}, {"overwrite": True}):
        with raises_code("run.foreign_files", tmp_path / "run" / "model_final.pth"):
            start(**flags)
    assert (tmp_path / "run" / "model_final.pth").read_text() == "mine"


OWN = (
    "model_best.pth",
    "captions.partial.mine.jsonl",
    "evaluation_mine/a",
    "events.out.tfevents.a",
)
COLLIDING = ("model_0000099.pth", "captions.html", "gallery/mine.jpg", "evaluation_0000003/mine")


def test_overwrite_keeps_files_of_the_user(start, tmp_path):
    start()
    for name in OWN:
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    start(target=2, overwrite=True)
    assert {(tmp_path / "run" / name).read_text() for name in OWN} == {"mine"}
    assert len(list((tmp_path / "run").glob("model_0*.pth"))) == 2


@pytest.mark.parametrize("name", COLLIDING)
def test_files_of_the_user_are_not_replaced(start, tmp_path, name):
    start()
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path / "run")
    with raises_code("run.foreign_files", tmp_path / "run" / name):
        start(overwrite=True)
    assert contents(tmp_path / "run") == before
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_overwrite_deletes_folders_of_the_run(start, tmp_path):
    start()
    with Manifest(tmp_path / "run").record():
        write(tmp_path / "run" / "gallery" / "a.jpg", "")
    start(overwrite=True)
    assert not (tmp_path / "run" / "gallery").exists()


ODD = ("log.txt", "metrics.json", "run.json", "captions.partial.rank1.jsonl", "gallery")


@pytest.mark.parametrize("kind", ["file", "folder", "broken link", "pipe"])
@pytest.mark.parametrize("name", [*ODD, "evaluation_0000003"])
@pytest.mark.parametrize("flag", [None, "resume", "overwrite"])
def test_links_and_pipes_are_refused(start, tmp_path, name, kind, flag):
    (tmp_path / "run").mkdir()
    target, path = tmp_path / "target", tmp_path / "run" / name
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    with raises_code("run.foreign_files", path):
        start(**({flag: True} if flag else {}))
    assert list((tmp_path / "run").iterdir()) == [path]
    assert kind != "file" or target.read_text() == "mine"


def test_gallery_that_is_a_file_is_refused_before_the_run(start, tmp_path):
    start()
    (tmp_path / "run" / "gallery").write_text("mine")
    for flag in ("resume", "overwrite"):
        with raises_code("run.foreign_files", tmp_path / "run" / "gallery"):
            start(**{flag: True})


@pytest.mark.parametrize("kind", ["file", "link", "hard link", "pipe"])
def test_lock_changes_no_other_file(start, tmp_path, kind):
    target, lock = tmp_path / "target", tmp_path / "run" / run_folder.LOCK_FILE
    lock.parent.mkdir()
    target.write_text("mine")
    if kind == "file":
        lock.write_text("mine")
    elif kind == "link":
        lock.symlink_to(target)
    elif kind == "hard link":
        lock.hardlink_to(target)
    else:
        os.mkfifo(lock)
    with raises_code("run.foreign_files", lock):
        start()
    assert target.read_text() == "mine"
    assert os.path.lexists(lock)


@pytest.mark.parametrize("below", ["", "fraction_0.1", "a/b"])
def test_file_as_folder_is_reported(start, tmp_path, below):
    (tmp_path / "run").write_text("")
    with raises_code("run.not_a_folder", tmp_path / "run"):
        start(f"run/{below}")


def test_second_run_is_locked_out(start, tmp_path):
    # a lock of another process; locks of one process do not exclude each other
    folder = tmp_path / "run"
    folder.mkdir()
    with claim_in_process(folder), raises_code("run.locked", folder):
        start()
    start()


def claim_in_process(folder):
    """Hold the folder's lock in another process for the duration of the block."""
    import contextlib
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from virtex.run_folder import claim_folder\n"
        "with claim_folder(Path(sys.argv[1]), False, False):\n"
        "    print('locked', flush=True); sys.stdin.readline()"
    )

    @contextlib.contextmanager
    def held():
        with subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "locked\n"
            yield
            process.communicate("\n")

    return held()


def test_unused_folder_is_removed(tmp_path):
    with claim_folder(tmp_path / "a" / "b", False, False):
        assert (tmp_path / "a" / "b" / run_folder.LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_overwrite_spares_inputs(tmp_path):
    checkpoint = tmp_path / "model_final.pth"
    checkpoint.write_text("weights")
    with Manifest(tmp_path).record():
        run_folder.write_run_file(tmp_path, {})
        record_file(checkpoint)
    with raises_code("run.deletes_input", checkpoint):
        run_folder.check_available(tmp_path, False, True, [checkpoint])
    assert checkpoint.read_text() == "weights"


def test_version_1_is_not_resumed(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_FILE).write_text('{"checkpoint sha256": "a", "seed": 0}')
    with raises_code("resume.old_version", tmp_path / "run", "--overwrite"):
        start(resume=True)
    start(overwrite=True)


ODD_RUNS = (
    '{"version": 2, "identity": 3}',
    '{"version": 2, "changes": [{}]}',
    "é".encode("latin-1"),
)


@pytest.mark.parametrize("content", ["{", "[1]", "5", "null", "[" * 100_000, *ODD_RUNS])
def test_invalid_run_file_is_reported(start, tmp_path, content):
    (tmp_path / "run").mkdir()
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "run" / RUN_FILE).write_bytes(content)
    with raises_code("run.unreadable", tmp_path / "run" / RUN_FILE):
        start(resume=True)


def test_ignored_keys_may_differ(tmp_path):
    run_folder.write_run_file(tmp_path, {"seed": 0, "overrides": {"SOLVER.MAX_ITER": 9}})
    changed = {"seed": 0, "overrides": {"SOLVER.MAX_ITER": 5}}
    check_same_run(tmp_path, changed, ("overrides.SOLVER.",))
    with raises_code("resume.mismatch", "overrides.SOLVER.MAX_ITER", "9", "5"):
        check_same_run(tmp_path, changed)


def test_flatten_joins_keys():
    assert flatten({"a": {"b.c": 1, "d": {}}, "e": [1]}) == {"a.b.c": 1, "e": [1]}
