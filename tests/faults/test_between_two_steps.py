"""What a kill leaves between two steps that lie close together, where few kills hit by chance."""

import json
import shutil

import pytest

from tests.checkpoints.fault_server import Answer, start_server
from tests.eval_tools import probe_runs
from tests.pretraining_runs import lines_of, record_of, trained, write_data
from tests.run_states import assert_equal, content_of
from virtex.checkpoints import CheckpointError
from virtex.checkpoints.download import download

OLD, NEW = b"old " * 200_000, b"new " * 200_000


@pytest.fixture
def server():
    faults, running = start_server()
    yield faults
    running.shutdown()


@pytest.fixture
def out(tmp_path):
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """Data, and a finished run on them."""
    data = write_data(tmp_path_factory.mktemp("between") / "data")
    yield data, trained(data, data.with_name("out"))
    shutil.rmtree(data.parent)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Data, and a finished SVM on them, whose features are in a cache of its own."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = probe_runs.write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FVCORE_CACHE", "VIRTEX_FEATURE_CACHE"):
            patch.setenv(name, str(folder / name))
        yield data, probe_runs.ended_well("svm", data, folder / "out")
    shutil.rmtree(folder)


def without_times(folder):
    times = ("images_per_second", "data_seconds")
    return [{k: v for k, v in line.items() if k not in times} for line in lines_of(folder)]


def killed_after_checkpoint(finished, out, name, iteration):
    """A copy that ends with the checkpoint of an iteration, before its validation."""
    shutil.copytree(finished, out)
    (out / "pretraining.json").unlink()
    for path in out.glob("model_*.pth"):
        if path.name > name:
            path.unlink()
    (out / "last_checkpoint").write_text(name)
    lines = (out / "metrics.json").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["iteration"] <= iteration]
    assert "val/loss" in kept.pop()
    (out / "metrics.json").write_text("".join(kept))


def test_a_checkpoint_that_was_not_validated_yet_is_validated(pretraining, out):
    data, finished = pretraining
    killed_after_checkpoint(finished, out, "model_0000010.pth", 10)
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)
    assert_equal(content_of(out), content_of(finished))


def test_a_validation_that_was_written_is_not_written_twice(pretraining, out):
    data, finished = pretraining
    shutil.copytree(finished, out)
    (out / "pretraining.json").unlink()
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)
    assert record_of(out)["metrics"] == record_of(finished)["metrics"]


def test_a_line_that_lacks_its_end_alone_is_written_anew(pretraining, out):
    data, finished = pretraining
    killed_after_checkpoint(finished, out, "model_0000010.pth", 10)
    metrics = out / "metrics.json"
    line = json.dumps({"iteration": 10, "val/loss": 1.0})
    metrics.write_text(metrics.read_text() + line)
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)


@pytest.mark.parametrize("torn", ["", '{"iteration": 0, "mA'])
def test_scores_of_an_evaluation_reach_its_curves(evaluation, out, torn):
    data, finished = evaluation
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    (out / "metrics.json").write_text(torn)
    probe_runs.ended_well("svm", data, out, "--resume")
    whole = probe_runs.lines_of(finished)
    assert probe_runs.lines_of(out) == whole and whole[0]["mAP"] > 0


def test_an_old_beginning_is_never_taken_for_a_new_file(server, out):
    """Nor where the new one was refused, or the process ended, as soon as it was known."""
    path = out / "model.bin"
    url = server.serve("/model.bin", OLD, Answer(cut=300_000), Answer(404), etag='"1"')
    with pytest.raises(CheckpointError):
        download([url], path)
    assert path.with_name("model.bin.part").stat().st_size == 300_000
    server.serve("/model.bin", NEW, etag='"2"')
    with pytest.raises(CheckpointError, match="has 800000 bytes, not 5"):
        download([url], path, size=5)
    assert download([url], path).read_bytes() == NEW


def test_what_was_said_of_a_beginning_goes_with_it(server, out):
    """A process may be killed as soon as the file has its name."""
    path = out / "model.bin"
    url = server.serve("/model.bin", NEW)
    download([url], path)
    path.with_name("model.bin.part.json").write_text('{"url": "", "mark": ""}')
    download([url], path)
    assert sorted(p.name for p in out.iterdir()) == [
        *("model.bin", "model.bin.lock", "model.bin.sha256")
    ]
