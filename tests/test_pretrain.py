"""Pretraining end to end: captioned images go in, a backbone every tool here takes comes out."""

import io
import json
import math
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceTrainer

from tests.pretraining_runs import (
    CAPTIONS,
    ITERATIONS,
    SMALL,
    VAL_IMAGES,
    VOCABULARY,
    arguments,
    command,
    files_in,
    record_of,
    status_of,
    trained,
    training_lines,
    validation_lines,
    weights_of,
    write_data,
)
from tests.run_states import assert_equal, content_of
from virtex.checkpoints.loading import load_backbone
from virtex.config import load_config
from virtex.data.captions import read_captions
from virtex.data.streams import TrainingStream
from virtex.data.tokenizer import train_tokenizer
from virtex.engine.loop import amp_dtype
from virtex.engine.randomness import seed_everything
from virtex.optim.schedules import multiplier
from virtex.pretraining.models.build import build_model


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("pretraining_data") / "data")


@pytest.fixture
def out(tmp_path):
    """An output folder that is not there yet; deleted after the test, for checkpoints are large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run, to look at and never to change."""
    folder = tmp_path_factory.mktemp("finished")
    yield trained(data, folder / "run")
    shutil.rmtree(folder)


@pytest.fixture
def copy_of_finished(finished, out):
    return Path(shutil.copytree(finished, out))


@pytest.fixture
def copy_of_data(data, tmp_path):
    return Path(shutil.copytree(data, tmp_path / "data"))


# --- every task ----------------------------------------------------------------------------------

