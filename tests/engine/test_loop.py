"""The training loop: processes, checkpoints, bit-exact resuming, mixed precision."""

import copy

import pytest
import torch
from torch import nn

from tests.engine.small_trainings import (
    CLIP,
    ITERATIONS,
    clipped_change,
    dropout_draws,
    features,
    gradients,
    in_two_processes,
    interrupted,
    plain_loop,
    small_loop,
    stream,
    textual_half,
)
from tests.errors import raises_code
from tests.pretraining_runs import lines_of, training_lines
from tests.run_states import assert_equal, content_of
from virtex.engine.checkpoints import Checkpoints
from virtex.engine.loop import objective
from virtex.engine.losses import LossSum, total_loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def both(folder):
    """The results of process 0 and process 1."""
    return in_two_processes(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    small_loop(folder).run(stream())
    return folder


def distance(found, expected):
    """The largest difference of any tensor, relative to the largest entry of all."""
    assert found.keys() == expected.keys()
    scale = max(tensor.abs().max() for tensor in expected.values())
    return max((found[name] - expected[name]).abs().max() for name in found) / scale


def norm(tensors):
    return torch.stack([tensor.norm() for tensor in tensors.values()]).norm().item()


# --- two processes -------------------------------------------------------------------------------

TASKS = ("bicaptioning", "masked_lm", "classification")


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_have_the_gradients_of_one(both, task):
    alone = gradients(task, objective)
    for process in both:
        assert distance(process["objective"][task], alone) < 1e-9


@pytest.mark.parametrize("task", TASKS)
def test_per_process_means_give_other_gradients(both, task):
    """The batches distinguish the two."""
    alone = gradients(task, total_loss)
    assert distance(alone, gradients(task, objective)) < 1e-9
    assert distance(both[0]["own mean"][task], alone) > 0.01


def test_logged_loss_is_the_mean_over_all_tokens(both, folder, tmp_path):
    small_loop(tmp_path, textual_half("bicaptioning"), clip_norm=1.0).run(features())
    alone, together = training_lines(tmp_path), training_lines(folder / "run")
    assert len(alone) == ITERATIONS
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-9)
    assert alone[-1]["train/loss"] < 0.99 * alone[0]["train/loss"]


def test_gradient_is_clipped_after_averaging(both, tmp_path):
    alone = clipped_change(tmp_path)
    assert norm(alone) == pytest.approx(CLIP, rel=1e-4)
    for process in both:
        # two clipped gradients that are averaged have a smaller norm than each of them
        assert norm(process["clipped"]) == pytest.approx(norm(alone), rel=1e-9)
        assert distance(process["clipped"], alone) < 1e-9


def test_dropout_draws_differ_by_process_and_iteration(both):
    first, second = (process["dropout"][0] for process in both)
    draws = torch.cat([first, second])
    assert len(draws) == 12
    assert len(draws.unique(dim=0)) == 12


def test_dropout_draws_are_the_same_after_a_resume(both, tmp_path):
    for whole, resumed in (*(process["dropout"] for process in both), dropout_draws(tmp_path)):
        assert len(resumed) == 3
        assert torch.equal(resumed, whole[3:])


def test_validation_uses_the_checkpoint_statistics(both, folder):
    saved = torch.load(folder / "statistics/model_final.pth", weights_only=True)["model"]
    for process in both:
        assert process["statistics"]
        for name, value in process["statistics"].items():
            assert torch.equal(value, saved[name]), name


def test_process_without_validation_images(both):
    assert [process["means"] for process in both] == [{"one": 1.5}, {"one": 1.5}]


# --- checkpoints ---------------------------------------------------------------------------------


def test_checkpoint_keys(whole):
    content = torch.load(whole / "model_final.pth", weights_only=True)
    published = ["model", "optimizer", "scheduler", "scaler"]
    assert list(content)[:4] == published
    assert set(content) == {*published, "iteration", "stopwatch", "lookahead"}
    assert content["iteration"] == ITERATIONS


@pytest.mark.parametrize(("keep", "kept"), [(1, [6]), (2, [4, 6]), (5, [2, 4, 6])])
def test_newest_checkpoints_are_kept(tmp_path, keep, kept):
    small_loop(tmp_path, checkpoint_every=2, keep=keep).run(stream())
    names = [f"model_{iteration:07d}.pth" for iteration in kept]
    assert sorted(path.name for path in tmp_path.glob("model_*")) == [*names, "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_last_iteration_is_validated(tmp_path):
    seen = []

    def evaluate(iteration, writer):
        seen.append(iteration)
        return {"val/loss": float(iteration)}

    loop = small_loop(tmp_path, evaluate=evaluate)
    assert loop.run(stream()) == {"val/loss": 8.0}
    assert seen == [3, 6, 8]
    assert [line["iteration"] for line in lines_of(tmp_path) if "val/loss" in line] == seen


def test_eval_mode_during_validation_only(tmp_path):
    modes = []

    def evaluate(iteration, writer):
        modes.append(any(module.training for module in loop.model.modules()))
        return {}

    loop = small_loop(tmp_path, evaluate=evaluate)
    loop.run(stream())
    assert modes == [False, False, False]
    assert all(module.training for module in loop.model.modules())


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [0, 3, 4, 7])
def test_resume_is_bit_exact(tmp_path, whole, stopped):
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path).run(interrupted(stream(), stopped))
    loop = small_loop(tmp_path)
    assert loop.resume() == stopped // 3 * 3
    loop.run(stream(loop.done))
    assert_equal(content_of(tmp_path), content_of(whole))
    assert training_lines(tmp_path) == training_lines(whole)


