"""Where nothing can be written, every tool says so in one sentence, and harms nothing."""

import pytest

from tests.faults import left_behind
from tests.faults.running_out import start, undisturbed, wrong_in_words
from tests.faults.small_disk import small_disk
from tests.faults.small_runs import ALL

QUICK = ("pretraining", "leaderboard", "zoo's download", "toy data", "vocabulary")
RESUMED = [name for name, run in ALL.items() if run.again == ("--resume",)]
# iopath puts its cache elsewhere, and says so
ELSEWHERE = ("download", "random network")


@pytest.fixture(scope="module")
def disk():
    return small_disk()


@pytest.mark.parametrize("tool", [name for name in ALL if name not in ELSEWHERE])
def test_a_tool_that_cannot_write_says_so(disk, tool, whole):
    if not whole and tool not in QUICK:
        pytest.skip("pytest --whole tries every tool")
    disk.mount()
    disk.lock()
    outcome = start(disk, tool)
    assert not wrong_in_words(disk, tool, outcome)
    assert not left_behind.files_of(disk.seen)


@pytest.mark.parametrize("tool", RESUMED)
def test_a_run_is_not_gone_on_with_where_nothing_can_be_written(disk, tool, whole):
    if not whole and tool not in QUICK:
        pytest.skip("pytest --whole tries every tool")
    reference = undisturbed(disk, tool)
    disk.mount()
    start(disk, tool, fill_at=reference.outcome.openings * 2 // 3, spare=1)
    before = {path: path.read_bytes() for path in left_behind.files_of(disk.seen)}
    disk.lock()
    outcome = start(disk, tool, "--resume")
    assert not wrong_in_words(disk, tool, outcome)
    assert {path: path.read_bytes() for path in left_behind.files_of(disk.seen)} == before
    disk.enlarge()
    assert start(disk, tool, "--resume").status == 0
    assert not left_behind.different(left_behind.content(disk.seen), reference.content)
