"""Transfer to detection end to end, on toy data."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import TrainingSampler

from tests.detectron.backbones import make_state_dict
from tests.faults.processes import Process, torchrun_environments
from tests.run_states import assert_equal, content_of
from tests.selection import whole_only
from virtex.checkpoints.loading import load_backbone
from virtex.cli import run_tool
from virtex.detectron import trainer
from virtex.detectron.datasets import register_detection_sets, training_samples
from virtex.detectron.gallery import figure_names
from virtex.detectron.settings import load_config
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import packaged_protocol

TOOL = Path(detectron2_transfer.__file__)
ITERATIONS = 6
QUICK = [
    *("SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.STEPS", "(4,)", "SOLVER.CHECKPOINT_PERIOD", "3"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "TEST.PRECISE_BN.NUM_ITER", "2"),
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
]
TWO_ITERATIONS = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "SOLVER.WARMUP_ITERS", "1"]


@pytest.fixture(scope="session")
def moco_file(tmp_path_factory):
    """A ResNet-18 in MoCo v2's format."""
    path = tmp_path_factory.mktemp("checkpoints") / "moco_v2.pth.tar"
    torch.save({"epoch": 1, "state_dict": as_moco(make_state_dict("resnet18"))}, path)
    return path


def as_moco(weights):
    queries = {f"module.encoder_q.{k}": v for k, v in weights.items()}
    keys = {f"module.encoder_k.{k}": v + 1 for k, v in weights.items() if v.is_floating_point()}
    return {**queries, **keys, "module.queue": torch.rand(8, 4)}


def run(*arguments):
    """Run the tool in this process and return its exit status."""
    with pytest.raises(SystemExit) as exited:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), map(str, arguments))
    return exited.value.code


def common(checkpoint, toy, out, task="coco"):
    return [
        *("--checkpoint", checkpoint, "--task", task, "--protocol", "toy", "--data-root", toy),
        *("--output-dir", out, "--num-gpus", "0"),
    ]


