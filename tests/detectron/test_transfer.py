"""The main job end to end: a checkpoint goes in, a record that can be believed comes out."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from tests.detectron.backbones import make_state_dict
from tests.run_states import assert_equal, content_of
from virtex.cli import run_tool
from virtex.detectron.datasets import register_detection_sets, training_samples
from virtex.detectron.settings import load_config
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import packaged_protocol

TOOL = Path(detectron2_transfer.__file__)
ITERATIONS = 6
QUICK = [
    *("SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.STEPS", "(4,)", "SOLVER.CHECKPOINT_PERIOD", "3"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "TEST.PRECISE_BN.NUM_ITER", "2"),
    *("DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="session")
def moco_file(tmp_path_factory):
    """A ResNet-18 as MoCo v2 writes it."""
    path = tmp_path_factory.mktemp("checkpoints") / "moco_v2.pth.tar"
    weights = make_state_dict("resnet18")
    torch.save({"epoch": 1, "state_dict": as_moco(weights)}, path)
    return path


def as_moco(weights):
    queries = {f"module.encoder_q.{k}": v for k, v in weights.items()}
    keys = {f"module.encoder_k.{k}": v + 1 for k, v in weights.items() if v.is_floating_point()}
    return {**queries, **keys, "module.queue": torch.rand(8, 4)}


def transfer(capsys, *arguments):
    """(exit status, standard error) of the tool, in this process."""
    with pytest.raises(SystemExit) as left:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), map(str, arguments))
    return left.value.code, capsys.readouterr().err.strip().splitlines()[-1:]


def common(checkpoint, toy, out, task="coco"):
    return [
        *("--checkpoint", checkpoint, "--task", task, "--protocol", "toy", "--data-root", toy),
        *("--output-dir", out, "--num-gpus", "0"),
    ]


def record(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, toy, moco_file):
    """A finished COCO run, to look at and never to change."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(SystemExit) as left:
        run_tool(
            detectron2_transfer.main,
            detectron2_transfer.build_parser(),
            [str(a) for a in (*common(moco_file, toy, out), *QUICK)],
        )
    assert left.value.code == 0
    return out


def test_the_record_says_what_was_measured_and_how(finished, moco_file):
    found = record(finished)
    assert found["task"] == "coco"
    assert found["protocol"]["name"] == "toy/coco"
    assert {d["key"] for d in found["protocol"]["overrides"]} == {
        "SOLVER.MAX_ITER",
        "SOLVER.STEPS",
        "SOLVER.IMS_PER_BATCH",
        "SOLVER.WARMUP_ITERS",
        "TEST.PRECISE_BN.NUM_ITER",
    }
    assert found["primary_metric"] in found["metrics"]
    assert {"bbox/AP", "bbox/AP50", "segm/AP"} <= set(found["metrics"])
    assert found["model"]["format"] == "moco"
    assert found["model"]["arch"]["name"] == "resnet18"
    assert found["model"]["coverage"]["complete"]
    assert found["model"]["source"] == str(moco_file)
    assert len(found["model"]["sha256"]) == 64
    assert found["verification"]["tensors"] == {"compared": 100, "equal": True}
    assert max(found["verification"]["features"].values()) <= 1e-4
    assert found["data"]["coco_2017_val"]["images"] == 8
    assert found["environment"]["detectron2"]["distribution"] in ("official", "python-only")
    assert found["timing"]["train_seconds"] > 0


def test_the_gallery_shows_prediction_beside_ground_truth(finished):
    pictures = sorted((finished / "gallery").glob("*.jpg"))
    assert len(pictures) == 8
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert width > height


def test_curves_and_log_are_there(finished):
    lines = [json.loads(line) for line in (finished / "metrics.json").read_text().splitlines()]
    assert lines[-2]["iteration"] == ITERATIONS - 1
    assert lines[-2]["total_loss"] > 0
    assert lines[-1]["iteration"] == ITERATIONS
    assert lines[-1]["bbox/AP"] == record(finished)["metrics"]["bbox/AP"]
    assert list(finished.glob("events.out.tfevents.*"))
    assert "This run deviates from its protocol" in (finished / "log.txt").read_text()


def test_the_detector_it_writes_is_a_checkpoint_itself(finished):
    from virtex.checkpoints.loading import load_backbone

    backbone = load_backbone(str(finished / "model_final.pth"))
    assert backbone.arch.name == "resnet18"
    assert backbone.input.channel_order == "RGB"
    assert backbone.source.coverage.complete


