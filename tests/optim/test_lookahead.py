"""Lookahead: the algorithm, resuming, gradient scalers."""

import copy

import pytest
import torch

from virtex.optim import Lookahead


def make(seed=0, k=3, alpha=0.5, kind=torch.optim.SGD, **settings):
    """A small model, its optimizer and Lookahead."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    return model, optimizer, Lookahead(optimizer, k=k, alpha=alpha)


def train(model, optimizer, steps):
    """``steps`` steps; the batch of a step is drawn from the optimizer's step count."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def reference(start, steps, k, alpha):
    """Algorithm 1 of the paper, written out for one vector and gradient = weight."""
    slow = fast = start
    for step in range(1, steps + 1):
        fast = fast - 0.1 * fast
        if step % k == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow
    return fast


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.5), (3, 0.5), (5, 0.8), (4, 1.0)])
@pytest.mark.parametrize("steps", [2, 5, 12])
def test_matches_algorithm_1(k, alpha, steps):
    start = torch.arange(1.0, 5.0)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    Lookahead(optimizer, k=k, alpha=alpha)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * parameter.square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), reference(start, steps, k, alpha))


def test_slow_weights_start_at_loaded_weights():
    model, optimizer, _ = make(k=1, alpha=1e-6)
    with torch.no_grad():
        model.weight.fill_(7.0)
    train(model, optimizer, [0])
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 3), 7.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_resume_is_bit_exact(tmp_path, kind, stop):
    whole, optimizer, _ = make(kind=kind)
    train(whole, optimizer, range(10))

    model, optimizer, lookahead = make(kind=kind)
    train(model, optimizer, range(stop))
    state = {"model": model, "optimizer": optimizer, "lookahead": lookahead}
    torch.save({key: value.state_dict() for key, value in state.items()}, tmp_path / "last.pth")

    model, optimizer, lookahead = make(seed=1, kind=kind)
    state = {"model": model, "optimizer": optimizer, "lookahead": lookahead}
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    for key, value in state.items():
        value.load_state_dict(content[key])
    train(model, optimizer, range(stop, 10))
    assert torch.equal(weights(model), weights(whole))


@pytest.mark.parametrize("lost", ["step", "slow"])
def test_step_and_slow_weights_both_matter(lost):
    whole, optimizer, lookahead = make()
    train(whole, optimizer, range(5))
    state = copy.deepcopy(lookahead.state_dict())
    model, optimizer2, resumed = make()
    model.load_state_dict(whole.state_dict())
    optimizer2.load_state_dict(optimizer.state_dict())
    fresh = {"step": 0, "slow": [p.detach().clone() for p in model.parameters()]}
    resumed.load_state_dict({**state, lost: fresh[lost]})
    train(whole, optimizer, range(5, 7))
    train(model, optimizer2, range(5, 7))
    assert not torch.equal(weights(model), weights(whole))


def test_loaded_state_is_copied():
    state = make(k=1)[2].state_dict()
    before = [tensor.clone() for tensor in state["slow"]]
    model, optimizer, lookahead = make(seed=1, k=1)
    lookahead.load_state_dict(state)
    train(model, optimizer, [0])
    assert all(torch.equal(a, b) for a, b in zip(state["slow"], before, strict=True))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": 1},
        {"step": 1, "slow": []},
        {"step": 1, "slow": [torch.zeros(2, 3), torch.zeros(3)]},
        {"state": {}, "param_groups": []},
    ],
)
def test_invalid_state_changes_nothing(state):
    model, optimizer, lookahead = make()
    train(model, optimizer, [0])
    before = copy.deepcopy(lookahead.state_dict())
    with pytest.raises(ValueError, match="Lookahead's state"):
        lookahead.load_state_dict(state)
    after = lookahead.state_dict()
    assert after["step"] == before["step"] == 1
    assert all(torch.equal(a, b) for a, b in zip(after["slow"], before["slow"], strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_are_not_counted(fused):
    model, optimizer, lookahead = make(fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for value in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 3), value)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert lookahead.step == 2


def test_works_with_schedulers():
    _, optimizer, _ = make()
    assert isinstance(optimizer, torch.optim.Optimizer)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_parameter_dtype_is_kept():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    lookahead = Lookahead(optimizer, k=1)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert parameter.tolist() == [0.75, 0.75]
    assert lookahead.state_dict()["slow"][0].dtype == torch.bfloat16


def test_parameters_added_late():
    model, optimizer, _ = make(k=1)
    train(model, optimizer, [0])
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="added"):
        train(model, optimizer, [1])


@pytest.mark.parametrize(("k", "alpha"), [(0, 0.5), (5, 0.0), (5, 1.5)])
def test_invalid_arguments(k, alpha):
    with pytest.raises(ValueError, match="k >= 1 and alpha"):
        make(k=k, alpha=alpha)
