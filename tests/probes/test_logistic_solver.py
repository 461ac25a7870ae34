"""Logistic regression reaches the optimum of scikit-learn's objective for every strength."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tests.probes.test_svm_solver import MAKERS, like_pooled
from virtex.probes.logistic_solver import fit_logistic_path
from virtex.probes.svm_solver import decision_function

CLASSES = 5
STRENGTHS = np.logspace(-5, 5, 6).tolist()


def make_problem(make, seed=0):
    torch.manual_seed(seed)
    features = make()
    outputs = features @ torch.randn(features.shape[1], CLASSES, dtype=torch.float64)
    noise = 0.3 * outputs.std(dim=0) * torch.randn_like(outputs)
    outputs += noise
    outputs -= outputs.median(dim=0).values  # every class has rows
    return features, (outputs / outputs.std(dim=0)).argmax(dim=1)


def objective(features, labels, weights, strength):
    losses = F.cross_entropy(decision_function(features, weights), labels, reduction="sum")
    return losses + strength / 2 * weights[:-1].square().sum()


def relative_gradient(features, labels, weights, strength):
    """Norm of the gradient, relative to that at zero."""
    norms = []
    for point in (weights, torch.zeros_like(weights)):
        point = point.clone().requires_grad_()
        objective(features, labels, point, strength).backward()
        norms.append(point.grad.norm())
    return norms[0] / norms[1]


@pytest.mark.parametrize("make", MAKERS)
def test_agrees_with_sklearn(make):
    features, labels = make_problem(make)
    found = dict(fit_logistic_path(features, labels, CLASSES, [0.03, 1.0, 30.0], 1e-12))
    for strength, weights in found.items():
        model = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=20_000)
        model.fit(features.numpy(), labels.numpy())
        expected = torch.from_numpy(np.c_[model.coef_, model.intercept_]).T
        best = objective(features, labels, expected, strength)
        assert objective(features, labels, weights, strength) <= best * (1 + 1e-9)
        outputs = decision_function(features, weights).softmax(dim=1)
        assert torch.allclose(
            outputs, decision_function(features, expected).softmax(dim=1), atol=1e-4
        )


@pytest.mark.parametrize("make", MAKERS)
def test_gradient_vanishes_at_every_strength(make):
    features, labels = make_problem(make)
    for strength, weights in fit_logistic_path(features, labels, CLASSES, STRENGTHS[1:], 1e-12):
        assert relative_gradient(features, labels, weights, strength) < 1e-4, strength


def test_float32_reaches_the_objective_of_float64():
    """Also where all rows are classified with certainty, and the loss is tiny."""
    features, labels = make_problem(like_pooled)
    double = dict(fit_logistic_path(features, labels, CLASSES, STRENGTHS, 1e-12))
    for strength, weights in fit_logistic_path(features.float(), labels, CLASSES, STRENGTHS):
        assert weights.dtype == torch.float32
        best = objective(features, labels, double[strength], strength)
        reached = objective(features, labels, weights.double(), strength)
        assert reached <= best * (1 + 1e-5), strength


def test_path_does_not_affect_a_solution():
    features, labels = make_problem(like_pooled)
    path = dict(fit_logistic_path(features, labels, CLASSES, STRENGTHS, 1e-14))
    ((_, alone),) = fit_logistic_path(features, labels, CLASSES, [STRENGTHS[3]], 1e-14)
    assert torch.allclose(alone, path[STRENGTHS[3]], atol=1e-5)


def test_reports_strengths_that_do_not_converge():
    features, labels = make_problem(like_pooled)
    with pytest.warns(ConvergenceWarning, match="0.001"):
        list(fit_logistic_path(features, labels, CLASSES, [0.001], max_iterations=2))


@pytest.mark.parametrize(
    ("features", "labels", "strengths"),
    [
        (torch.ones(3, 2), torch.tensor([0, 1]), [1.0]),
        (torch.ones(3), torch.tensor([0, 1, 1]), [1.0]),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), [1.0]),
        (torch.ones(3, 2), torch.tensor([0, 1, -1]), [1.0]),
        (torch.ones(3, 2), torch.tensor([1, 1, 1]), [1.0]),
        (torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1]), [1.0]),
        (torch.ones(3, 2), torch.tensor([0, 1, 1]), [0.0]),
        (torch.ones(3, 2), torch.tensor([0, 1, 1]), []),
    ],
)
def test_rejects_invalid_problems(features, labels, strengths):
    with pytest.raises(ValueError, match="expected"):
        list(fit_logistic_path(features, labels, 2, strengths))