@pytest.mark.parametrize("task", ["lvis", "voc"])
def test_every_task_runs_end_to_end(capsys, tmp_path, toy, moco_file, task):
    status, error = transfer(capsys, *common(moco_file, toy, tmp_path, task), *QUICK)
    assert status == 0, error
    found = record(tmp_path)
    assert found["task"] == task
    assert {"lvis": "bbox/APr", "voc": "bbox/AP75"}[task] in found["metrics"]
    assert len(list((tmp_path / "gallery").glob("*.jpg"))) == 8


def test_any_detectron2_config_runs(capsys, tmp_path, toy, moco_file):
    arguments = common(moco_file, toy, tmp_path)
    arguments[2:6] = ["--config", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"]
    status, _ = transfer(
        capsys,
        *arguments,
        *(*QUICK, "SOLVER.MAX_ITER", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
        *("INPUT.MIN_SIZE_TEST", "64", "MODEL.RESNETS.NORM", "BN"),
    )
    assert status == 0
    assert record(tmp_path)["protocol"]["name"] == "retinanet_R_50_FPN_1x"


@pytest.fixture
def copy_of_finished(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_finished_run_is_not_run_again(capsys, toy, moco_file, copy_of_finished):
    before = (copy_of_finished / "result.json").read_bytes()
    status, _ = transfer(capsys, *common(moco_file, toy, copy_of_finished), *QUICK, "--resume")
    assert status == 0
    assert (copy_of_finished / "result.json").read_bytes() == before


def test_eval_only_scores_the_trained_detector_again(capsys, toy, moco_file, copy_of_finished):
    before = record(copy_of_finished)["metrics"]
    (copy_of_finished / "result.json").unlink()
    status, _ = transfer(capsys, *common(moco_file, toy, copy_of_finished), *QUICK, "--eval-only")
    assert status == 0
    assert record(copy_of_finished)["metrics"] == before


def test_eval_only_takes_weights_from_elsewhere(capsys, tmp_path, toy, moco_file, finished):
    arguments = [*common(moco_file, toy, tmp_path), *QUICK, "--eval-only"]
    status, _ = transfer(capsys, *arguments, "--weights", finished / "model_final.pth")
    assert status == 0
    assert record(tmp_path)["metrics"] == record(finished)["metrics"]
    assert "weights sha256" in {d["key"] for d in record(tmp_path)["protocol"]["overrides"]}


def test_evaluation_while_training_does_not_change_training(
    capsys, tmp_path, toy, moco_file, finished
):
    often = [*QUICK, "TEST.EVAL_PERIOD", "2"]
    assert transfer(capsys, *common(moco_file, toy, tmp_path), *often)[0] == 0
    # PreciseBN runs more often then, which only a counter that nothing reads shows
    often, once = (
        {k: v for k, v in content_of(run)["model"].items() if "num_batches_tracked" not in k}
        for run in (tmp_path, finished)
    )
    assert_equal(often, once)
    lines = [json.loads(s) for s in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line for line in lines)


def unfinished(finished, tmp_path):
    """A run that was stopped after iteration 3 of 6."""
    folder = Path(shutil.copytree(finished, tmp_path / "unfinished"))
    for name in ("result.json", "model_final.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    return folder


def test_the_score_of_an_unfinished_run_stands_apart(capsys, tmp_path, toy, moco_file, finished):
    folder = unfinished(finished, tmp_path)
    assert transfer(capsys, *common(moco_file, toy, folder), *QUICK, "--eval-only")[0] == 0
    assert not (folder / "result.json").exists()
    found = record(folder / "evaluation_0000003")
    assert {"key": "iterations trained", "protocol": 6, "run": 3, "reason": "override"} in found[
        "protocol"
    ]["deviations"]
    assert transfer(capsys, *common(moco_file, toy, folder), *QUICK, "--resume")[0] == 0
    assert_equal(content_of(folder), content_of(finished))


def test_eval_only_says_how_the_run_was_trained(capsys, toy, moco_file, copy_of_finished):
    before = record(copy_of_finished)
    other_solver = [*QUICK, "SOLVER.BASE_LR", "0.5"]
    arguments = common(moco_file, toy, copy_of_finished)
    assert transfer(capsys, *arguments, *other_solver, "--eval-only")[0] == 0
    after = record(copy_of_finished)
    assert after["protocol"] == before["protocol"]
    assert after["data"] == before["data"]


def test_two_machines_meet(tmp_path, toy, moco_file):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(TOOL), *map(str, common(moco_file, toy, tmp_path)), *QUICK]
    command += ["--num-machines", "2", "--dist-url", address, "--machine-rank"]
    machines = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [machine.wait(timeout=400) for machine in machines] == [0, 0]
    assert record(tmp_path)["environment"]["processes"] == 2


# --- bad input: one sentence, status 2, nothing written ---


def refused(capsys, out, *arguments):
    before = sorted(out.rglob("*")) if out.exists() else None
    status, error = transfer(capsys, *arguments)
    assert status == 2
    assert (sorted(out.rglob("*")) if out.exists() else None) == before
    return error[0]


def test_a_folder_with_another_run_is_refused(capsys, toy, moco_file, finished):
    error = refused(capsys, finished, *common(moco_file, toy, finished), *QUICK)
    assert "holds another run" in error
    assert "--resume" in error
    assert "--overwrite" in error


def test_overwrite_deletes_the_run_and_nothing_else(capsys, toy, moco_file, copy_of_finished):
    (copy_of_finished / "notes.txt").write_text("mine")
    arguments = [*common(moco_file, toy, copy_of_finished), *QUICK, "--overwrite"]
    status, error = transfer(capsys, *arguments, "SOLVER.MAX_ITER", "1")
    assert status == 0, error
    assert (copy_of_finished / "notes.txt").read_text() == "mine"
    assert not (copy_of_finished / "model_0000002.pth").exists()


def test_resume_with_another_checkpoint_is_refused(capsys, tmp_path, toy, finished):
    other = tmp_path / "other.pth"
    torch.save({"state_dict": as_moco(make_state_dict("resnet18", seed=1))}, other)
    error = refused(capsys, finished, *common(other, toy, finished), *QUICK, "--resume")
    assert "was started with checkpoint sha256" in error


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["SOLVER.BASE_LR", "0.001"], "setting SOLVER.BASE_LR"),
        (["--skip-bad-images"], "skip_bad_images"),
        (["--seed", "1"], "seed"),
    ],
)
def test_resume_with_other_settings_is_refused(capsys, toy, moco_file, finished, changed, named):
    arguments = [*common(moco_file, toy, finished), *QUICK, *changed, "--resume"]
    assert f"was started with {named}" in refused(capsys, finished, *arguments)


