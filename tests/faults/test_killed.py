"""kill -9 at any moment: what is there is whole, and the same command again ends as if nothing was.

Each tool lives through chains of kills: it is killed, goes on, is killed, … and what it has at
last is compared with an undisturbed run's. Half of the kills come as something in its folders
changes, a third hit one whose images are loaded by another process, which is left an orphan.
"""

import shutil
import time

import pytest
import torch
import torchvision

from tests.checkpoints.fault_server import Answer, start_server
from tests.faults.killed_files import assert_features_right, assert_same, assert_whole
from tests.faults.killed_tools import TOOLS, write_inputs
from tests.faults.killing import HANGS, Started, kills
from tests.faults.preloaded import Preloaded

KILLS = {"quick": 2, "whole": 20}
ATTEMPTS, SOONER = 8, 0.8  # where a run that had come far does not live to a moment
PAUSE = 0.0005  # seconds before each 64 KB of a download


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed_inputs")
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    server, running = start_server()
    content = (folder / "resnet18.pth").read_bytes()
    yield write_inputs(folder, server.serve("/resnet18.pth", content, Answer(pause=PAUSE)))
    running.shutdown()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def preloaded():
    forker = Preloaded()
    yield forker
    forker.close()


@pytest.fixture
def place(tmp_path):
    yield tmp_path / "place"
    shutil.rmtree(tmp_path)


class Chain:
    """A tool that is killed over and over, in one folder."""

    def __init__(self, tool, inputs, place, preloaded):
        self.tool, self.inputs, self.place, self.preloaded = tool, inputs, place, preloaded
        self.kept = place.with_name("undisturbed")
        self.killed, self.compared, self.orphaned = 0, 0, []

    def start(self, command=False, workers=False):
        flags = self.tool.again if self.place.exists() else ()
        flags += self.tool.workers if workers else ()
        preloaded = self.preloaded if self.tool.preloads and not command else None
        return Started(self.tool, self.inputs, self.place, flags, preloaded)

    def live(self, command):
        """An undisturbed life; its folders are kept."""
        life = self.start(command).ends_well()
        if self.kept.exists():
            self.compare()
        else:
            self.place.rename(self.kept)
        return life

    def meet(self, kill, life, sooner):
        """Kill at this moment. Whether it lived until then; else it has ended well."""
        started, share = self.start(kill.command, kill.workers), sooner * kill.moment
        if kill.change:
            lives = started.lives_until(HANGS, 1 + share * life.changes)
        else:
            lives = started.lives_until(share * life.seconds)
        if not lives or not started.kill(kill.alone):
            assert started.process.wait() == 0, started.said()
            self.compare()
            return False
        self.orphaned.append(started)
        assert_whole(self.place)
        assert_features_right(self.place, self.kept)
        self.killed += 1
        return True

    def compare(self):
        """What has come to its end is what it would have been; the next one begins anew."""
        assert_whole(self.place)
        assert_same(self.place, self.kept)
        shutil.rmtree(self.place)
        self.compared += 1

    def end(self, command):
        self.start(command).ends_well()
        self.compare()
        assert all(started.orphans_end() for started in self.orphaned)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TOOLS)
def test_a_killed_tool_leaves_whole_files_and_goes_on_to_the_same_end(
    name, inputs, place, preloaded, whole
):
    tool, count = TOOLS[name], KILLS["whole" if whole else "quick"]
    if not (whole or tool.quick):
        pytest.skip("with --whole")
    begun = time.monotonic()
    chain = Chain(tool, inputs, place, preloaded)
    lives = {command: chain.live(command) for command in ([False, True] if whole else [False])}
    for kill in kills(name, count, commands=whole):
        for attempt in range(ATTEMPTS):
            if chain.meet(kill, lives[kill.command], SOONER**attempt):
                break
    chain.end(command=whole)
    assert chain.killed == count
    seconds = time.monotonic() - begun
    print(f"{name}: {chain.killed} kills, {chain.compared} ends compared, {seconds:.0f} s")
