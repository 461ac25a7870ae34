"""Captioning needs a captioning model: runs of others are listed and skipped."""

import shutil

import pytest
import torch

from tests.backbones.vit_files import build, dino_training
from tests.captioning.small_captioners import QUICK, write_checkpoint
from tests.evaluate_all.evaluations import Evaluation, evaluate, read_records
from tests.pretraining_runs import write_data

SMALL = " ".join(f"{key} {value}" for key, value in QUICK.items())
ALONE = "is a backbone without a textual head"


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """A data root with a vocabulary."""
    return write_data(tmp_path_factory.mktemp("captioned_data") / "data")


@pytest.fixture
def evaluation(captions, checkpoints, tmp_path):
    captioner = write_checkpoint(tmp_path / "captioner", captions / "vocab/toy.model")
    names = [str(captioner), str(checkpoints / "first.pth")]
    arguments = f"--scorer python --max-length 8 {SMALL}"
    yield Evaluation(names, captions, tmp_path / "out", "coco_captioning", arguments)
    shutil.rmtree(tmp_path)


@pytest.mark.whole
def test_backbones_are_skipped(evaluation):
    evaluate(evaluation)
    assert (evaluation.status, evaluation.errors) == (0, "")
    assert len(read_records(evaluation.out)) == 1
    assert evaluation.printed.count("unsupported") == 2  # in the table, and with the reason
    assert f"{evaluation.checkpoints[1]} {ALONE}" in evaluation.printed
    assert (evaluation.out / "leaderboard.csv").read_text().count("\n") == 2
    again = evaluate(evaluation)
    assert again.status == 0 and again.printed.count("complete") == 1


def test_dry_run_lists_unsupported_runs(evaluation):
    evaluation.checkpoints += ["random:resnet18", "torchvision://resnet50", "virtex://hub/resnet50"]
    evaluate(evaluation, "--dry-run")
    assert evaluation.status == 0
    assert evaluation.printed.count("eval_tools.coco_captioning ") == 1
    assert evaluation.printed.count(ALONE) == 4


def test_only_unsupported_runs_are_an_error(evaluation):
    evaluation.checkpoints = ["random:resnet18"]
    evaluate(evaluation)
    assert evaluation.status == 2
    assert ALONE in evaluation.printed
    assert not evaluation.out.exists()


@pytest.mark.whole
def test_model_without_config_is_invalid(evaluation):
    lost = evaluation.checkpoints[0].replace("model_final.pth", "pretrain_config.yaml")
    shutil.move(lost, f"{lost}.away")
    evaluate(evaluation)
    assert evaluation.status == 2
    assert ": invalid: " in evaluation.errors
    assert "pretrain_config.yaml" in evaluation.errors
    arguments = evaluation.arguments
    evaluation.arguments = f"--config {lost}.away {arguments}"
    assert evaluate(evaluation).status == 0


def test_unsupported_runs_need_no_data(evaluation, captions, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "VOC2007").symlink_to(captions / "VOC2007")
    one = Evaluation(evaluation.checkpoints[1:], root, tmp_path / "out", "coco_captioning", "")
    evaluate(one, "--tasks", "voc07_svm", "coco_captioning", "--dry-run")
    assert (one.status, one.errors) == (0, "")
    assert ALONE in one.printed


def test_sampled_captions_depend_on_the_seed(evaluation):
    evaluation.arguments += " MODEL.DECODER.NAME nucleus_sampling"
    evaluate(evaluation, "--seeds", "0", "1", "--dry-run")
    assert evaluation.printed.count("eval_tools.coco_captioning ") == 2


def test_transformers_are_skipped_by_voc(tmp_path):
    """Its default protocol has a C4 detector; others have a pyramid."""
    torch.save(dino_training(build().state_dict()), tmp_path / "dino.pth")
    voc = Evaluation(
        [str(tmp_path / "dino.pth")],
        tmp_path,
        tmp_path / "out",
        "voc",
        "SOLVER.MAX_ITER 2",
    )
    evaluate(voc, "--dry-run")
    assert voc.printed.count("unsupported") == 2  # in the table, and with the reason
    assert "vit_2x192_patch16" in voc.printed
    assert "voc:fpn-24k" in voc.printed
    voc.task = "voc:toy-fpn"
    evaluate(voc, "--dry-run")
    assert "unsupported" not in voc.printed