def test_resume_under_another_task_is_refused(capsys, toy, moco_file, finished):
    arguments = [*common(moco_file, toy, finished, "voc"), *QUICK, "--resume"]
    assert "was started with protocol" in refused(capsys, finished, *arguments)


def test_a_data_root_without_the_files_lists_them_all(capsys, tmp_path, moco_file):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        run_tool(
            detectron2_transfer.main,
            detectron2_transfer.build_parser(),
            [str(a) for a in common(moco_file, tmp_path / "nowhere", out)],
        )
    error = capsys.readouterr().err
    assert left.value.code == 2
    for path in ("coco/train2017", "coco/val2017", "instances_train2017", "instances_val2017"):
        assert path in error
    assert not out.exists()


def broken_copy(toy, tmp_path):
    return Path(shutil.copytree(toy, tmp_path / "data"))


def test_a_broken_annotation_file_is_named(capsys, tmp_path, toy, moco_file):
    data = broken_copy(toy, tmp_path)
    path = data / "coco/annotations/instances_train2017.json"
    path.write_text(path.read_text()[:1000])
    out = tmp_path / "out"
    assert str(path) in refused(capsys, out, *common(moco_file, data, out), *QUICK)


def test_an_image_that_does_not_decode_stops_training(capsys, tmp_path, toy, moco_file):
    data = broken_copy(toy, tmp_path)
    for path in (data / "coco/train2017").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    status, error = transfer(capsys, *common(moco_file, data, tmp_path / "out"), *QUICK)
    assert status == 2
    assert "cannot be read" in error[0]
    assert not (tmp_path / "out/result.json").exists()


def test_an_image_that_does_not_decode_stops_a_score(capsys, tmp_path, toy, moco_file):
    data = broken_copy(toy, tmp_path)
    broken = min((data / "coco/val2017").iterdir())
    broken.write_bytes(b"")
    status, error = transfer(
        capsys, *common(moco_file, data, tmp_path / "out"), *QUICK, "--skip-bad-images"
    )
    assert status == 2
    assert broken.name in error[0]
    assert not (tmp_path / "out/result.json").exists()


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_a_missing_image_is_named_before_training(capsys, tmp_path, toy, moco_file, split):
    data = broken_copy(toy, tmp_path)
    content = json.loads((data / f"coco/annotations/instances_{split}.json").read_text())
    lost = data / "coco" / split / content["images"][1]["file_name"]
    lost.unlink()
    out = tmp_path / "out"
    error = refused(capsys, out, *common(moco_file, data, out), *QUICK)
    assert str(lost) in error and "[data.missing]" in error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BASELR", "1"], "[config.unknown_key]"),
        (["INPUT.FORMAT", "BGR"], "[config.invalid_override]"),
        (["MODEL.RESNETS.NORM", "GN"], "norm layers must be"),
        (["MODEL.ROI_HEADS.NAME", "NoSuchHeads"], "[config.model]"),
        (["DATASETS.TEST", "()"], "[config.no_test_set]"),
        (["DATALOADER.SAMPLER_TRAIN", "Other"], "TrainingSampler"),
        (["DATALOADER.NUM_WORKERS", "-1"], "DATALOADER.NUM_WORKERS"),
        (["SOLVER.STEPS", "(5, 2)"], "[config.solver]"),
        (["SOLVER.LR_SCHEDULER_NAME", "Other"], "[config.solver]"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "5"], "[config.invalid_override]"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "[config.model]"),
        (["OUTPUT_DIR", "elsewhere"], "--output-dir"),
    ],
)
def test_a_wrong_setting_is_refused(capsys, tmp_path, toy, moco_file, overrides, message):
    out = tmp_path / "out"
    assert message in refused(capsys, out, *common(moco_file, toy, out), *QUICK, *overrides)


