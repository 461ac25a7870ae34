"""Runs of ``detectron2_transfer`` on toy data in seconds."""

import json
import shutil

import pytest

from tests.run_states import assert_equal, content_of
from virtex.cli import run_tool
from virtex.eval_tools import detectron2_transfer

SMALL = [
    *("SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.BASE_LR", "0.0001"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "32"),
    *("TEST.DETECTIONS_PER_IMAGE", "1"),
]
PROPOSALS = [
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
]
FOUR_ITERATIONS = [
    *("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("SOLVER.WARMUP_ITERS", "2", "TEST.PRECISE_BN.NUM_ITER", "2"),
]


def run_small(toy, out, *arguments):
    """Run the tool in this process and return its exit status."""
    common = [
        *("--data-root", toy, "--output-dir", out, "--num-gpus", "0"),
        *(*arguments, *SMALL, *PROPOSALS, *FOUR_ITERATIONS),
    ]
    with pytest.raises(SystemExit) as exited:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), map(str, common))
    return exited.value.code


def read_record(out):
    return json.loads((out / "result.json").read_text())


def assert_resumed_exactly(toy, out, *arguments):
    """Run, then run again from the checkpoint after two iterations; return the record."""
    assert run_small(toy, out, *arguments) == 0
    resumed = shutil.copytree(out, out.with_name("resumed"))
    for name in ("result.json", "model_final.pth"):
        (resumed / name).unlink()
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    assert run_small(toy, resumed, *arguments, "--resume") == 0
    assert_equal(content_of(resumed), content_of(out))
    first, again = read_record(out), read_record(resumed)
    assert (again["metrics"], again["verification"]) == (first["metrics"], first["verification"])
    return first
