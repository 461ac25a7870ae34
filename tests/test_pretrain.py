"""Pretraining end to end: every task, resuming, two processes, invalid input."""

import io
import json
import math
import shutil
import subprocess
import sys
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
from tests.selection import whole_only
from virtex.checkpoints.loading import load_backbone
from virtex.config import load_config
from virtex.data.captions import read_captions
from virtex.data.streams import TrainingStream
from virtex.data.tokenizer import train_tokenizer
from virtex.engine.loop import amp_dtype
from virtex.engine.randomness import seed_everything
from virtex.optim.schedules import multiplier
from virtex.pretraining.models.build import build_model

TOY = "toy/bicaptioning_R_18_L1_H256"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("pretraining_data") / "data")


@pytest.fixture
def out(tmp_path):
    """An output folder, deleted after the test as checkpoints are large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run; not to be modified."""
    folder = tmp_path_factory.mktemp("finished")
    yield trained(data, folder / "run")
    shutil.rmtree(folder)


@pytest.fixture
def copy_of_finished(finished, out):
    return Path(shutil.copytree(finished, out))


@pytest.fixture
def copy_of_data(data, tmp_path):
    return Path(shutil.copytree(data, tmp_path / "data"))


# ----- every task

NONE = {"MODEL__TEXTUAL__NAME": "none"}
ADAMW = {"OPTIM__OPTIMIZER_NAME": "adamw", "OPTIM__LR": 0.001, "OPTIM__CNN_LR": 0.001}
NO_LOOKAHEAD = {"OPTIM__LOOKAHEAD__USE": False}
TASKS = {
    "bicaptioning": ({}, ["captioning_forward", "captioning_backward"]),
    "captioning": (ADAMW, ["captioning_forward"]),
    "masked_lm": (NO_LOOKAHEAD, ["masked_lm"]),
    "token_classification": (NONE, ["classification"]),
    "multilabel_classification": (NONE | ADAMW | NO_LOOKAHEAD, ["classification"]),
}


QUICK = ("bicaptioning", "masked_lm", "multilabel_classification")


@pytest.mark.parametrize("task", [*QUICK, *whole_only("captioning", "token_classification")])
def test_task(task, data, out):
    settings, names = TASKS[task]
    run = trained(data, out, **settings, MODEL__NAME=task, OPTIM__NUM_ITERATIONS=4)
    lines, validations = training_lines(run), validation_lines(run)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    for line in (*lines, *validations):
        part = "train" if "train/loss" in line else "val"
        losses = [line[f"{part}/{name}"] for name in names]
        assert all(math.isfinite(loss) and loss > 0 for loss in losses)
        assert line[f"{part}/loss"] == pytest.approx(sum(losses))
    assert lines[-1]["train/loss"] != lines[0]["train/loss"]

    assert task == load_config(run / "pretrain_config.yaml").MODEL.NAME
    if task == "multilabel_classification":
        assert not (run / "tokenizer.model").exists()
    else:
        vocabulary = (data / "vocab/toy.model").read_bytes()
        assert (run / "tokenizer.model").read_bytes() == vocabulary
    record = record_of(run)
    assert (record["task"], record["iterations"], record["seed"]) == (task, 4, 0)
    assert record["data"]["val"]["images"] <= VAL_IMAGES
    expected = {key: value for key, value in validations[-1].items() if key != "iteration"}
    assert record["metrics"] == expected
    assert list(run.glob("events.out.tfevents.*"))
    assert "iter: 4  loss: " in (run / "log.txt").read_text()

    backbone = load_backbone(run / "model_final.pth")
    assert (backbone.source.format, backbone.arch.name) == ("virtex", "resnet18")
    assert backbone.source.coverage.complete
    prefix = "visual.cnn."
    weights = {k.removeprefix(prefix): v for k, v in weights_of(run).items() if prefix in k}
    assert_equal(dict(backbone.state_dict), weights)

    content = content_of(run)
    state_keys = {key for state in content["optimizer"]["state"].values() for key in state}
    is_adamw = settings.items() >= ADAMW.items()
    assert ("exp_avg" if is_adamw else "momentum_buffer") in state_keys
    assert ("lookahead" in content) == (not settings.items() >= NO_LOOKAHEAD.items())


# ----- outputs


def test_checkpoints_are_validated(finished):
    assert [line["iteration"] for line in validation_lines(finished)] == [5, 10, ITERATIONS]
    assert content_of(finished)["iteration"] == ITERATIONS
    assert sorted(path.name for path in finished.glob("model_*")) == [
        "model_0000005.pth",
        "model_0000010.pth",
        "model_final.pth",
    ]