def test_resume_logs_the_same_losses(tmp_path):
    """With a checkpoint between two log lines."""
    rarely = {"log_every": 5, "checkpoint_every": 3}
    small_loop(tmp_path / "whole", **rarely).run(stream())
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path / "parts", **rarely).run(interrupted(stream(), 4))
    loop = small_loop(tmp_path / "parts", **rarely)
    loop.run(stream(loop.resume()))
    assert training_lines(tmp_path / "parts") == training_lines(tmp_path / "whole")


def test_extended_run_follows_the_new_schedule(tmp_path):
    small_loop(tmp_path, iterations=4).run(stream())
    loop = small_loop(tmp_path, iterations=8)
    assert loop.resume() == 4
    loop.run(stream(4))
    rates = {line["iteration"]: line["lr/rest"] for line in training_lines(tmp_path)}
    assert rates[4] == 0.0  # the short run's cosine has come to its end
    assert rates[5] == pytest.approx(0.05 * 0.5)  # half of the way from warm-up (2) to 8
    assert rates[8] == 0.0


def test_resume_after_the_last_checkpoint_validates(tmp_path):
    small_loop(tmp_path).run(stream())
    before = content_of(tmp_path)
    loop = small_loop(tmp_path, evaluate=lambda iteration, writer: {"val/loss": 0.5})
    assert loop.resume() == ITERATIONS
    assert loop.run(iter(())) == {"val/loss": 0.5}
    assert lines_of(tmp_path)[-1] == {"iteration": ITERATIONS, "val/loss": 0.5}
    assert_equal(content_of(tmp_path), before)


def test_shortened_run_saves_the_final_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path).run(interrupted(stream(), 7))
    loop = small_loop(tmp_path, iterations=6)
    assert loop.resume() == 6
    loop.run(iter(()))
    assert_equal(content_of(tmp_path)["model"], content_of(tmp_path, "model_0000006.pth")["model"])


def test_resume_beyond_the_end(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path).run(interrupted(stream(), 7))
    with raises_code("resume.beyond_end", tmp_path, "iteration 6"):
        small_loop(tmp_path, iterations=5).resume()


# --- non-finite losses ---------------------------------------------------------------------------


def broken_at(iteration):
    """``stream``, with a non-finite image at an iteration."""
    for number, batch in enumerate(stream(), 1):
        if number == iteration:
            batch["image"][1] = torch.inf
        yield batch


def ids_of(iteration):
    return [batch["image_id"].tolist() for batch, _ in zip(stream(), range(iteration))][-1]  # noqa: B905


def test_non_finite_loss_names_iteration_and_images(tmp_path):
    with raises_code("run.not_finite", "iteration 5 ", f"images {', '.join(map(str, ids_of(5)))}"):
        small_loop(tmp_path).run(broken_at(5))


def test_non_finite_loss_keeps_the_checkpoint(tmp_path, whole):
    with raises_code("run.not_finite"):
        small_loop(tmp_path).run(broken_at(5))
    assert [path.name for path in tmp_path.glob("*model_*")] == ["model_0000003.pth"]
    assert_equal(content_of(tmp_path, "model_0000003.pth"), content_of(whole, "model_0000003.pth"))
    loop = small_loop(tmp_path)
    loop.run(stream(loop.resume()))
    assert_equal(content_of(tmp_path), content_of(whole))


