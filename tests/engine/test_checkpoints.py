"""Which checkpoint a run continues from, and which ones it deletes."""

import pytest
import torch
from torch import nn

from tests.errors import raises_code
from virtex.engine.checkpoints import Checkpoints, last_checkpoint
from virtex.files import Manifest


@pytest.mark.parametrize(
    "content", [b"../other/model_final.pth", b"\xe9", b"", b"/etc/passwd", b"."]
)
def test_pointer_to_anything_but_a_checkpoint_of_the_folder(tmp_path, content):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_final.pth").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_bytes(content)
    with raises_code("resume.invalid_checkpoint", tmp_path / "run" / "last_checkpoint"):
        last_checkpoint(tmp_path / "run")


def test_newest_checkpoint_without_a_pointer(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for name in ("model_0000009.pth", "model_0000010.pth", "model_9_mine.pth"):
        (tmp_path / name).write_text("")
    assert last_checkpoint(tmp_path).name == "model_0000010.pth"
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    assert last_checkpoint(tmp_path).name == "model_0000009.pth"
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert last_checkpoint(tmp_path).name == "model_0000010.pth"


def test_only_checkpoints_of_the_run_are_deleted(tmp_path):
    mine = [tmp_path / name for name in ("model_0000001.pth", "model_2021.pth")]
    for path in mine:
        path.write_text("mine")
    for session in (2, 5):  # a resumed run deletes those of the first session
        checkpoints = Checkpoints(tmp_path, nn.Linear(1, 1), {}, keep=1)
        with Manifest(tmp_path).record():
            for iteration in (session, session + 1):
                checkpoints.save(f"model_{iteration:07d}.pth", iteration=iteration)
    assert [path.read_text() for path in mine] == ["mine"] * 2
    assert torch.load(last_checkpoint(tmp_path), weights_only=True)["iteration"] == 6
    assert [path.name for path in sorted(tmp_path.glob("model_0*"))] == [
        "model_0000001.pth",
        "model_0000006.pth",
    ]
