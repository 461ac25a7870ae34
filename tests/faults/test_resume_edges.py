"""Resume from states that a kill leaves between two writes that lie close together."""

import json
import shutil

import pytest

from tests.eval_tools import probe_runs
from tests.pretraining_runs import lines_of, record_of, trained, write_data
from tests.run_states import assert_equal, content_of


@pytest.fixture
def out(tmp_path):
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """A data root, and a finished run."""
    data = write_data(tmp_path_factory.mktemp("between") / "data")
    yield data, trained(data, data.with_name("out"))
    shutil.rmtree(data.parent)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A data root, and a finished SVM whose features are cached."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = probe_runs.write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FVCORE_CACHE", "VIRTEX_FEATURE_CACHE"):
            patch.setenv(name, str(folder / name))
        yield data, probe_runs.run_to_end("svm", data, folder / "out")
    shutil.rmtree(folder)


def without_times(folder):
    times = ("images_per_second", "data_seconds")
    return [{k: v for k, v in line.items() if k not in times} for line in lines_of(folder)]


def killed_after_checkpoint(finished, out, name, iteration):
    """Copy a run as if it was killed after saving a checkpoint, before validating it."""
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


def test_checkpoint_is_validated_on_resume(pretraining, out):
    data, finished = pretraining
    killed_after_checkpoint(finished, out, "model_0000010.pth", 10)
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)
    assert_equal(content_of(out), content_of(finished))


def test_validation_is_not_written_twice(pretraining, out):
    data, finished = pretraining
    shutil.copytree(finished, out)
    (out / "pretraining.json").unlink()
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)
    assert record_of(out)["metrics"] == record_of(finished)["metrics"]


def test_line_without_newline_is_rewritten(pretraining, out):
    data, finished = pretraining
    killed_after_checkpoint(finished, out, "model_0000010.pth", 10)
    metrics = out / "metrics.json"
    line = json.dumps({"iteration": 10, "val/loss": 1.0})
    metrics.write_text(metrics.read_text() + line)
    trained(data, out, "--resume")
    assert without_times(out) == without_times(finished)


@pytest.mark.parametrize("torn", ["", '{"iteration": 0, "mA'])
def test_scores_reach_the_metrics_file(evaluation, out, torn):
    data, finished = evaluation
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    (out / "metrics.json").write_text(torn)
    probe_runs.run_to_end("svm", data, out, "--resume")
    whole = probe_runs.lines_of(finished)
    assert probe_runs.lines_of(out) == whole and whole[0]["mAP"] > 0