class Root(nn.Module):
    """A loss of 0 whose gradient is infinite."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"root": LossSum(self.weight.sqrt(), torch.tensor(1))}


def test_non_finite_gradient_is_not_applied(tmp_path):
    model = Root()
    with raises_code("run.not_finite", "gradient", "iteration 1 "):
        plain_loop(tmp_path, model, iterations=3, clip_norm=10.0).run(stream())
    assert model.weight == 0


# --- mixed precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_autocast_dtype(tmp_path, dtype):
    loop, seen = small_loop(tmp_path, iterations=2, amp_dtype=dtype), []
    loop.model.visual.cnn[0].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    loop.run(stream())
    assert set(seen) == {dtype or torch.float32}
    assert {p.dtype for p in loop.model.parameters()} == {torch.float32}


def test_only_float16_scales_its_loss(tmp_path):
    dtypes = (None, torch.bfloat16, torch.float16)
    loops = [small_loop(tmp_path, amp_dtype=dtype) for dtype in dtypes]
    assert [loop.scaler.is_enabled() for loop in loops] == [False, False, True]


def test_float16_gradient_is_unscaled_before_clipping(tmp_path):
    """A step of length 1 moves the weights by the clipped gradient, whatever the loss scale."""
    model = small_loop(tmp_path / "model").model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings = {"iterations": 1, "clip_norm": CLIP, "amp_dtype": torch.float16}
    plain_loop(tmp_path, model, **settings).run(stream())
    moved = [weight.detach() - before[name] for name, weight in model.named_parameters()]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(CLIP, rel=0.01)


def test_overflowing_steps_are_skipped(tmp_path):
    loop = small_loop(tmp_path, iterations=4, amp_dtype=torch.float16, clip_norm=10.0)
    loop.scaler.load_state_dict({**loop.scaler.state_dict(), "scale": 2.0**120})
    before = {name: weight.detach().clone() for name, weight in loop.model.named_parameters()}
    loop.run(stream())
    assert all(torch.equal(w, before[name]) for name, w in loop.model.named_parameters())
    assert content_of(tmp_path)["lookahead"]["step"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_resume_is_bit_exact(tmp_path, dtype):
    small_loop(tmp_path / "whole", amp_dtype=dtype).run(stream())
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path / "parts", amp_dtype=dtype).run(interrupted(stream(), 5))
    loop = small_loop(tmp_path / "parts", amp_dtype=dtype)
    loop.run(stream(loop.resume()))
    assert_equal(content_of(tmp_path / "parts"), content_of(tmp_path / "whole"))


def test_resume_with_another_dtype(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small_loop(tmp_path).run(interrupted(stream(), 5))
    loop = small_loop(tmp_path, amp_dtype=torch.float16)
    assert loop.resume() == 3


# --- other errors --------------------------------------------------------------------------------


def test_resume_without_last_checkpoint_file(tmp_path):
    small_loop(tmp_path).run(stream())
    (tmp_path / "last_checkpoint").unlink()
    assert small_loop(tmp_path).resume() == ITERATIONS


@pytest.mark.parametrize("content", [5, [1, 2], {"model": {}}])
def test_invalid_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "model_final.pth")
    with raises_code("resume.invalid_checkpoint", tmp_path / "model_final.pth"):
        small_loop(tmp_path).resume()


TAMPERED = {
    "model.visual.cnn.0.weight": torch.zeros(1),
    "model.extra": torch.zeros(1),
    "optimizer.state.0.momentum_buffer": torch.zeros(1),  # the fused SGD would write beyond it
    "optimizer.state.1.momentum_buffer": torch.zeros(16, dtype=torch.float16),
    "optimizer.state.2": 5,
    "optimizer": {},
    "optimizer.state.99": {},
    "optimizer.param_groups.0.params": [0],
    "optimizer.param_groups.0.weight_decay": 0.5,
    "optimizer.param_groups.0.momentum": "0.9",
    "scheduler.last_epoch": 2,
    "scaler.scale": float("nan"),
    "stopwatch.seconds": "1",
    "lookahead.slow": [],
    "iteration": "3",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_resumed_state_is_compared_with_the_run(tmp_path, name):
    settings = {"iterations": 3, "amp_dtype": torch.float16}
    small_loop(tmp_path, **settings).run(stream())
    content, (*keys, last) = torch.load(tmp_path / "model_final.pth"), name.split(".")
    if keys[:1] == ["model"]:
        keys, last = ["model"], name.removeprefix("model.")
    parent = content
    for key in keys:
        parent = parent[int(key) if key.isdigit() else key]
    parent[int(last) if last.isdigit() else last] = TAMPERED[name]
    torch.save(content, tmp_path / "model_final.pth")
    loop = small_loop(tmp_path, **settings)
    before = copy.deepcopy(loop.model.state_dict())
    section = name.partition(".")[0]
    with raises_code("resume.invalid_checkpoint", tmp_path / "model_final.pth", section):
        loop.resume()
    assert_equal(loop.model.state_dict(), before)


@pytest.mark.parametrize(
    "iteration", [None, True, -1, 1 << 20_000], ids=["none", "bool", "negative", "huge"]
)
def test_invalid_iteration(tmp_path, iteration):
    small_loop(tmp_path, iterations=0).run(stream())
    path = tmp_path / "model_final.pth"
    torch.save({**torch.load(path), "iteration": iteration}, path)
    with raises_code("resume.invalid_checkpoint", path, "iteration"):
        small_loop(tmp_path).resume()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_state_of_every_optimizer_resumes(tmp_path, kind):
    """Also where a parameter has no gradient, and so no state."""
    model = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    optimizer = kind(model.parameters(), lr=0.1, fused=True)
    model[0](torch.ones(2)).sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path, model, {"optimizer": optimizer})
    checkpoints.save("model_final.pth", iteration=0)
    content = checkpoints.resume(1, zero_based=True)
    assert_equal(content["optimizer"], optimizer.state_dict())


def test_non_finite_validation(tmp_path):
    loop = small_loop(tmp_path, evaluate=lambda iteration, writer: {"val/loss": float("nan")})
    with raises_code("run.not_finite", "val/loss", "iteration 3"):
        loop.run(stream())
