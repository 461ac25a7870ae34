"""Captioning is for captioning models: others are named, left out, and no failure."""

import shutil

import pytest

from tests.captioning.small_captioners import QUICK, write_checkpoint
from tests.evaluate_all.evaluations import Evaluation, in_this_process, records_in
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


def test_a_backbone_alone_is_left_out_of_captioning(evaluation):
    in_this_process(evaluation)
    assert (evaluation.status, evaluation.errors) == (0, "")
    assert len(records_in(evaluation.out)) == 1
    assert evaluation.printed.count("not for it") == 2  # in the table, and with the reason
    assert f"{evaluation.checkpoints[1]} {ALONE}" in evaluation.printed
    assert (evaluation.out / "leaderboard.csv").read_text().count("\n") == 2
    again = in_this_process(evaluation)
    assert again.status == 0 and again.printed.count("complete") == 1


def test_a_dry_run_tells_it(evaluation):
    evaluation.checkpoints += ["random:resnet18", "torchvision://resnet50", "virtex://hub/resnet50"]
    in_this_process(evaluation, "--dry-run")
    assert evaluation.status == 0
    assert evaluation.printed.count("coco_captioning.py") == 1
    assert evaluation.printed.count(ALONE) == 4


def test_nothing_but_what_is_left_out_is_an_error(evaluation):
    evaluation.checkpoints = ["random:resnet18"]
    in_this_process(evaluation)
    assert evaluation.status == 2
    assert ALONE in evaluation.printed
    assert not evaluation.out.exists()


def test_a_captioning_model_without_its_config_is_an_error(evaluation):
    lost = evaluation.checkpoints[0].replace("model_final.pth", "pretrain_config.yaml")
    shutil.move(lost, f"{lost}.away")
    in_this_process(evaluation)
    assert evaluation.status == 2
    assert "cannot run" in evaluation.errors
    assert "has no pretrain_config.yaml beside it" in evaluation.errors
    arguments = evaluation.arguments
    evaluation.arguments = f"--config {lost}.away {arguments}"
    assert in_this_process(evaluation).status == 0


def test_a_backbone_alone_needs_no_captions(evaluation, captions, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "VOC2007").symlink_to(captions / "VOC2007")
    one = Evaluation(evaluation.checkpoints[1:], root, tmp_path / "out", "coco_captioning", "")
    in_this_process(one, "--tasks", "voc07_svm", "coco_captioning", "--dry-run")
    assert (one.status, one.errors) == (0, "")
    assert ALONE in one.printed


def test_words_that_are_drawn_need_each_seed(evaluation):
    evaluation.arguments += " MODEL.DECODER.NAME nucleus_sampling"
    in_this_process(evaluation, "--seeds", "0", "1", "--dry-run")
    assert evaluation.printed.count("coco_captioning.py") == 2
