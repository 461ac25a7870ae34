"""GPUs shared out evenly between runs at the same time."""

import pytest
import torch

from virtex.errors import UserError
from virtex.evaluate_all.gpus import share_out, visible_gpus

EIGHT = [str(number) for number in range(8)]


def test_one_run_over_all():
    assert share_out(EIGHT, 1) == [tuple(EIGHT)]


def test_one_run_a_gpu():
    assert share_out(EIGHT, 8) == [(name,) for name in EIGHT]


def test_shares_are_neighbors():
    assert share_out(["3", "GPU-5ab", "0", "7"], 2) == [("3", "GPU-5ab"), ("0", "7")]


def test_any_number_at_once_on_the_cpu():
    assert share_out([], 3) == [(), (), ()]


@pytest.mark.parametrize("at_once", [3, 16])
def test_an_uneven_division_is_refused(at_once):
    with pytest.raises(UserError, match=f"--at-once {at_once} does not divide 8 GPUs"):
        share_out(EIGHT, at_once)


def test_no_gpus_are_asked_for():
    assert visible_gpus(0) == []


def test_more_gpus_than_there_are():
    there = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"this machine has {there}; --num-gpus 0 runs on the CPU"):
        visible_gpus(there + 1)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_a_list_of_ones_own_is_kept(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus(None) == visible_gpus(1) == ["0"]