NONE = {"MODEL__TEXTUAL__NAME": "none"}
ADAMW = {"OPTIM__OPTIMIZER_NAME": "adamw", "OPTIM__LR": 0.001, "OPTIM__CNN_LR": 0.001}
NO_LOOKAHEAD = {"OPTIM__LOOKAHEAD__USE": False}
TASKS = {
    "bicaptioning": {},
    "captioning": ADAMW,
    "masked_lm": NO_LOOKAHEAD,
    "token_classification": NONE,
    "multilabel_classification": NONE | ADAMW | NO_LOOKAHEAD,
}
LOSSES = {
    "bicaptioning": ["captioning_forward", "captioning_backward"],
    "captioning": ["captioning_forward"],
    "masked_lm": ["masked_lm"],
    "token_classification": ["classification"],
    "multilabel_classification": ["classification"],
}


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def run_of(task, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(task)
    yield trained(data, folder / "run", **TASKS[task], MODEL__NAME=task, OPTIM__NUM_ITERATIONS=4)
    shutil.rmtree(folder)


def test_every_task_trains_and_its_losses_are_finite(run_of, task):
    lines = training_lines(run_of)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    for line in (*lines, *validation_lines(run_of)):
        part = "train" if "train/loss" in line else "val"
        losses = [line[f"{part}/{name}"] for name in LOSSES[task]]
        assert all(math.isfinite(loss) and loss > 0 for loss in losses)
        assert line[f"{part}/loss"] == pytest.approx(sum(losses))
    assert lines[-1]["train/loss"] != lines[0]["train/loss"]


def test_every_task_leaves_config_vocabulary_record_and_curves(run_of, task, data):
    config = load_config(run_of / "pretrain_config.yaml")
    assert task == config.MODEL.NAME
    assert config.DATA.IMAGE_CROP_SIZE == 32
    vocabulary = run_of / "tokenizer.model"
    if task == "multilabel_classification":
        assert not vocabulary.exists()
    else:
        assert vocabulary.read_bytes() == (data / "vocab/toy.model").read_bytes()
    record = record_of(run_of)
    assert (record["task"], record["iterations"], record["seed"]) == (task, 4, 0)
    assert record["data"]["val"]["images"] <= VAL_IMAGES
    assert record["metrics"] == {
        key: value for key, value in validation_lines(run_of)[-1].items() if key != "iteration"
    }
    assert list(run_of.glob("events.out.tfevents.*"))
    assert "iter: 4  loss: " in (run_of / "log.txt").read_text()


def test_the_checkpoint_of_every_task_is_a_complete_backbone(run_of):
    backbone = load_backbone(run_of / "model_final.pth")
    assert backbone.source.format == "virtex"
    assert backbone.arch.name == "resnet18"
    assert backbone.source.coverage.complete
    inside = {
        name.removeprefix("visual.cnn."): tensor
        for name, tensor in weights_of(run_of).items()
        if name.startswith("visual.cnn.")
    }
    assert_equal(dict(backbone.state_dict), inside)


def test_the_optimizer_that_is_asked_for_trains(run_of, task):
    content = content_of(run_of)
    kinds = {key for state in content["optimizer"]["state"].values() for key in state}
    wanted = "exp_avg" if TASKS[task].items() >= ADAMW.items() else "momentum_buffer"
    assert wanted in kinds
    assert ("lookahead" in content) == (not TASKS[task].items() >= NO_LOOKAHEAD.items())


def test_lookahead_changes_the_weights(data, out):
    runs = [
        trained(data, out / str(use), OPTIM__NUM_ITERATIONS=3, OPTIM__LOOKAHEAD__USE=use)
        for use in (True, False)
    ]
    name = "textual.output.weight"
    assert not torch.equal(*(weights_of(run)[name] for run in runs))


# --- what a run leaves ---------------------------------------------------------------------------


def test_every_checkpoint_and_the_last_iteration_are_validated(finished):
    assert [line["iteration"] for line in validation_lines(finished)] == [5, 10, ITERATIONS]
    assert content_of(finished)["iteration"] == ITERATIONS
    assert sorted(path.name for path in finished.glob("model_*")) == [
        "model_0000005.pth",
        "model_0000010.pth",
        "model_final.pth",
    ]


def test_a_run_learns_something(finished):
    losses = [line["train/loss"] for line in training_lines(finished)]
    assert losses[-1] < 0.95 * losses[0]
    assert losses[0] == pytest.approx(2 * math.log(VOCABULARY), rel=0.02)  # both directions


def test_predictions_stand_beside_the_truth_in_the_log(finished, data):
    first = read_captions(data / "coco", "val")[0]
    line = f"image {first.image_id}: {first.captions[0].lower()[:20]}"
    assert line in (finished / "log.txt").read_text()


# --- seeds ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_one_other_weights(data, out):
    first, second, third = (
        content_of(trained(data, out / name, "--seed", seed, OPTIM__NUM_ITERATIONS=2))
        for name, seed in (("first", 1), ("second", 1), ("third", 2))
    )
    assert_equal(first, second)
    name = "visual.cnn.layer4.1.conv2.weight"
    assert not torch.equal(first["model"][name], third["model"][name])


def test_the_seed_of_the_config_is_that_of_the_flag(data, out):
    first = trained(data, out / "first", OPTIM__NUM_ITERATIONS=2, RANDOM_SEED=5)
    second = trained(data, out / "second", "--seed", "5", OPTIM__NUM_ITERATIONS=2)
    assert_equal(weights_of(first), weights_of(second))


def test_no_iterations_save_the_model_as_it_is_initialized(data, out):
    none = {"OPTIM.NUM_ITERATIONS": 0, "OPTIM.WARMUP_STEPS": 0}
    saved = weights_of(trained(data, out, **none))
    seed_everything("weights", 0)
    overrides = [word for pair in (SMALL | none).items() for word in pair]
    assert_equal(
        saved, build_model(load_config("toy/bicaptioning_R_18_L1_H256", overrides)).state_dict()
    )
    trained(data, out, "--resume", **none)  # finished, so that nothing is done
    assert load_backbone(str(out / "model_final.pth")).arch.name == "resnet18"


def test_a_frozen_backbone_stays_as_it_was_with_its_statistics(data, out):
    frozen = {"MODEL.VISUAL.FROZEN": True, "OPTIM.NUM_ITERATIONS": 3}
    after = weights_of(trained(data, out, **frozen))
    seed_everything("weights", 0)
    overrides = [word for pair in (SMALL | frozen).items() for word in pair]
    before = build_model(load_config("toy/bicaptioning_R_18_L1_H256", overrides)).state_dict()
    assert before.keys() == after.keys()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("visual.")} <= kept
    assert "textual.output.weight" not in kept