def test_more_gpus_than_there_are(capsys, tmp_path, toy, moco_file):
    arguments = common(moco_file, toy, tmp_path / "out")
    arguments[-1] = "4096"
    assert "--num-gpus 0 runs on the CPU" in refused(capsys, tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval-only"], "holds no checkpoint to evaluate"),
        (["--eval-only", "--overwrite"], "--eval-only stands without"),
        (["--weights", "x.pth"], "--weights belongs to --eval-only"),
        (["--num-machines", "2"], "several machines need --dist-url"),
        (["--num-machines", "2", "--dist-url", "host"], "not of the form tcp://HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together(capsys, tmp_path, toy, moco_file, flags, message):
    out = tmp_path / "out"
    assert message in refused(capsys, out, *common(moco_file, toy, out), *QUICK, *flags)


def test_weights_of_another_detector(capsys, tmp_path, toy, moco_file):
    out = tmp_path / "out"
    arguments = [*common(moco_file, toy, out), *QUICK, "--eval-only", "--weights", moco_file]
    assert "[detection.weights_mismatch]" in refused(capsys, out, *arguments)


def test_weights_never_replace_the_record_of_a_run(capsys, toy, moco_file, finished):
    arguments = [*common(moco_file, toy, finished), *QUICK, "--eval-only"]
    error = refused(capsys, finished, *arguments, "--weights", finished / "model_final.pth")
    assert "give --weights another --output-dir" in error


def test_a_missing_checkpoint(capsys, tmp_path, toy):
    out = tmp_path / "out"
    error = refused(capsys, out, *common(tmp_path / "nothing.pth", toy, out))
    assert "nothing.pth" in error


def test_an_output_folder_that_is_a_file(capsys, tmp_path, toy, moco_file):
    out = tmp_path / "out"
    out.write_text("")
    assert "is a file" in refused(capsys, out, *common(moco_file, toy, out))


def test_a_loss_that_is_not_finite_says_what_to_do(capsys, tmp_path, toy, moco_file):
    arguments = [*common(moco_file, toy, tmp_path / "out"), *QUICK]
    status, error = transfer(capsys, *arguments, "SOLVER.BASE_LR", "1e18")
    assert status == 2
    assert "[detection.loss_not_finite]" in error[0]


def test_two_processes_on_cpus_train_one_model(tmp_path, toy, moco_file):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(TOOL)),
        *map(str, common(moco_file, toy, tmp_path)),
        *QUICK,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ,
                          "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = record(tmp_path)
    assert found["metrics"]["bbox/AP"] is not None
    assert any("naiveSyncBN" in note for note in found["notes"])


def test_an_image_of_the_second_process_alone_stops_all(tmp_path, toy, moco_file):
    data = broken_copy(toy, tmp_path)
    # the stream of seed 0, of which the second of two processes takes every second image
    register_detection_sets(data)
    samples = training_samples(load_config(packaged_protocol("coco", "toy")))
    order = TrainingSampler(len(samples), seed=0)._infinite_indices()
    path = Path([samples[next(order)] for _ in range(2)][1]["file_name"])
    path.write_bytes(path.read_bytes()[:200])
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(TOOL)),
        *map(str, common(moco_file, data, tmp_path / "out")),
        *QUICK,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "error in process 1: the image" in done.stderr
    assert path.name in done.stderr


@pytest.mark.parametrize("tool", sorted(TOOL.parent.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_help_answers_at_once(tool):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(tool), "--help"], capture_output=True, text=True)
    assert time.perf_counter() - start < 1  # 0.3 s on an idle machine; tests may share theirs
    assert done.returncode == 0
    assert "python eval_tools/" in done.stdout