def test_loss_decreases(finished):
    losses = [line["train/loss"] for line in training_lines(finished)]
    assert losses[-1] < 0.95 * losses[0]
    assert losses[0] == pytest.approx(2 * math.log(VOCABULARY), rel=0.02)  # both directions


def test_samples_are_logged(finished, data):
    first = read_captions(data / "coco", "val")[0]
    line = f"image {first.image_id}: {first.captions[0].lower()[:20]}"
    assert line in (finished / "log.txt").read_text()


def test_record_lists_overrides(finished):
    record = record_of(finished)
    overrides = {d["key"]: d["run"] for d in record["overrides"]}
    assert overrides.keys() == SMALL.keys()
    assert overrides["OPTIM.NUM_ITERATIONS"] == ITERATIONS
    assert (record["schema_version"], record["changes"]) == (2, [])


# ----- seeds and initialization


def test_seeds(data, out):
    flags = {"first": (1, 0), "second": (1, 5), "third": (2, 0)}
    first, second, third = (
        content_of(
            trained(data, out / name, "--seed", seed, OPTIM__NUM_ITERATIONS=2, RANDOM_SEED=other)
        )
        for name, (seed, other) in flags.items()
    )
    assert_equal(first, second)
    name = "visual.cnn.layer4.1.conv2.weight"
    assert not torch.equal(first["model"][name], third["model"][name])


def initial_weights(settings):
    seed_everything("weights", 0)
    overrides = [word for pair in (SMALL | settings).items() for word in pair]
    return build_model(load_config(TOY, overrides)).state_dict()


def test_zero_iterations_save_the_initialized_model(data, out):
    settings = {"OPTIM.NUM_ITERATIONS": 0, "OPTIM.WARMUP_STEPS": 0}
    assert_equal(weights_of(trained(data, out, **settings)), initial_weights(settings))
    trained(data, out, "--resume", **settings)  # finished


def test_frozen_backbone_keeps_weights_and_statistics(data, out):
    settings = {"MODEL.VISUAL.FROZEN": True, "OPTIM.NUM_ITERATIONS": 3}
    after, before = weights_of(trained(data, out, **settings)), initial_weights(settings)
    assert before.keys() == after.keys()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("visual.")} <= kept
    assert "textual.output.weight" not in kept


def test_no_mixed_precision_on_the_cpu():
    assert amp_dtype(load_config("bicaptioning_R_50_L1_H512"), torch.device("cpu")) is None


# ----- resuming


def test_finished_run_is_not_repeated(data, finished, capsys):
    before = files_in(finished)
    assert status_of(arguments(data, finished, "--resume")) == 0
    assert "the run is already finished" in capsys.readouterr().out
    assert files_in(finished) == before


@pytest.mark.parametrize("record", [None, *whole_only("{}")])
def test_resume_before_the_last_validation(data, finished, copy_of_finished, record):
    if record is None:
        (copy_of_finished / "pretraining.json").unlink()
    else:
        (copy_of_finished / "pretraining.json").write_text(record)
    metrics = copy_of_finished / "metrics.json"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:-1]))
    assert "val/loss" in lines[-1]
    trained(data, copy_of_finished, "--resume")
    assert record_of(copy_of_finished)["metrics"] == record_of(finished)["metrics"]
    assert validation_lines(copy_of_finished) == validation_lines(finished)
    assert_equal(content_of(copy_of_finished), content_of(finished))


def test_extended_run(data, copy_of_finished):
    longer = ITERATIONS + 3
    settings = {"OPTIM__NUM_ITERATIONS": longer, "OPTIM__LR": 0.01}
    trained(data, copy_of_finished, "--resume", **settings)
    config = load_config(copy_of_finished / "pretrain_config.yaml")
    assert longer == config.OPTIM.NUM_ITERATIONS
    rates = {line["iteration"]: line["lr/rest"] for line in training_lines(copy_of_finished)}
    assert list(rates) == list(range(1, longer + 1))
    for iteration in range(ITERATIONS + 1, longer + 1):
        expected = config.OPTIM.LR * multiplier(iteration, config.OPTIM)
        assert rates[iteration] == pytest.approx(expected, abs=1e-12)
    assert rates[ITERATIONS] == 0.0  # the end of the shorter schedule
    assert record_of(copy_of_finished)["changes"] == [
        {"iteration": ITERATIONS, "setting": "OPTIM.NUM_ITERATIONS", "before": 12, "now": 15},
        {"iteration": ITERATIONS, "setting": "OPTIM.LR", "before": 0.05, "now": 0.01},
    ]
    trained(data, copy_of_finished, "--resume", **settings | {"OPTIM__NUM_ITERATIONS": longer + 2})
    assert [change["now"] for change in record_of(copy_of_finished)["changes"]] == [15, 0.01, 17]