# --- resuming ------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(data, finished, capsys):
    before = files_in(finished)
    assert status_of(arguments(data, finished, "--resume")) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert files_in(finished) == before


def test_a_run_killed_before_its_last_validation_is_validated_and_recorded(
    data, finished, copy_of_finished
):
    (copy_of_finished / "pretraining.json").unlink()
    metrics = copy_of_finished / "metrics.json"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:-1]))
    assert "val/loss" in lines[-1]
    trained(data, copy_of_finished, "--resume")
    assert record_of(copy_of_finished)["metrics"] == record_of(finished)["metrics"]
    assert validation_lines(copy_of_finished) == validation_lines(finished)
    assert_equal(content_of(copy_of_finished), content_of(finished))


def test_a_longer_run_follows_the_schedule_of_its_new_length(data, copy_of_finished):
    longer = ITERATIONS + 3
    trained(data, copy_of_finished, "--resume", OPTIM__NUM_ITERATIONS=longer)
    config = load_config(copy_of_finished / "pretrain_config.yaml")
    assert longer == config.OPTIM.NUM_ITERATIONS
    rates = {line["iteration"]: line["lr/rest"] for line in training_lines(copy_of_finished)}
    assert list(rates) == list(range(1, longer + 1))
    for iteration in range(ITERATIONS + 1, longer + 1):
        expected = config.OPTIM.LR * multiplier(iteration, config.OPTIM)
        assert rates[iteration] == pytest.approx(expected, abs=1e-12)
    assert rates[ITERATIONS] == 0.0  # the old length's end
    assert rates[ITERATIONS + 1] > 0.0
    assert record_of(copy_of_finished)["iterations"] == longer
    assert content_of(copy_of_finished)["iteration"] == longer


def test_a_broken_image_is_named_and_the_run_goes_on_when_it_is_mended(
    copy_of_data, finished, out, capsys
):
    items = read_captions(copy_of_data / "coco", "train")
    batches = iter(TrainingStream(len(items), SMALL["OPTIM.BATCH_SIZE"], seed=0))
    order = [index for _ in range(6) for _, index in next(batches)]
    broken = items[order[-1]].file  # of the sixth batch, seen for the first time there
    assert order.index(order[-1]) == len(order) - 1
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert status_of(arguments(copy_of_data, out)) == 2
    error = capsys.readouterr().err.strip()
    assert str(broken) in error
    assert "\n" not in error
    assert not (out / "pretraining.json").exists()
    assert_equal(content_of(out, "model_0000005.pth"), content_of(finished, "model_0000005.pth"))
    broken.write_bytes(whole)
    trained(copy_of_data, out, "--resume")
    assert_equal(content_of(out), content_of(finished))
    assert training_lines(out) == training_lines(finished)


def test_a_loss_that_is_not_finite_says_where_and_what_to_do(data, out, capsys):
    assert status_of(arguments(data, out, OPTIM__LR=1e30, OPTIM__CLIP_GRAD_NORM=0)) == 2
    error = capsys.readouterr().err
    assert "at iteration " in error
    assert "images " in error
    assert "lower the learning rate" in error


