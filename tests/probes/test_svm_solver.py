"""Batched SVMs reach the optimum of liblinear in every column."""

import math

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from virtex.probes import svm_solver
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.probes.svm_solver import decision_function, fit_svms, rotate


def independent(n=120, d=30):
    return torch.randn(n, d, dtype=torch.float64)


def like_pooled(n=200, d=40):
    """Return features like pooled ones: rectified, correlated, of unit norm."""
    factors = torch.randn(n, d, dtype=torch.float64) * torch.arange(1, d + 1) ** -0.7
    features = (factors @ torch.randn(d, d, dtype=torch.float64) + torch.randn(d)).clamp(min=0)
    return torch.nn.functional.normalize(features, dim=1)


def fewer_rows_than_dimensions():
    return like_pooled(n=24, d=150)


def rank_deficient():
    few = independent(n=90, d=6)
    return torch.cat([few, few @ torch.randn(6, 12, dtype=torch.float64)], dim=1)


def constant_dimensions():
    features = independent(n=80, d=10)
    features[:, 3], features[:, 7] = 2.5, 0
    return features


MAKERS = [
    independent,
    like_pooled,
    fewer_rows_than_dimensions,
    rank_deficient,
    constant_dimensions,
]


def make_problems(make, seed=0):
    """Return features and four columns of noisy targets with costs from 0.01 to 10."""
    torch.manual_seed(seed)
    features = make()
    truth = torch.randn(features.shape[1], 4, dtype=torch.float64)
    outputs = features @ truth
    noise = 0.5 * outputs.std(dim=0) * torch.randn_like(outputs)
    targets = torch.where(outputs + noise > outputs.quantile(0.7, dim=0), 1, -1)
    return features, targets, torch.tensor([0.01, 0.1, 1, 10], dtype=torch.float64)


def make_folds(targets, seed=1):
    """Leave out a different third of the rows in each column."""
    torch.manual_seed(seed)
    return torch.rand(targets.shape) > 1 / 3


def objectives(weights, features, targets, costs, used=None, positive_weight=2.0):
    """Return the objectives (k,) as in the docstring of ``fit_svms``."""
    loss = (1 - targets * decision_function(features, weights)).clamp(min=0) ** 2
    loss = loss * torch.where(targets > 0, positive_weight, 1)
    if used is not None:
        loss = loss * used
    return (weights**2).sum(dim=0) / 2 + costs * loss.sum(dim=0)


def tight_liblinear(features, targets, costs, used=None, positive_weight=2.0):
    return fit_svms_liblinear(
        features, targets, costs, used, positive_weight, 1e-8, max_iterations=10**6, jobs=1
    )


def largest_gradient(weights, *problems):
    weights = weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objectives(weights, *problems).sum(), weights)
    return gradient.abs().max().item()