def test_corrupt_image_is_named_and_resume_is_exact(copy_of_data, finished, out, capsys):
    items = read_captions(copy_of_data / "coco", "train")
    batches = iter(TrainingStream(len(items), SMALL["OPTIM.BATCH_SIZE"], seed=0))
    order = [index for _ in range(6) for _, index in next(batches)]
    broken = items[order[-1]].file  # first seen in the sixth batch
    assert order.index(order[-1]) == len(order) - 1
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    assert status_of(arguments(copy_of_data, out)) == 2
    assert str(broken) in capsys.readouterr().err
    assert not (out / "pretraining.json").exists()
    assert_equal(content_of(out, "model_0000005.pth"), content_of(finished, "model_0000005.pth"))
    broken.write_bytes(content)
    trained(copy_of_data, out, "--resume")
    assert_equal(content_of(out), content_of(finished))
    assert training_lines(out) == training_lines(finished)


def test_skip_bad_images(copy_of_data, out):
    broken = sorted((copy_of_data / "coco/train2017").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:500])
    trained(copy_of_data, out, "--skip-bad-images", OPTIM__NUM_ITERATIONS=7)
    assert str(broken) in (out / "log.txt").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"OPTIM__LR": 1e30, "OPTIM__CLIP_GRAD_NORM": 0},
        # only the weights after the last step are not finite
        {
            "OPTIM__LR": 1e38,
            "OPTIM__CNN_LR": 1e38,
            "OPTIM__WARMUP_STEPS": 0,
            "OPTIM__NUM_ITERATIONS": 1,
        },
    ],
)
def test_non_finite_training_has_no_record(data, out, capsys, settings):
    assert status_of(arguments(data, out, **settings)) == 2
    error = capsys.readouterr().err
    assert "[run.not_finite]" in error and "iteration " in error
    assert not (out / "pretraining.json").exists()


# ----- several processes


@pytest.mark.whole
def test_two_processes_match_one(data, out):
    """With a frozen backbone, as BatchNorm depends on the share of the batch."""
    same = {"MODEL__VISUAL__FROZEN": True, "MODEL__TEXTUAL__DROPOUT": 0.0}
    alone, two = trained(data, out / "alone", **same), out / "two"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("-m", "virtex.pretrain", *arguments(data, two, **same)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert record_of(two)["environment"]["processes"] == 2
    for one, other in zip(validation_lines(alone), validation_lines(two), strict=True):
        assert other == pytest.approx(one, rel=1e-6)
    for one, other in zip(training_lines(alone), training_lines(two), strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    for name, tensor in weights_of(alone).items():
        torch.testing.assert_close(weights_of(two)[name], tensor, rtol=0, atol=1e-5)


# ----- command line


def test_list_configs(capsys):
    assert status_of(["--list-configs"]) == 0
    assert "width_ablations/bicaptioning_R_50_L1_H512\n" in capsys.readouterr().out


def test_print_config(tmp_path, capsys):
    argv = ["--config", "bicaptioning_R_50_L1_H2048", "--print-config", "OPTIM.LR", "0.5"]
    assert status_of(argv) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    expected = load_config("bicaptioning_R_50_L1_H2048", ["OPTIM.LR", "0.5"])
    assert load_config(tmp_path / "printed.yaml") == expected


def test_missing_config(capsys):
    assert status_of([]) == 2
    assert "--list-configs" in capsys.readouterr().err


# ----- invalid input: status 2, nothing written


def assert_refused(capsys, out, argv, code, *named):
    before = files_in(out)
    assert status_of(argv) == 2
    assert files_in(out) == before
    error = capsys.readouterr().err
    assert f"[{code}]" in error, error
    assert all(str(name) in error for name in named), error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"config": "bicaptoning_R_18_L1_H256"}, "config.not_found", "bicaptioning_R_18_L1_H256"),
        ({"OPTIM__LERNING_RATE": 1}, "config.unknown_key", "OPTIM.LERNING_RATE"),
        ({"OPTIM__WARMUP_STEPS": 99}, "config.invalid_value", "OPTIM.WARMUP_STEPS"),
        ({"DATA__ROOT": "elsewhere"}, "config.invalid_value", "DATA.ROOT"),
        ({"OPTIM__BATCH_SIZE": 1}, "config.invalid_value", "OPTIM.BATCH_SIZE"),
        ({"DATA__VOCAB_SIZE": VOCABULARY - 1}, "tokenizer.mismatch", "DATA.VOCAB_SIZE"),
    ],
)
def test_invalid_settings(data, out, capsys, settings, code, named):
    assert_refused(capsys, out, arguments(data, out, **settings), code, named)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MODEL__VISUAL__NAME": "torchvision::resnet19"}, "torchvision::resnet18"),
        ({"MODEL__VISUAL__FEATURE_SIZE": 7}, "MODEL.VISUAL.FEATURE_SIZE"),
    ],
)
def test_invalid_backbone(data, out, capsys, settings, named):
    assert status_of(arguments(data, out, **settings)) == 2
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_missing_data_lists_every_path(tmp_path, out, capsys):
    paths = ("coco/train2017", "coco/val2017", *map(CAPTIONS.format, ("train", "val")))
    named = [tmp_path / "nowhere" / path for path in paths]
    assert_refused(capsys, out, arguments(tmp_path / "nowhere", out), "data.missing", *named)