def test_a_resumed_run_may_lower_its_learning_rate_and_the_record_says_since_when(data, out):
    trained(data, out)
    trained(data, out, "--resume", OPTIM__LR=0.01, OPTIM__NUM_ITERATIONS=ITERATIONS + 3)
    assert record_of(out)["changes"] == [
        {"iteration": ITERATIONS, "setting": "OPTIM.NUM_ITERATIONS", "before": 12, "now": 15},
        {"iteration": ITERATIONS, "setting": "OPTIM.LR", "before": 0.05, "now": 0.01},
    ]
    trained(data, out, "--resume", OPTIM__LR=0.01, OPTIM__NUM_ITERATIONS=ITERATIONS + 5)
    assert [change["now"] for change in record_of(out)["changes"]] == [15, 0.01, 17]


def test_the_record_names_what_departs_from_the_named_config(finished):
    record = record_of(finished)
    departed = {d["key"]: (d["protocol"], d["run"]) for d in record["deviations"]}
    assert departed["OPTIM.NUM_ITERATIONS"][1] == ITERATIONS
    assert departed["DATA.IMAGE_CROP_SIZE"][1] == 32
    assert set(departed) == set(SMALL)
    assert record["changes"] == []


def test_weights_lost_in_the_last_step_are_no_result(data, out, capsys):
    settings = {"OPTIM__LR": 1e38, "OPTIM__CNN_LR": 1e38, "OPTIM__WARMUP_STEPS": 0}
    assert status_of(arguments(data, out, OPTIM__NUM_ITERATIONS=1, **settings)) == 2
    assert "not finite" in capsys.readouterr().err
    assert not (out / "pretraining.json").exists()


def test_one_small_image_a_process_is_refused(data, out, capsys):
    argv = arguments(data, out, OPTIM__BATCH_SIZE=1)
    assert "BatchNorm" in refused_in_a_line(capsys, out, argv)


def test_a_broken_record_is_no_finished_run(data, copy_of_finished):
    (copy_of_finished / "pretraining.json").write_text("{}")
    trained(data, copy_of_finished, "--resume")
    assert record_of(copy_of_finished)["iterations"] == ITERATIONS


def test_mixed_precision_is_for_gpus():
    config = load_config("bicaptioning_R_50_L1_H512")
    assert amp_dtype(config, torch.device("cpu")) is None


# --- help ----------------------------------------------------------------------------------------


def test_the_packaged_configs_are_listed(capsys):
    assert status_of(["--list-configs"]) == 0
    assert "width_ablations/bicaptioning_R_50_L1_H512\n" in capsys.readouterr().out


def test_a_config_is_printed_as_it_would_be_run(tmp_path, capsys):
    argv = ["--config", "bicaptioning_R_50_L1_H2048", "--print-config", "OPTIM.LR", "0.5"]
    assert status_of(argv) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    expected = load_config("bicaptioning_R_50_L1_H2048", ["OPTIM.LR", "0.5"])
    assert load_config(tmp_path / "printed.yaml") == expected


def test_without_a_config_the_way_to_the_names_is_told(capsys):
    assert status_of([]) == 2
    assert "--list-configs" in capsys.readouterr().err


def test_bad_images_are_left_out_where_that_is_asked(copy_of_data, out, finished):
    broken = sorted((copy_of_data / "coco/train2017").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:500])
    trained(copy_of_data, out, "--skip-bad-images", OPTIM__NUM_ITERATIONS=7)
    assert f"left out: the image {broken}" in (out / "log.txt").read_text()


# --- several processes ---------------------------------------------------------------------------