def record(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, toy, moco_file):
    """A finished COCO run; tests change copies only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(*common(moco_file, toy, out), *QUICK) == 0
    return out


@pytest.fixture
def finished_copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_record(finished, moco_file):
    found = record(finished)
    assert (found["task"], found["protocol"]["name"]) == ("coco", "toy/coco")
    assert {override["key"] for override in found["protocol"]["overrides"]} == {
        "SOLVER.MAX_ITER",
        "SOLVER.STEPS",
        "SOLVER.IMS_PER_BATCH",
        "SOLVER.WARMUP_ITERS",
        "TEST.PRECISE_BN.NUM_ITER",
        "INPUT.MIN_SIZE_TRAIN",
        "INPUT.MIN_SIZE_TEST",
    }
    assert found["primary_metric"] in found["metrics"]
    assert {"bbox/AP", "bbox/AP50", "segm/AP"} <= set(found["metrics"])
    model = found["model"]
    assert (model["format"], model["source"]) == ("moco", str(moco_file))
    assert model["arch"]["name"] == "resnet18"
    assert model["coverage"]["complete"]
    assert found["verification"]["tensors"] == {"compared": 100, "equal": True}
    assert max(found["verification"]["features"].values()) <= 1e-4
    assert found["data"]["coco_2017_val"]["images"] == 8
    assert_classes_explain(found)
    assert found["environment"]["detectron2"]["distribution"] in ("official", "python-only")
    assert found["timing"]["train_seconds"] > 0


def assert_classes_explain(found):
    """The metrics of a record are the means of those of the classes."""
    ((_, table),) = found["details"]["per_class"].items()
    for name in table[0].keys() - {"class", "objects"}:
        values = [row[name] for row in table if row[name] is not None]
        assert np.mean(values) == pytest.approx(found["metrics"][name], abs=1e-9)
    counted = [row for row in table if row["objects"]]
    assert counted and all(row["bbox/AP"] is not None for row in counted)


def test_output_files(finished):
    figures = sorted((finished / "gallery").glob("*.jpg"))
    assert len(figures) == 8
    height, width = cv2.imread(str(figures[0])).shape[:2]
    assert width > height  # predictions and ground truth side by side
    lines = [json.loads(line) for line in (finished / "metrics.json").read_text().splitlines()]
    assert lines[-2]["iteration"] == ITERATIONS - 1
    assert lines[-2]["total_loss"] > 0
    assert lines[-1]["iteration"] == ITERATIONS
    assert lines[-1]["bbox/AP"] == record(finished)["metrics"]["bbox/AP"]
    assert list(finished.glob("events.out.tfevents.*"))
    with (finished / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = record(finished)["details"]["per_class"]["coco_2017_val"]
    assert [row["class"] for row in rows] == [row["class"] for row in table]
    assert rows[0]["dataset"] == "coco_2017_val"
    assert "deviates from its protocol" in (finished / "log.txt").read_text()


def test_figures_of_equal_names_are_kept():
    images = ["a/1.jpg", "b/1.jpg", "c/1_2.jpg", "d/1.png", "2.jpg"]
    assert figure_names(images) == ["1.jpg", "1_2.jpg", "1_2_2.jpg", "1_3.jpg", "2.jpg"]
    assert all(len(os.fsencode(name)) < 220 for name in figure_names([251 * "é" + ".jpg"] * 2))


def test_trained_detector_is_a_checkpoint(finished):
    backbone = load_backbone(str(finished / "model_final.pth"))
    assert backbone.arch.name == "resnet18"
    assert backbone.input.channel_order == "RGB"
    assert backbone.source.coverage.complete


@pytest.mark.parametrize(
    ("task", "metric"), [*whole_only(("lvis", "bbox/APr")), ("voc", "bbox/AP75")]
)
def test_other_tasks(tmp_path, toy, moco_file, task, metric):
    few = ("MODEL.RPN.POST_NMS_TOPK_TEST", "10")
    assert run(*common(moco_file, toy, tmp_path, task), *QUICK, *TWO_ITERATIONS, *few) == 0
    assert record(tmp_path)["task"] == task
    assert_classes_explain(record(tmp_path))
    assert metric in record(tmp_path)["metrics"]
    assert len(list((tmp_path / "gallery").glob("*.jpg"))) == 8


def test_zoo_config(tmp_path, toy, moco_file):
    arguments = common(moco_file, toy, tmp_path)
    arguments[2:6] = ["--config", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"]
    more = ["SOLVER.MAX_ITER", "1", "MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True"]
    assert run(*arguments, *QUICK, *more) == 0
    assert record(tmp_path)["protocol"]["name"] == "retinanet_R_50_FPN_1x"
    assert record(tmp_path)["task"] == "coco"  # that of its test set
    assert any("SOLVER.WARMUP_ITERS" in note for note in record(tmp_path)["notes"])


def test_eval_only_repeats_the_scores(toy, moco_file, finished_copy):
    before = record(finished_copy)
    (finished_copy / "result.json").unlink()
    other_training = [*QUICK, "SOLVER.BASE_LR", "0.5"]
    arguments = common(moco_file, toy, finished_copy)
    assert run(*arguments, *other_training, "--eval-only") == 0
    after = record(finished_copy)
    for key in ("metrics", "protocol", "data"):
        assert after[key] == before[key]


def test_eval_only_with_weights(tmp_path, toy, moco_file, finished):
    arguments = [*common(moco_file, toy, tmp_path), *QUICK, "--eval-only"]
    assert run(*arguments, "--weights", finished / "model_final.pth") == 0
    found = record(tmp_path)
    assert found["metrics"] == record(finished)["metrics"]
    assert "weights_sha256" in {override["key"] for override in found["protocol"]["overrides"]}
    entry = content_of(finished)["virtex_backbone"]
    assert entry["classes"] == MetadataCatalog.get("coco_2017_val").thing_classes


def test_weights_that_state_another_input_are_refused(capsys, tmp_path, toy, moco_file, finished):
    """Evaluated as RGB, a BGR detector has an AP near 0."""
    content = content_of(finished)
    del content["virtex_backbone"]
    torch.save(content, tmp_path / "weights.pth")
    out = tmp_path / "out"
    arguments = [*common(moco_file, toy, out), *QUICK, "--eval-only"]
    weights = ["--weights", tmp_path / "weights.pth"]
    (tmp_path / "config.yaml").write_text("INPUT: {FORMAT: BGR}\n")
    error = error_of(capsys, out, *arguments, *weights)
    assert "[detection.weights_mismatch]" in error
    assert "config.yaml.INPUT.FORMAT" in error
    (tmp_path / "config.yaml").unlink()
    assert run(*arguments, *weights) == 0
    assert any("channel_order, normalization" in note for note in record(out)["notes"])


def test_evaluation_does_not_change_training(tmp_path, toy, moco_file, finished):
    assert run(*common(moco_file, toy, tmp_path), *QUICK, "TEST.EVAL_PERIOD", "2") == 0
    # PreciseBN runs more often, which changes a counter that nothing reads
    often, once = (
        {k: v for k, v in content_of(folder)["model"].items() if "num_batches_tracked" not in k}
        for folder in (tmp_path, finished)
    )
    assert_equal(often, once)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert sum("bbox/AP" in line for line in lines) == ITERATIONS // 2


def test_unfinished_run_is_scored_apart_and_resumed(finished_copy, toy, moco_file, finished):
    for name in ("result.json", "model_final.pth"):
        (finished_copy / name).unlink()
    (finished_copy / "last_checkpoint").write_text("model_0000002.pth")
    arguments = [*common(moco_file, toy, finished_copy), *QUICK]
    assert run(*arguments, "--eval-only") == 0
    assert not (finished_copy / "result.json").exists()
    overrides = record(finished_copy / "evaluation_0000003")["protocol"]["overrides"]
    assert {o["key"]: o["run"] for o in overrides}["iterations_trained"] == 3
    assert run(*arguments, "--resume") == 0
    assert_equal(content_of(finished_copy), content_of(finished))
    assert record(finished_copy)["metrics"] == record(finished)["metrics"]


# --- accumulation, mixed precision, moving average of weights, torch.compile ------------------

OPTIONS = {
    **{"SOLVER.ACCUMULATE": 2, "SOLVER.AMP.ENABLED": True},
    **{"MODEL_EMA.ENABLED": True, "MODEL_EMA.DECAY": 0.5},
}
SHORT = {
    **{"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "(1,)", "SOLVER.CHECKPOINT_PERIOD": 1},
    **{"TEST.PRECISE_BN.NUM_ITER": 1, "MODEL.RPN.POST_NMS_TOPK_TEST": 10},
    **{"MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8},
    **{"MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16},
}
SMALL_RUN = [*itertools.chain(*SHORT.items())]
WITH_OPTIONS = [*QUICK, *SMALL_RUN, *itertools.chain(*OPTIONS.items())]


@pytest.fixture(scope="session")
def with_options(tmp_path_factory, toy, moco_file):
    """A finished run with all options; tests change copies only."""
    out = tmp_path_factory.mktemp("options") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "ESTIMATE_AFTER", 2)
        assert run(*common(moco_file, toy, out), *WITH_OPTIONS) == 0
    return out


def test_options_are_recorded(with_options, finished):
    found = record(with_options)
    overrides = {override["key"]: override["run"] for override in found["protocol"]["overrides"]}
    assert overrides.items() >= OPTIONS.items()
    assert found["environment"]["precision"] == "bfloat16"
    assert record(finished)["environment"]["precision"] == "float32"
    assert any("model_final.pth" in note for note in found["notes"])
    assert found["environment"]["peak_memory"]["kind"] == "max_rss"
    assert 0.1 < found["environment"]["peak_memory"]["gib"] < 100
    assert (with_options / "log.txt").read_text().count("iterations/s") == 1


def test_model_final_holds_the_moving_average(with_options):
    content = content_of(with_options)
    average, trained = content["model"], content["trained_model"]
    differing = {name for name in average if not torch.equal(average[name], trained[name])}
    weights = {name for name in average if name.endswith((".weight", ".bias"))}
    assert len(differing & weights) > 0.9 * len(weights)
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.testing.assert_close(average[name], trained[name], atol=0.05, rtol=0)
    for path in (with_options / "model_final.pth", with_options / "model_0000000.pth"):
        assert load_backbone(str(path)).source.coverage.complete


def test_options_resume_exactly(with_options, tmp_path, toy, moco_file):
    out = Path(shutil.copytree(with_options, tmp_path / "copy"))
    for name in ("result.json", "model_final.pth"):
        (out / name).unlink()
    (out / "last_checkpoint").write_text("model_0000000.pth")
    arguments = common(moco_file, toy, out)
    assert run(*arguments, *WITH_OPTIONS, "--resume") == 0
    assert_equal(content_of(out), content_of(with_options))
    assert record(out)["metrics"] == record(with_options)["metrics"]
    (out / "result.json").unlink()
    # the checkpoint holds what is evaluated, however it was trained
    assert run(*arguments, *QUICK, *SMALL_RUN, "--eval-only") == 0
    assert record(out)["metrics"] == record(with_options)["metrics"]


@pytest.mark.whole
def test_retinanet_resumes_exactly(tmp_path, toy, moco_file):
    arguments = common(moco_file, toy, tmp_path)
    arguments[2:6] = ["--config", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"]
    small = ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.RETINANET.NUM_CONVS", "1"]
    norms = ["MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True"]
    every = ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.BASE_LR", "0.001"]
    arguments += [*QUICK, *TWO_ITERATIONS, *small, *norms, *every]
    assert run(*arguments) == 0
    content = content_of(tmp_path)
    for name in ("result.json", "model_final.pth"):
        (tmp_path / name).unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    assert run(*arguments, "--resume") == 0
    assert_equal(content_of(tmp_path), content)
    assert content["loss_normalizer"] != {"loss_normalizer": 100.0}


@pytest.mark.whole
def test_micro_batches_train_as_two_processes(tmp_path, toy, moco_file, started):
    """The same images and sampled regions; without batch norm of a batch, the same weights."""
    norms = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", ""]
    arguments = [*QUICK, *SMALL_RUN, *norms, "SOLVER.BASE_LR", "0.001"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*common(moco_file, toy, one), *arguments, "SOLVER.ACCUMULATE", "2") == 0
    for process in [
        started(Process(detectron2_transfer.__name__, command, tmp_path / f"{rank}", environment))
        for rank, environment in enumerate(torchrun_environments(2))
        for command in [[*common(moco_file, toy, two), *arguments]]
    ]:
        process.succeeds()
    accumulated, together = content_of(one)["model"], content_of(two)["model"]
    torch.testing.assert_close(accumulated, together, atol=1e-6, rtol=1e-5)
    losses = [
        [json.loads(line)["total_loss"] for line in (out / "metrics.json").open() if "loss" in line]
        for out in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- invalid input: exit status 2, nothing written -------------------------------------------


def error_of(capsys, out, *arguments):
    """Return the error of a command that must fail without changing ``out``."""
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(*arguments) == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["SOLVER.BASE_LR", "0.001"], "SOLVER.BASE_LR"),
        (["--skip-bad-images"], "skip_bad_images"),
        (["--seed", "1"], "seed"),
    ],
)
def test_resume_with_other_settings(capsys, toy, moco_file, finished, changed, named):
    arguments = [*common(moco_file, toy, finished), *QUICK, *changed, "--resume"]
    error = error_of(capsys, finished, *arguments)
    assert "[resume.mismatch]" in error and named in error


@pytest.mark.parametrize("flag", ["--resume", "--eval-only"])
def test_resume_with_other_detectron2(capsys, toy, moco_file, finished_copy, flag):
    path = finished_copy / "run.json"
    content = json.loads(path.read_text())
    content["identity"]["options"]["detectron2"] = {"version": "0.1", "distribution": "official"}
    path.write_text(json.dumps(content))
    arguments = [*common(moco_file, toy, finished_copy), *QUICK, flag]
    error = error_of(capsys, finished_copy, *arguments)
    assert "[resume.mismatch]" in error and "detectron2" in error


def test_resume_with_other_checkpoint_or_task(capsys, tmp_path, toy, moco_file, finished):
    other = tmp_path / "other.pth"
    torch.save({"state_dict": as_moco(make_state_dict("resnet18", seed=1))}, other)
    for arguments in (common(other, toy, finished), common(moco_file, toy, finished, "voc")):
        error = error_of(capsys, finished, *arguments, *QUICK, "--resume")
        assert "[resume.mismatch]" in error


def test_resume_with_relabeled_data(capsys, tmp_path, toy, moco_file, finished):
    data = copy_of(toy, tmp_path)
    path = data / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = content["categories"][-1]["id"]
    path.write_text(json.dumps(content))
    arguments = [*common(moco_file, data, finished), *QUICK, "--resume"]
    error = error_of(capsys, finished, *arguments)
    assert "[resume.mismatch]" in error and "coco_2017_train" in error


@pytest.mark.parametrize("damage", [{"iteration": "5"}, {"stopwatch": 1.0}])
def test_eval_only_with_damaged_progress(capsys, toy, moco_file, finished_copy, damage):
    path = finished_copy / "model_final.pth"
    torch.save(torch.load(path, weights_only=True) | damage, path)
    arguments = [*common(moco_file, toy, finished_copy), *QUICK, "--eval-only"]
    error = error_of(capsys, finished_copy, *arguments)
    assert "[resume.invalid_checkpoint]" in error and next(iter(damage)) in error


def copy_of(toy, tmp_path):
    return Path(shutil.copytree(toy, tmp_path / "data"))


def test_missing_data_is_listed(capsys, tmp_path, moco_file):
    out = tmp_path / "out"
    error = error_of(capsys, out, *common(moco_file, tmp_path / "nowhere", out))
    for name in ("coco/train2017", "coco/val2017", "instances_train2017", "instances_val2017"):
        assert name in error


def test_broken_annotations_are_named(capsys, tmp_path, toy, moco_file):
    data, out = copy_of(toy, tmp_path), tmp_path / "out"
    path = data / "coco/annotations/instances_train2017.json"
    path.write_text(path.read_text()[:1000])
    assert str(path) in error_of(capsys, out, *common(moco_file, data, out), *QUICK)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_missing_image_is_named(capsys, tmp_path, toy, moco_file, split):
    data, out = copy_of(toy, tmp_path), tmp_path / "out"
    content = json.loads((data / f"coco/annotations/instances_{split}.json").read_text())
    path = data / "coco" / split / content["images"][1]["file_name"]
    path.unlink()
    error = error_of(capsys, out, *common(moco_file, data, out), *QUICK)
    assert "[data.missing]" in error and str(path) in error


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_unreadable_image_stops_the_run(capsys, tmp_path, toy, moco_file, split):
    data, out = copy_of(toy, tmp_path), tmp_path / "out"
    paths = sorted((data / "coco" / split).iterdir())
    for path in paths if split == "train2017" else paths[:1]:
        path.write_bytes(path.read_bytes()[:200])
    # images of a test set are never skipped
    skip = ["--skip-bad-images"] if split == "val2017" else []
    assert run(*common(moco_file, data, out), *QUICK, *skip) == 2
    error = capsys.readouterr().err
    assert "[data.image]" in error and split in error
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["INPUT.FORMAT", "BGR"], "config.invalid_override"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "5"], "config.invalid_override"),
        (["MODEL.ROI_HEADS.NAME", "NoSuchHeads"], "config.model"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "config.invalid_value"),
        (["MODEL.RETINANET.NUM_CONVS", "2"], "config.no_effect"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "config.input"),
        (["DATASETS.TEST", "()"], "config.no_test_set"),
        (["SOLVER.STEPS", "(5, 2)"], "config.solver"),
        (["SOLVER.LR_SCHEDULER_NAME", "Other"], "config.solver"),
        (["SOLVER.AMP.DTYPE", "bfloat16"], "config.no_effect"),
        (["MODEL_EMA.DECAY", "0.9"], "config.no_effect"),
        (["SOLVER.ACCUMULATE", "3"], "config.batch_size"),
    ],
)
def test_invalid_setting(capsys, tmp_path, toy, moco_file, overrides, code):
    out = tmp_path / "out"
    error = error_of(capsys, out, *common(moco_file, toy, out), *QUICK, *overrides)
    assert f"[{code}]" in error


def test_norm_without_pretrained_weights(capsys, tmp_path, toy, moco_file):
    out = tmp_path / "out"
    arguments = [*common(moco_file, toy, out), *QUICK, "MODEL.RESNETS.NORM", "GN"]
    assert "FrozenBN" in error_of(capsys, out, *arguments)


def test_eval_only_needs_matching_weights(capsys, tmp_path, toy, moco_file, finished):
    out = tmp_path / "out"
    arguments = [*common(moco_file, toy, out), *QUICK, "--eval-only"]
    assert "[run.no_checkpoint]" in error_of(capsys, out, *arguments)
    error = error_of(capsys, out, *arguments, "--weights", moco_file)
    assert "[detection.weights_mismatch]" in error
    # nor do other weights replace the record of a run
    arguments = [*common(moco_file, toy, finished), *QUICK, "--eval-only"]
    error = error_of(capsys, finished, *arguments, "--weights", finished / "model_final.pth")
    assert "[run.exists]" in error


@pytest.mark.parametrize(
    "flags",
    [
        ["--eval-only", "--overwrite"],
        ["--weights", "x.pth"],
        ["--config", "x.yaml"],
    ],
)
def test_conflicting_flags(capsys, tmp_path, toy, moco_file, flags):
    out = tmp_path / "out"
    assert flags[0] in error_of(capsys, out, *common(moco_file, toy, out), *flags)


def test_loss_must_be_finite(capsys, tmp_path, toy, moco_file):
    arguments = [*common(moco_file, toy, tmp_path / "out"), *QUICK, "SOLVER.BASE_LR", "1e18"]
    assert run(*arguments) == 2
    assert "[detection.loss_not_finite]" in capsys.readouterr().err


# --- two processes ---------------------------------------------------------------------------


def test_two_processes(tmp_path, toy, moco_file, started):
    out = tmp_path / "out"
    arguments = [*common(moco_file, toy, out), *QUICK, *TWO_ITERATIONS]
    processes = [
        started(Process(detectron2_transfer.__name__, arguments, tmp_path / f"{rank}", environment))
        for rank, environment in enumerate(torchrun_environments(2))
    ]
    for process in processes:
        process.succeeds()
    assert record(out)["metrics"]["bbox/AP"] is not None
    assert record(out)["environment"]["processes"] == 2
    assert any("naiveSyncBN" in note for note in record(out)["notes"])


@pytest.mark.whole
def test_error_in_second_process_stops_both(tmp_path, toy, moco_file):
    data = copy_of(toy, tmp_path)
    # the second image of the stream belongs to the second process
    register_detection_sets(data)
    samples = training_samples(load_config(packaged_protocol("coco", "toy")))
    order = TrainingSampler(len(samples), seed=0)._infinite_indices()
    path = Path([samples[next(order)] for _ in range(2)][1]["file_name"])
    path.write_bytes(path.read_bytes()[:200])
    command = [*(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"), TOOL]
    done = subprocess.run(
        list(map(str, [*command, *common(moco_file, data, tmp_path / "out"), *QUICK])),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert path.name in done.stderr
