"""Learning rate schedules: warmup, decays, resuming."""

import copy
import math

import pytest
import torch

from virtex.config import default_config
from virtex.config.validation import CHOICES
from virtex.optim import build_schedule
from virtex.optim.schedules import DECAYS, multiplier


def make_config(decay="cosine", total=100, warmup=10, steps=(), **optim):
    config = default_config()
    config.OPTIM.LR_DECAY_NAME = decay
    config.OPTIM.NUM_ITERATIONS = total
    config.OPTIM.WARMUP_STEPS = warmup
    config.OPTIM.LR_STEPS = list(steps)
    for key, value in optim.items():
        config.OPTIM[key] = value
    return config


def make_optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates or (1.0,)]
    return torch.optim.SGD(groups, momentum=0.9)


def run(optimizer, schedule, steps):
    """The first group's rate in each of the next ``steps`` steps."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_every_decay_name_has_a_schedule():
    assert set(DECAYS) == set(CHOICES["OPTIM.LR_DECAY_NAME"])


@pytest.mark.parametrize("decay", DECAYS)
def test_linear_warmup(decay):
    optim = make_config(decay, steps=[50]).OPTIM
    assert [multiplier(step, optim) for step in (0, 1, 5, 9)] == [0.0, 0.1, 0.5, 0.9]
    assert multiplier(10, optim) == 1.0


@pytest.mark.parametrize("decay", DECAYS)
def test_no_warmup(decay):
    assert multiplier(0, make_config(decay, warmup=0, steps=[50]).OPTIM) == 1.0


@pytest.mark.parametrize("step", [10, 11, 55, 77, 99, 100])
def test_cosine_matches_the_published_formula(step):
    published = math.cos((step - 10) / 90 * math.pi / 2) ** 2
    assert multiplier(step, make_config("cosine").OPTIM) == pytest.approx(published, abs=1e-15)


@pytest.mark.parametrize(("step", "expected"), [(10, 1.0), (55, 0.5), (100, 0.0)])
def test_linear(step, expected):
    assert multiplier(step, make_config("linear").OPTIM) == expected


@pytest.mark.parametrize(("step", "expected"), [(49, 1), (50, 0.1), (79, 0.1), (80, 0.01)])
def test_multistep(step, expected):
    optim = make_config("multistep", steps=[50, 80], LR_GAMMA=0.1).OPTIM
    assert multiplier(step, optim) == pytest.approx(expected)


def test_none_is_constant():
    assert multiplier(10**6, make_config("none").OPTIM) == 1.0


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_zero_beyond_the_end(decay):
    assert multiplier(150, make_config(decay).OPTIM) == 0.0


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_warmup_only(decay):
    optim = make_config(decay, total=10, warmup=10).OPTIM
    assert (multiplier(9, optim), multiplier(10, optim)) == (0.9, 0.0)


def test_groups_scale_their_own_rates():
    optimizer = make_optimizer(0.2, 0.001)
    schedule = build_schedule(make_config("none", warmup=2), optimizer)
    run(optimizer, schedule, 1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0005]
    assert schedule.get_last_lr() == [0.1, 0.0005]


def resume(config, saved, optimizer=None):
    optimizer = optimizer or make_optimizer()
    schedule = build_schedule(config, optimizer)
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["scheduler"])
    return optimizer, schedule


def interrupted(config, steps):
    optimizer = make_optimizer()
    schedule = build_schedule(config, optimizer)
    run(optimizer, schedule, steps)
    return copy.deepcopy({"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()})


def test_resume():
    config = make_config()
    optimizer = make_optimizer()
    whole = run(optimizer, build_schedule(config, optimizer), 100)
    optimizer, schedule = resume(config, interrupted(config, 37))
    assert run(optimizer, schedule, 63) == whole[37:]


@pytest.mark.parametrize("stopped", [37, 100])
def test_resume_with_more_iterations(stopped):
    longer = make_config(total=200)
    optimizer = make_optimizer()
    whole = run(optimizer, build_schedule(longer, optimizer), 200)
    optimizer, schedule = resume(longer, interrupted(make_config(total=100), stopped))
    assert run(optimizer, schedule, 200 - stopped) == whole[stopped:]


def test_resume_with_another_rate():
    saved = interrupted(make_config("none"), 37)
    optimizer, schedule = resume(make_config("none"), saved, make_optimizer(0.5))
    assert run(optimizer, schedule, 2) == [0.5, 0.5]


def test_published_scheduler_state():
    optimizer = make_optimizer()
    schedule = build_schedule(make_config(total=200), optimizer)
    published = {"tsteps": 100, "wsteps": 10, "base_lrs": [3.0], "last_epoch": 105}
    schedule.load_state_dict({**published, "_step_count": 106, "lr_lambdas": [{}]})
    assert run(optimizer, schedule, 1) == [pytest.approx(0.5)]


def test_schedule_copies_the_config():
    config, optimizer = make_config(), make_optimizer()
    schedule = build_schedule(config, optimizer)
    config.OPTIM.WARMUP_STEPS = 1
    assert run(optimizer, schedule, 3) == [0.0, 0.1, 0.2]