@pytest.mark.parametrize("make", MAKERS)
def test_objective_matches_liblinear(make):
    problems = make_problems(make)
    ours = objectives(fit_svms(*problems), *problems)
    torch.testing.assert_close(
        ours, objectives(tight_liblinear(*problems), *problems), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("make", MAKERS)
def test_decisions_match_liblinear(make):
    features, *problem = make_problems(make)
    ours = decision_function(features, fit_svms(features, *problem, tolerance=1e-12))
    theirs = decision_function(features, tight_liblinear(features, *problem))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_float32_reaches_the_default_tolerance(make):
    features, *problem = make_problems(make)
    weights = fit_svms(features.float(), *problem)
    assert weights.dtype == torch.float32
    best = objectives(fit_svms(features, *problem, tolerance=1e-13), features, *problem)
    reached = objectives(weights.double(), features, *problem)
    assert ((reached - best) / best).max() < 1e-6


def test_unused_rows_have_no_effect():
    features, targets, costs = make_problems(like_pooled)
    used = make_folds(targets)
    together = fit_svms(features, targets, costs, used, tolerance=1e-13)
    for j in range(4):
        rows = used[:, j]
        alone = fit_svms(
            features[rows], targets[rows, j : j + 1], costs[j : j + 1], tolerance=1e-13
        )
        torch.testing.assert_close(together[:, j : j + 1], alone, rtol=1e-4, atol=1e-5)


def test_column_is_the_same_alone_and_among_others():
    features, targets, costs = make_problems(like_pooled)
    together = fit_svms(features, targets, costs, tolerance=1e-13)
    for j in range(4):
        alone = fit_svms(features, targets[:, j : j + 1], costs[j : j + 1], tolerance=1e-13)
        torch.testing.assert_close(together[:, j : j + 1], alone, rtol=1e-5, atol=1e-6)


def test_column_chunks_do_not_change_weights(monkeypatch):
    problems = make_problems(like_pooled)
    once = fit_svms(*problems)
    monkeypatch.setattr(svm_solver, "MAX_ENTRIES", 3 * len(problems[0]))
    torch.testing.assert_close(fit_svms(*problems), once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [like_pooled, fewer_rows_than_dimensions, rank_deficient])
def test_rotation_preserves_outputs_and_norms(make):
    features = make()
    rotated = rotate(features)
    weights = torch.randn(rotated.rows.shape[1], 3, dtype=torch.float64)
    back = rotated.basis @ weights
    torch.testing.assert_close(decision_function(features, back), rotated.rows @ weights)
    torch.testing.assert_close(back.norm(dim=0), weights.norm(dim=0))


@pytest.mark.parametrize("positive_weight", [0.5, 1.0, 7.0])
def test_positive_weight_matches_liblinear(positive_weight):
    features, targets, costs = make_problems(independent)
    ours = fit_svms(features, targets, costs, None, positive_weight, tolerance=1e-12)
    for j, cost in enumerate(costs.tolist()):
        model = LinearSVC(
            C=cost, class_weight={1: positive_weight, -1: 1}, tol=1e-8, max_iter=10**6
        )
        theirs = torch.from_numpy(model.fit(features, targets[:, j]).decision_function(features))
        torch.testing.assert_close(
            decision_function(features, ours)[:, j], theirs, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("sign", [1, -1])
def test_single_class_column(sign):
    features, targets, costs = make_problems(like_pooled)
    targets[:, 2] = sign
    weights = fit_svms(features, targets, costs, tolerance=1e-13)
    assert (sign * decision_function(features, weights)[:, 2] > 0.9).all()
    assert largest_gradient(weights, features, targets, costs) < 1e-3


def test_column_without_rows_has_zero_weights():
    features, targets, costs = make_problems(independent)
    used = torch.ones(targets.shape, dtype=torch.bool)
    used[:, 1] = False
    weights = fit_svms(features, targets, costs, used)
    assert not weights[:, 1].any()
    assert weights[:, 0].any()


@pytest.mark.parametrize("make", [like_pooled, fewer_rows_than_dimensions])
@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_preconditioner_saves_iterations(make):
    """A third of the iterations needed without the preconditioner."""
    fit_svms(*make_problems(make), max_iterations=33)


def test_unconverged_columns_warn():
    with pytest.warns(ConvergenceWarning, match="4 of 4"):
        weights = fit_svms(*make_problems(independent), tolerance=1e-12, max_iterations=3)
    assert weights.any(dim=0).all()


def test_overflowing_cost_is_unconverged():
    features, targets, costs, *rest = make_problems(independent)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit_svms(features.float(), targets, torch.full_like(costs, 1e38).float(), *rest)


def test_unconverged_liblinear_columns_warn_once():
    with pytest.warns(ConvergenceWarning) as caught:
        fit_svms_liblinear(*make_problems(independent), tolerance=1e-12, max_iterations=2, jobs=1)
    (warning,) = caught
    assert "4 of 4" in str(warning.message)


def test_liblinear_in_processes():
    features, targets, costs = make_problems(like_pooled)
    used = make_folds(targets)
    alone = fit_svms_liblinear(features, targets, costs, used, jobs=1)
    torch.testing.assert_close(fit_svms_liblinear(features, targets, costs, used, jobs=2), alone)
    ours = decision_function(features, fit_svms(features, targets, costs, used))
    torch.testing.assert_close(decision_function(features, alone), ours, rtol=0, atol=1e-2)


def test_liblinear_rejects_single_class_columns():
    features, targets, costs = make_problems(independent)
    targets[:, 2] = 1
    with pytest.raises(ValueError, match=r"columns \[2\]"):
        fit_svms_liblinear(features, targets, costs, jobs=1)


@pytest.mark.parametrize("fit", [fit_svms, fit_svms_liblinear])
@pytest.mark.parametrize(
    "broken, message",
    [
        ({"costs": torch.ones(3)}, r"costs \(k,\)"),
        ({"targets": torch.ones(7, 4)}, r"targets \(n, k\)"),
        ({"targets": torch.zeros(120, 4)}, "-1 and 1"),
        ({"targets": torch.ones(120, 4, dtype=torch.bool).logical_not()}, "-1 and 1"),
        ({"costs": torch.tensor([1.0, 0, 1, 1])}, "positive costs"),
        ({"used": torch.ones(120, 4)}, "used to be bool"),
        ({"features": torch.full((120, 30), math.nan)}, "finite"),
        ({"features": torch.ones(120, 30, dtype=torch.float16)}, "float16"),
    ],
)
def test_invalid_problems_are_rejected(fit, broken, message):
    names = ["features", "targets", "costs"]
    problem = dict(zip(names, make_problems(independent), strict=True)) | broken
    with pytest.raises(ValueError, match=message):
        fit(**problem)
