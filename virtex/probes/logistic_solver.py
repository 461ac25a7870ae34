"""Multinomial logistic regression for many regularization strengths, on CPU or GPU.

The objective is that of scikit-learn's ``LogisticRegression(solver="lbfgs")``, which has a unique
minimum: the sum of the cross entropies plus ``strength / 2`` times the squared norm of the
weights, where ``strength`` is 1 / C and biases are not regularized. It is also minimized by L-BFGS,
but on features in a basis in which a diagonal approximates the Hessian, and starting from the
solution for the next larger strength. That takes tens of iterations where scikit-learn takes
hundreds.
"""

import warnings
from collections.abc import Iterator, Sequence

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from virtex.probes.svm_solver import to_principal_axes

HISTORY = 10  # correction pairs of L-BFGS, as in scikit-learn
LINE_SEARCH_SLOPE = 0.1  # a line search stops at this fraction of its initial slope
LINE_SEARCH_STEPS = 20


@torch.no_grad()
def fit_logistic_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Sequence[float],
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
) -> Iterator[tuple[float, Tensor]]:
    """Fit a classifier for each strength, from the largest to the smallest.

    Args:
        features: (n, d), float32 or float64; determines precision and device.
        labels: (n,) int64; every class in [0, num_classes) has a row, because the bias of
            another class would have no optimum.
        strengths: of the regularization, positive; scikit-learn's 1 / C.
        tolerance: largest distance of an objective from its minimum, estimated by the diagonal
            approximation, relative to the penalty. (Relative to the objective it would be too
            coarse with strong regularization, where the objective barely depends on the weights.)
        max_iterations: for each strength; a ``ConvergenceWarning`` names those that reach it.

    Yields:
        each strength, and weights (d + 1, num_classes) with the biases in the last row; see
        ``virtex.probes.svm_solver.decision_function``.

    Raises:
        ValueError: mismatched shapes, classes without labels, non-positive strengths, or
            non-finite features.
    """
    validate_problem(features, labels, num_classes, strengths)
    path = LogisticPath(features, labels, num_classes)
    for strength in sorted(strengths, reverse=True):
        if not path.descend(strength, tolerance, max_iterations):
            warnings.warn(
                f"logistic regression with strength {strength:g} did not converge to "
                f"{tolerance:g} in {max_iterations} iterations",
                ConvergenceWarning,
                stacklevel=2,
            )
        yield strength, path.feature_weights()


def validate_problem(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]
) -> None:
    """Validate the arguments of ``fit_logistic_path``.

    Raises:
        ValueError: an argument is invalid.
    """
    if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
        raise ValueError(
            "expected non-empty features (n, d) and labels (n,), but got the shapes "
            f"{tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if features.dtype not in (torch.float32, torch.float64) or not features.isfinite().all():
        raise ValueError(f"expected finite float32 or float64 features, but got {features.dtype}")
    present = labels.unique().tolist()
    if num_classes < 2 or present != list(range(num_classes)):
        raise ValueError(
            f"expected labels of at least 2 classes, each with a row, but got {len(present)} of "
            f"{num_classes} classes, with labels from {present[0]} to {present[-1]}"
        )
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"expected positive strengths, but got {list(strengths)}")