def test_missing_vocabulary(copy_of_data, out, capsys):
    path = copy_of_data / "vocab/toy.model"
    path.unlink()
    command = "python -m virtex.data.tokenizer --captions"
    argv = arguments(copy_of_data, out)
    assert_refused(capsys, out, argv, "tokenizer.not_found", path, command)


def test_foreign_vocabulary(copy_of_data, out, capsys):
    model = io.BytesIO()
    sentences = ["a red square and a blue circle on the left"] * 20
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=20, minloglevel=2
    )
    (copy_of_data / "vocab/toy.model").write_bytes(model.getvalue())
    assert status_of(arguments(copy_of_data, out)) == 2
    assert "toy.model" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("problem", ["no captions", "missing image"])
def test_invalid_data(copy_of_data, out, capsys, split, problem):
    if problem == "no captions":
        path = copy_of_data / CAPTIONS.format(split)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"annotations": []}))
    else:
        path = read_captions(copy_of_data / "coco", split)[2].file
        path.unlink()
    assert status_of(arguments(copy_of_data, out)) == 2
    assert str(path) in capsys.readouterr().err
    assert not out.exists()


def test_resume_mismatch(data, copy_of_data, finished, capsys):
    changed = {
        "seed": (data, ("--seed", "1"), {}),
        "settings.OPTIM.WEIGHT_DECAY": (data, (), {"OPTIM__WEIGHT_DECAY": 0.5}),
        "tokenizer_sha256": (copy_of_data, (), {}),
    }
    captions = ["a square on the left of a circle", "two red stars, a blue moon"]
    train_tokenizer(captions, 40, copy_of_data / "vocab/toy.model")
    for key, (root, flags, settings) in changed.items():
        argv = arguments(root, finished, *flags, "--resume", **settings)
        assert_refused(capsys, finished, argv, "resume.mismatch", key)


def test_resume_with_other_captions(copy_of_data, finished, capsys):
    path = copy_of_data / CAPTIONS.format("train")
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "something else"
    path.write_text(json.dumps(content))
    argv = arguments(copy_of_data, finished, "--resume")
    assert_refused(capsys, finished, argv, "resume.mismatch", "data.train")


def test_resume_with_fewer_iterations(data, copy_of_finished, capsys):
    (copy_of_finished / "pretraining.json").unlink()
    argv = arguments(data, copy_of_finished, "--resume", OPTIM__NUM_ITERATIONS=6)
    assert_refused(capsys, copy_of_finished, argv, "resume.beyond_end", f"iteration {ITERATIONS}")


def test_overwrite(data, copy_of_finished):
    """Other files are kept, and the vocabulary may be read from the folder itself."""
    (copy_of_finished / "notes.txt").write_text("mine")
    vocabulary = copy_of_finished / "tokenizer.model"
    before = vocabulary.read_bytes()
    short = {"OPTIM__NUM_ITERATIONS": 1, "OPTIM__WARMUP_STEPS": 1}
    trained(data, copy_of_finished, "--overwrite", **short, DATA__TOKENIZER_MODEL=vocabulary)
    assert (copy_of_finished / "notes.txt").read_text() == "mine"
    assert vocabulary.read_bytes() == before
    assert [path.name for path in copy_of_finished.glob("model_*")] == ["model_final.pth"]
    assert record_of(copy_of_finished)["iterations"] == 1
