"""A full disk, at every write of every tool, is one sentence; nothing is torn, and it goes on.

Room ends in four ways: somebody else fills the disk at the moment when a file is opened for
writing (each in its turn); the disk has so many pages; so many files; a file may be so long.
"""

import pytest

from tests.faults import left_behind
from tests.faults.running_out import (
    EVERY,
    Fault,
    complaints,
    start,
    undisturbed,
    wrong_in_words,
)
from tests.faults.small_disk import small_disk
from tests.faults.small_runs import ALL

WAYS = ("openings", "sizes", "numbers", "lengths")
# For the quick selection: the tool, the way, and which of all its faults, as a share of them.
QUICK = (
    ("pretraining", "openings", 0.25),
    ("cached probe", "openings", 0.3),
    ("leaderboard", "openings", 0.5),
    ("zoo's download", "sizes", 0.5),
    ("toy data", "numbers", 0.3),
    ("vocabulary", "lengths", 0.0),
    ("random network", "sizes", 0.9),
)


@pytest.fixture(scope="module")
def disk():
    return small_disk()


@pytest.mark.parametrize("tool, way, share", QUICK)
def test_a_tool_says_that_room_has_ended_and_goes_on_with_more(disk, tool, way, share):
    faults = getattr(undisturbed(disk, tool), way)()
    fault = faults[int(share * len(faults))]
    assert not complaints(disk, tool, fault, counts=True), fault


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("tool", ALL)
@pytest.mark.parametrize("way", WAYS)
def test_so_does_every_tool_wherever_room_ends(disk, tool, way, whole):
    if not whole:
        pytest.skip("pytest --whole tries every fault of every tool")
    faults = getattr(undisturbed(disk, tool), way)()[:: EVERY.get(tool, 1)]
    wrong = {str(fault): found for fault in faults if (found := complaints(disk, tool, fault))}
    assert not wrong, f"{len(wrong)} of {len(faults)} faults"


def test_what_an_earlier_run_has_left_stays_as_it_was(disk):
    disk.mount()
    before = start(disk, "leaderboard")
    assert before.status == 0
    content = left_behind.content(disk.seen)
    for fault in (Fault(fill_at=1), Fault(fill_at=2), Fault(fill_at=4, spare=1)):
        again = start(disk, "leaderboard", fill_at=fault.fill_at, spare=fault.spare)
        assert not wrong_in_words(disk, "leaderboard", again)
        assert left_behind.content(disk.seen) == content
        disk.enlarge()


def test_a_resumed_run_keeps_its_checkpoints_while_the_disk_stays_full(disk):
    openings = undisturbed(disk, "pretraining").outcome.changes
    names = [name for _, event, name in openings if event == "open"]
    second = next(i for i, name in enumerate(names, 1) if name.startswith(".model_final.pth"))
    disk.mount()
    start(disk, "pretraining", fill_at=second, spare=20)
    checkpoint = disk.seen / "run/model_0000002.pth"
    saved = checkpoint.read_bytes()
    for _ in range(2):
        again = start(disk, "pretraining", "--resume", fill_at=1)
        assert not wrong_in_words(disk, "pretraining", again)
        assert checkpoint.read_bytes() == saved


def test_standard_output_may_be_on_a_full_disk(disk):
    disk.mount(1)
    tool = "virtex.eval_tools.model_zoo"
    outcome = disk.run(tool, ["list"], commands=True, stdout=f"{disk.place}/list")
    assert outcome.status == 2
    assert outcome.errors == "model_zoo.py: error: No space left on device; make room there\n"
