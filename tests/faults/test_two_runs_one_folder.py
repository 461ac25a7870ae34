"""Of two runs on one output folder one is refused in a sentence, and the other never notices."""

import os
import shutil
import signal
import time

import pytest

from tests.faults.small_runs import (
    EVALUATE_ALL_RUN,
    RUNS,
    has_come,
    names_in,
    result_of,
    undisturbed,
)
from tests.faults.started_tools import GATE, worker_processes

WAYS = {"plain": (), "resumed": ("--resume",), "overwriting": ("--overwrite",)}
QUICK = ("pretraining",)
# seconds after its start at which a run is held up: anywhere in it, its first look included
HELD_UP = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
HELD_UP_RUNS = ("pretraining", "transfer", "svm")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--whole")
        metafunc.parametrize("kind", RUNS if whole else QUICK)


def assert_undisturbed(kind, out):
    result, names = undisturbed(kind)
    assert result_of(RUNS[kind], out) == result
    assert names_in(out) == names


def test_a_second_run_is_refused_whenever_it_starts(kind, out, started):
    run = RUNS[kind]
    first = started(run.start(out))
    for moment in (".lock", run.training, run.evaluating):
        has_come(first, out, moment)
        first.pause()
        for name, flags in WAYS.items():
            before = names_in(out)
            said = started(run.start(out, *flags, name=name)).refuses()
            assert str(out) in said
            assert "another run" in said
            if flags:
                assert "is at work" in said
            assert names_in(out) == before
        first.go_on()
    first.ended_well()
    assert_undisturbed(kind, out)


def at_once(run, out, started, *flags):
    """Two runs that begin in the same instant."""
    gate = out.with_name(f"gate {len(flags)} {flags}")
    two = [
        started(run.start(out, *flags, name=f"run {n}", environment={GATE: str(gate)}))
        for n in (1, 2)
    ]
    time.sleep(1)  # until both wait
    gate.touch()
    return two


def test_of_two_that_begin_in_the_same_instant_one_wins(kind, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for flags in WAYS.values():
        shutil.rmtree(out, ignore_errors=True)
        two = at_once(RUNS[kind], out, started, *flags)
        assert sorted(run.ends() for run in two) == [0, 2]
        assert "another run" in next(run for run in two if run.ends() == 2).sentence()
        assert_undisturbed(kind, out)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("flags", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("held_up", HELD_UP_RUNS)
def test_a_run_that_is_held_up_anywhere_mixes_with_no_other(held_up, flags, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    for number, seconds in enumerate(HELD_UP):
        folder = out / str(number)
        first = started(RUNS[held_up].start(folder, *flags))
        time.sleep(seconds)
        first.pause()
        second = started(RUNS[held_up].start(folder, *flags, name="second"))
        second.process.join(30)
        first.go_on()
        ends = [first.ends(), second.ends()]
        assert set(ends) <= {0, 2}
        assert 0 in ends
        assert_undisturbed(held_up, folder)
        for run in (first, second):
            if run.ends() == 2:
                assert "another run" in run.sentence()


def test_the_lock_of_a_killed_run_stops_nobody(kind, out, started):
    run = RUNS[kind]
    first = started(run.start(out))
    has_come(first, out, run.training)
    first.kill()
    assert (out / ".lock").exists()
    started(run.start(out, "--resume", name="next")).ended_well()
    expected, names = undisturbed(kind)
    assert result_of(run, out) == expected
    assert set(names_in(out)) == set(names)  # one file of events more


def test_the_folder_of_a_run_that_is_over_is_free(kind, out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    run = RUNS[kind]
    started(run.start(out)).ended_well()
    assert not (out / ".lock").exists()
    assert "holds another run" in started(run.start(out, name="next")).refuses()
    started(run.start(out, "--resume", name="resumed")).ended_well()
    started(run.start(out, "--overwrite", name="overwriting")).ended_well()
    assert_undisturbed(kind, out)


# evaluate_all ------------------------------------------------------------------------------------


@pytest.mark.timeout(3000)
def test_a_second_evaluate_all_is_refused_and_so_is_a_run_of_its_own(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(EVALUATE_ALL_RUN.start(out))
    has_come(first, out, EVALUATE_ALL_RUN.training)
    [tool] = worker_processes(first)
    os.kill(tool, signal.SIGSTOP)
    second = started(EVALUATE_ALL_RUN.start(out, name="second"))
    assert "another evaluate_all.py is at work" in second.refuses()
    [folder] = [path.parent for path in out.rglob("run.json")]
    for flags in WAYS.values():
        intruder = started(RUNS["linear"].start(folder, *flags, name="intruder"))
        assert "another run" in intruder.refuses()
    os.kill(tool, signal.SIGCONT)
    first.ended_well()
    assert_undisturbed("linear", folder)


@pytest.mark.timeout(3000)
def test_of_two_evaluate_alls_of_the_same_instant_one_wins(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    two = at_once(EVALUATE_ALL_RUN, out, started)
    assert sorted(run.ends() for run in two) == [0, 2]
    [folder] = [path.parent for path in out.rglob("result.json")]
    assert_undisturbed("linear", folder)


@pytest.mark.timeout(3000)
def test_an_evaluate_all_that_is_killed_stops_no_other(out, started, whole):
    if not whole:
        pytest.skip("with --whole")
    first = started(EVALUATE_ALL_RUN.start(out))
    has_come(first, out, EVALUATE_ALL_RUN.training)
    first.kill()
    started(EVALUATE_ALL_RUN.start(out, name="next")).ended_well()
    [folder] = [path.parent for path in out.rglob("result.json")]
    assert result_of(RUNS["linear"], folder) == undisturbed("linear")[0]