def test_two_processes_train_and_validate_as_one_does(data, out):
    """With a backbone that normalizes by itself, so that the batches do not matter."""
    same = {"MODEL__VISUAL__FROZEN": True, "MODEL__TEXTUAL__DROPOUT": 0.0}
    alone = trained(data, out / "alone", **same)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("-m", "virtex.pretrain", *arguments(data, out / "two", **same)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = out / "two"
    assert record_of(two)["environment"]["processes"] == 2
    for one, other in zip(validation_lines(alone), validation_lines(two), strict=True):
        assert other == pytest.approx(one, rel=1e-6)
    for one, other in zip(training_lines(alone), training_lines(two), strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    for name, tensor in weights_of(alone).items():
        torch.testing.assert_close(weights_of(two)[name], tensor, rtol=0, atol=1e-5)


def test_a_batch_that_two_machines_cannot_share_is_refused(data, out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    flags = ("--num-machines", "2", "--dist-url", url, "--machine-rank")
    machines = [
        subprocess.Popen(
            command(data, out, *flags, rank, OPTIM__BATCH_SIZE=5), stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [2, 2], errors
    assert "error: a batch of 5 images cannot be shared evenly by 2 processes" in errors[0]
    assert not out.exists()


# --- bad input: one sentence, status 2, nothing written ---


def refused(capsys, out, argv):
    """The sentence with which the tool declines."""
    before = files_in(out)
    assert status_of(argv) == 2
    assert files_in(out) == before
    error = capsys.readouterr().err.strip()
    assert error.startswith("python -m virtex.pretrain: error: ")
    assert "Traceback" not in error
    return error


def refused_in_a_line(capsys, out, argv):
    error = refused(capsys, out, argv)
    assert "\n" not in error
    return error


def test_an_unknown_config_names_the_nearest(data, out, capsys):
    error = refused_in_a_line(capsys, out, arguments(data, out, config="bicaptoning_R_18_L1_H256"))
    assert "bicaptioning_R_18_L1_H256" in error


def test_a_data_root_without_the_files_lists_them_all(tmp_path, out, capsys):
    error = refused(capsys, out, arguments(tmp_path / "nowhere", out))
    for path in ("coco/train2017", "coco/val2017", "captions_train2017.json", "captions_val2017"):
        assert str(tmp_path / "nowhere" / path.partition("captions")[0]) in error
        assert path in error


def test_a_missing_vocabulary_says_the_command_that_makes_one(copy_of_data, out, capsys):
    (copy_of_data / "vocab/toy.model").unlink()
    error = refused_in_a_line(capsys, out, arguments(copy_of_data, out))
    assert f"there is no vocabulary {copy_of_data / 'vocab/toy.model'}" in error
    assert "python -m virtex.data.tokenizer --captions" in error


def test_a_vocabulary_of_another_project_is_refused(copy_of_data, out, capsys):
    model = io.BytesIO()
    sentences = ["a red square and a blue circle on the left"] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=20, minloglevel=2
    )
    (copy_of_data / "vocab/toy.model").write_bytes(model.getvalue())
    error = refused_in_a_line(capsys, out, arguments(copy_of_data, out))
    assert "is foreign" in error
    assert "toy.model" in error


def test_a_vocabulary_that_the_model_has_no_room_for_is_refused(data, out, capsys):
    error = refused_in_a_line(capsys, out, arguments(data, out, DATA__VOCAB_SIZE=VOCABULARY - 1))
    assert f"set DATA.VOCAB_SIZE {VOCABULARY}" in error


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_without_captions_is_named(copy_of_data, out, capsys, split):
    path = copy_of_data / CAPTIONS.format(split)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    assert str(path) in refused_in_a_line(capsys, out, arguments(copy_of_data, out))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_image_is_named_before_training(copy_of_data, out, capsys, split):
    lost = read_captions(copy_of_data / "coco", split)[2].file
    lost.unlink()
    assert str(lost) in refused_in_a_line(capsys, out, arguments(copy_of_data, out))


def test_a_folder_with_another_run_is_refused(data, finished, capsys):
    error = refused_in_a_line(capsys, finished, arguments(data, finished))
    assert "holds another run" in error
    assert "--resume" in error
    assert "--overwrite" in error


@pytest.mark.parametrize(
    ("flags", "settings", "named"),
    [
        (("--seed", "1"), {}, "seed 0, not 1"),
        ((), {"OPTIM__WEIGHT_DECAY": 0.5}, "setting OPTIM.WEIGHT_DECAY 0.0001, not 0.5"),
        ((), {"MODEL__NAME": "captioning"}, "setting MODEL.NAME"),
    ],
)
def test_resume_with_another_seed_or_setting_is_refused(
    data, finished, capsys, flags, settings, named
):
    argv = arguments(data, finished, *flags, "--resume", **settings)
    assert f"was started with {named}" in refused_in_a_line(capsys, finished, argv)


def test_resume_with_another_vocabulary_is_refused(copy_of_data, finished, capsys):
    captions = ["a square on the left of a circle", "two red stars, a blue moon"]
    train_tokenizer(captions, 40, copy_of_data / "vocab/toy.model")
    argv = arguments(copy_of_data, finished, "--resume")
    assert "was started with tokenizer sha256" in refused_in_a_line(capsys, finished, argv)


def test_resume_with_other_images_is_refused(copy_of_data, finished, capsys):
    path = copy_of_data / CAPTIONS.format("train")
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "something else"
    path.write_text(json.dumps(content))
    argv = arguments(copy_of_data, finished, "--resume")
    assert "was started with training images" in refused_in_a_line(capsys, finished, argv)


def test_resume_with_fewer_iterations_than_are_done_is_refused(data, copy_of_finished, capsys):
    (copy_of_finished / "pretraining.json").unlink()
    argv = arguments(data, copy_of_finished, "--resume", OPTIM__NUM_ITERATIONS=6)
    error = refused_in_a_line(capsys, copy_of_finished, argv)
    assert f"iteration {ITERATIONS} already, more than the 6 asked for" in error


def test_overrides_that_are_no_pairs_are_refused(data, out, capsys):
    error = refused_in_a_line(capsys, out, [*arguments(data, out), "OPTIM.LR"])
    assert "overrides come in pairs KEY VALUE" in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"OPTIM__LERNING_RATE": 1}, "OPTIM.LERNING_RATE is not a setting"),
        ({"MODEL__VISUAL__NAME": "torchvision::resnet19"}, "near it: torchvision::resnet18"),
        ({"MODEL__VISUAL__FEATURE_SIZE": 7}, "MODEL.VISUAL.FEATURE_SIZE is 7"),
        ({"OPTIM__WARMUP_STEPS": 99}, "OPTIM.WARMUP_STEPS is 99"),
        ({"DATA__ROOT": "elsewhere"}, "must be a folder named coco"),
    ],
)
def test_a_wrong_setting_is_refused(data, out, capsys, settings, message):
    assert message in refused_in_a_line(capsys, out, arguments(data, out, **settings))


