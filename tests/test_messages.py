"""The wording of the most important error messages, in ``tests/messages.txt``.

All other tests assert error codes. After an intended change, run
``UPDATE_MESSAGES=1 pytest -n 0 tests/test_messages.py`` and review the difference.
"""

import os
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

from virtex import cli

MESSAGES = Path(__file__).with_name("messages.txt")
COMMANDS = """
trasnfer --help
inspect
inspect DIR/missing.pth
inspect DIR
inspect DIR/page.pth
inspect DIR/empty.pth
inspect DIR/truncated.pth
inspect DIR/code.pth
inspect DIR/vit.pth
inspect DIR/incomplete.pth
inspect DIR/shape.pth
inspect DIR/nan.pth
inspect DIR/resnet.pth --format moko
inspect DIR/resnet.pth --format moco
inspect virtex://moco/v9
inspect virtex://resnet50
inspect random:resnet19
svm --chekpoint DIR/resnet.pth
svm --output-dir DIR/out
svm --checkpoint DIR/resnet.pth --output-dir DIR/out --protocol papre
svm --checkpoint DIR/resnet.pth --output-dir DIR/out --num-gpus 0 --data-root DIR/data
svm --checkpoint DIR/resnet.pth --output-dir DIR/page.pth --num-gpus 0
svm --checkpoint DIR/resnet.pth --output-dir DIR/out SVM.COST 1
svm --checkpoint DIR/resnet.pth --output-dir DIR/out SVM.COSTS
svm --checkpoint DIR/resnet.pth --output-dir DIR/out --seed -1
linear --checkpoint DIR/resnet.pth --output-dir DIR/out OPTIM.LR fast
evaluate-all --checkpoint DIR/resnet.pth --output-dir DIR/all --tasks cococo
leaderboard DIR/nothing
pretrain --config bicaptioning_R_50_L9_H2048 --output-dir DIR/out
pretrain --config bicaptioning_R_50_L1_H2048 --output-dir DIR/out OPTIM.LEARNING_RATE 1
zoo download moco/v9 -o DIR/out
check-data --data-root DIR/data --task coco
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("messages")
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, path / "resnet.pth")
    (path / "page.pth").write_text("<!DOCTYPE html><html><title>404</title></html>")
    (path / "empty.pth").touch()
    (path / "truncated.pth").write_bytes((path / "resnet.pth").read_bytes()[:100_000])
    torch.save({"state_dict": weights, "code": os.path.join}, path / "code.pth")
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(6, 2)}, path / "vit.pth")
    missing = {k: v for k, v in weights.items() if not k.startswith("layer4.1.")}
    torch.save(missing, path / "incomplete.pth")
    torch.save(weights | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path / "shape.pth")
    nan = weights["layer1.0.conv1.weight"] * float("nan")
    torch.save(weights | {"layer1.0.conv1.weight": nan}, path / "nan.pth")
    (path / "data").mkdir()
    (path / "nothing").mkdir()
    return path


def test_messages(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    parts = []
    for command in COMMANDS.strip().splitlines():
        with pytest.raises(SystemExit) as exited:
            cli.main(shlex.split(command.replace("DIR", str(folder))))
        printed = capsys.readouterr().err.replace(str(folder), "DIR")
        start = printed.rfind("\nvirtex") + 1 if printed.startswith("usage:") else 0
        parts.append(f"$ virtex {command}\n{printed[start:]}status {exited.value.code}\n")
    if os.environ.get("UPDATE_MESSAGES"):
        MESSAGES.write_text("\n".join(parts), encoding="utf-8")
    assert "\n".join(parts) == MESSAGES.read_text(encoding="utf-8")
