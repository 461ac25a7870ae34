"""kill -9 at any moment: what is there is whole, and the same command again ends as if nothing was.

Each tool lives through chains of kills: it is killed, goes on, is killed, … and what it has at
last is compared with an undisturbed run's. Half of the kills come as something in its folders
changes, a third hit one whose images are loaded by another process, which is left an orphan.
"""

import re
import shutil
import time

import pytest

from tests.faults.killing import HANGS, Watched, kills
from tests.faults.left_behind import content, different, said_by, torn, unfinished
from tests.faults.small_runs import ALL, EVALUATE_ALL_RUN

# Those that work on for a while; of those that train alike, a quick selection has one.
QUICK = ("pretraining", "transfer", "svm", "captioning", "download", "leaderboard")
WHOLE = (*QUICK, "linear", "fine-tuning", "cached probe", "evaluate all")
SETTINGS = {"transfer": {"TEST.EVAL_PERIOD": 4}}
KILLS = {"quick": 2, "whole": 20}
ATTEMPTS, SOONER = 8, 0.8  # where a run that had come far does not live to a moment


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", WHOLE if metafunc.config.getoption("--whole") else QUICK)


@pytest.fixture
def place(tmp_path):
    yield tmp_path / "place"
    shutil.rmtree(tmp_path)


class Chain:
    """A tool that is killed over and over, in one folder."""

    def __init__(self, name, place):
        self.run, self.settings, self.place = ALL[name], SETTINGS.get(name, {}), place
        self.killed, self.compared, self.watched = 0, 0, []
        self.seconds, self.changes = self.start().whole_life()
        self.undisturbed = content(place)
        shutil.rmtree(place)

    def start(self, workers=None):
        again = self.run.again if (self.place / "out").exists() else ()
        self.watched.append(
            Watched(self.run, self.place / "out", *again, workers=workers, **self.settings)
        )
        return self.watched[-1]

    def meet(self, kill, sooner):
        """Kill at this moment. Whether it lived until then; else it has ended well."""
        watched, share = self.start(1 if kill.workers else None), sooner * kill.moment
        if kill.change:
            lives = watched.lives_until(HANGS, 1 + share * self.changes)
        else:
            lives = watched.lives_until(share * self.seconds)
        if not lives or not watched.is_killed(kill.alone):
            watched.started.ended_well()
            self.compare()
            return False
        assert not torn(self.place)
        for path in self.place.glob("out features/[0-9a-f]*/features.npy"):
            name = str(path.relative_to(self.place))
            assert said_by(path) == self.undisturbed[name], "whoever reads it finds other features"
        self.killed += 1
        return True

    def compare(self):
        """What has come to its end is what it would have been; the next one begins anew."""
        found = different(content(self.place), self.undisturbed)
        if self.run is EVALUATE_ALL_RUN:  # whose end is SIGTERM to its runs, which then save
            found = [name for name in found if not re.search(r"/model_\d+\.pth$", name)]
        assert not found
        assert not unfinished(self.place, parts=True)
        shutil.rmtree(self.place)
        self.compared += 1

    def end(self):
        self.start().started.ended_well()
        self.compare()
        assert all(watched.orphans_end() for watched in self.watched)


@pytest.mark.timeout(3000)
def test_a_killed_tool_leaves_whole_files_and_goes_on_to_the_same_end(name, place, whole):
    count, begun = KILLS["whole" if whole else "quick"], time.monotonic()
    chain = Chain(name, place)
    for kill in kills(name, count):
        for attempt in range(ATTEMPTS):
            if chain.meet(kill, SOONER**attempt):
                break
    chain.end()
    assert chain.killed == count
    seconds = time.monotonic() - begun
    print(f"{name}: {chain.killed} kills, {chain.compared} ends compared, {seconds:.0f} s")
