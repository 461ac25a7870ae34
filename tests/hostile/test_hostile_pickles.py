"""Pickles that would run code, in every container that holds pickles."""

import os

import pytest

from tests.hostile import hostile_pickles as hostile
from tests.hostile.checkpoint_runs import inspected
from tests.hostile.hostile_pickles import CONTAINERS, RUNNING

BESIDE = hostile.mapping(
    (hostile.text("layer1.0.conv1.weight"), hostile.tensor()),
    (hostile.text("layer2.0.conv1.weight"), hostile.tensor(offset=1, size=(3,), stride=(1,))),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the attacks would create a file, and find code of their own."""
    folder = tmp_path_factory.mktemp("pickles")
    before = os.getcwd()
    os.chdir(folder)
    (folder / "attack.py").write_text(hostile.OPEN)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("where", range(4))
def test_code_in_a_pickle_does_not_run(where, container, folder):
    for attack in RUNNING.values():
        for head in (b"\x80\x02", b"\x80\x04"):
            pickled = head + hostile.with_attack(attack, BESIDE, where)[2:]
            status, err = inspected(folder / "model.pth", CONTAINERS[container](pickled))
            assert status == 2 and "[checkpoint.un" in err
            assert not (folder / hostile.CANARY).exists()