def test_more_gpus_than_there_are(data, out, capsys):
    argv = [*arguments(data, out), "--num-gpus", "4096"]
    assert "--num-gpus 0 runs on the CPU" in refused_in_a_line(capsys, out, argv)


# --- the folder ----------------------------------------------------------------------------------


def test_overwrite_replaces_the_run_and_nothing_else(data, copy_of_finished):
    (copy_of_finished / "notes.txt").write_text("mine")
    short = {"OPTIM__NUM_ITERATIONS": 1, "OPTIM__WARMUP_STEPS": 1}
    trained(data, copy_of_finished, "--overwrite", **short)
    assert (copy_of_finished / "notes.txt").read_text() == "mine"
    assert [path.name for path in copy_of_finished.glob("model_*")] == ["model_final.pth"]
    assert record_of(copy_of_finished)["iterations"] == 1


def test_overwrite_keeps_the_vocabulary_it_is_told_to_train_with(data, copy_of_finished):
    vocabulary = copy_of_finished / "tokenizer.model"
    before = vocabulary.read_bytes()
    trained(
        data,
        copy_of_finished,
        "--overwrite",
        OPTIM__NUM_ITERATIONS=2,
        DATA__TOKENIZER_MODEL=vocabulary,
    )
    assert vocabulary.read_bytes() == before


def test_help_answers_at_once():
    def seconds():
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "virtex.pretrain", "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert "python -m virtex.pretrain --config" in done.stdout
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(3)) < 0.3