class LogisticPath:
    """The current solution, from which the optimization for the next strength starts.

    The gradient is computed from the probabilities of the wrong classes. For rows that are
    classified with certainty, 1 minus the probability of the right class would be a rounding error,
    and weak regularization would never converge in float32.

    Attributes:
        rows: (n, r + 1) centered features on their principal axes, then a constant 1.
        weights: (r + 1, classes).
        margins: (n, classes), logits minus the logit of the row's label.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int):
        self.mean = features.mean(dim=0)
        rows, self.basis = to_principal_axes(features - self.mean)
        self.rows = torch.cat([rows, torch.ones_like(features[:, :1])], dim=1)
        self.curvature = self.rows.square().sum(dim=0)[:, None]
        self.is_regularized = torch.ones_like(self.curvature)
        self.is_regularized[-1] = 0
        self.labels = labels[:, None]
        self.weights = self.rows.new_zeros(self.rows.shape[1], num_classes)
        self.margins = self.rows.new_zeros(len(features), num_classes)

    def feature_weights(self) -> Tensor:
        """Return the weights (d + 1, classes) for the original features, biases last.

        The mean of the biases is 0; the objective does not depend on it.
        """
        weights = self.basis @ self.weights[:-1]
        biases = self.weights[-1:] - self.mean[None] @ weights
        return torch.cat([weights, biases - biases.mean()])

    def descend(self, strength: float, tolerance: float, max_iterations: int) -> bool:
        """Minimize the objective for a strength. Return whether it converged."""
        decay = strength * self.is_regularized
        history: list[tuple[Tensor, Tensor]] = []  # changes of weights and of the gradient
        previous, moved = None, None
        for _ in range(max_iterations):
            wrong = self.wrong_class_probabilities(self.margins)
            # probabilities minus one-hot labels: p(label) - 1 is minus the sum of the others
            residual = wrong.scatter(1, self.labels, -wrong.sum(dim=1, keepdim=True))
            gradient = self.rows.T @ residual + decay * self.weights
            if previous is not None and moved is not None:
                history = [*history, (moved, gradient - previous)][-HISTORY:]
            # Diagonal approximation of the Hessian, as if all rows had the same probabilities.
            spread = (residual.abs() * (1 - residual.abs())).mean(dim=0)
            scale = self.curvature * spread + decay
            scale.clamp_(min=torch.finfo(scale.dtype).tiny)
            penalty = (decay * self.weights.square()).sum()
            if (gradient.square() / scale).sum() <= tolerance * penalty:
                return True
            direction = lbfgs_direction(gradient, scale, history)
            change = self.rows @ direction
            change -= change.gather(1, self.labels)
            step = self.step_length(gradient, direction, change, decay)
            previous, moved = gradient, step * direction
            self.weights = self.weights + moved
            self.margins = self.margins + step * change
        return False

    def wrong_class_probabilities(self, margins: Tensor) -> Tensor:
        """Return the probabilities (n, classes) with 0 for the label."""
        top = margins.amax(dim=1, keepdim=True)  # at least 0, the margin of the label
        odds = (margins - top).exp().scatter(1, self.labels, 0.0)
        return odds / (odds.sum(dim=1, keepdim=True) + (-top).exp())

    def step_length(
        self, gradient: Tensor, direction: Tensor, change: Tensor, decay: Tensor
    ) -> Tensor:
        """Return the step that minimizes the objective along a direction.

        The objective is convex, so a bracketed Newton iteration finds the root of its slope. It
        needs only the margins, not the features.

        Args:
            gradient, direction: (r + 1, classes).
            change: (n, classes), of the margins in a unit step.
            decay: (r + 1, 1), strength of each row of the weights; 0 for the biases.
        """
        initial = (gradient * direction).sum()
        slope_of_weights = (decay * self.weights * direction).sum()
        curvature_of_weights = (decay * direction.square()).sum()
        step = torch.ones_like(initial)
        low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
        for _ in range(LINE_SEARCH_STEPS):
            wrong = self.wrong_class_probabilities(self.margins + step * change)
            means = (wrong * change).sum(dim=1)
            slope = means.sum() + slope_of_weights + step * curvature_of_weights
            if slope.abs() <= LINE_SEARCH_SLOPE * initial.abs():
                break
            variances = (wrong * change.square()).sum(dim=1) - means.square()
            low, high = (step, high) if slope < 0 else (low, step)
            step = step - slope / (variances.sum() + curvature_of_weights)
            if not low < step < high:
                step = 2 * low if high.isinf() else (low + high) / 2
        return step


def lbfgs_direction(
    gradient: Tensor, scale: Tensor, history: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the search direction of L-BFGS (Nocedal and Wright, algorithm 7.4).

    Args:
        scale: diagonal of the initial Hessian.
        history: changes of weights and of the gradient, oldest first.
    """
    pairs = [
        (moved, turned, 1 / curvature)
        for moved, turned in history
        if (curvature := (moved * turned).sum()) > 0
    ]
    descent, factors = gradient, []
    for moved, turned, inverse in reversed(pairs):
        factors.append(inverse * (moved * descent).sum())
        descent = descent - factors[-1] * turned
    descent = descent / scale
    for (moved, turned, inverse), factor in zip(pairs, reversed(factors), strict=True):
        descent = descent + (factor - inverse * (turned * descent).sum()) * moved
    return -descent
