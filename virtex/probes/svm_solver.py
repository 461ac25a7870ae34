"""Solve many linear support vector machines simultaneously, on CPU or GPU.

Every class, cost and fold of an evaluation is a column of one problem. All columns descend
together by nonlinear conjugate gradients, so the work is matrix products with the features they
share. The objective is that of liblinear's ``LinearSVC(penalty="l2", loss="squared_hinge")``,
which has a unique minimum; only the stopping criterion is approximate.
"""

import warnings
from dataclasses import dataclass, fields

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

MAX_ENTRIES = 2**24  # of an (images, columns) matrix, of which about ten exist at a time
LINE_SEARCH_SLOPE = 1e-3  # a line search stops at this fraction of its initial slope
LINE_SEARCH_STEPS = 20  # reached only when rounding errors dominate


@torch.no_grad()
def fit_svms(
    features: Tensor,
    targets: Tensor,
    costs: Tensor,
    used: Tensor | None = None,
    positive_weight: float = 2.0,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
) -> Tensor:
    """Fit k linear classifiers, each to the optimum of its own problem.

    Column j minimizes, over the rows i with ``used[i, j]``, where the last element of x is 1::

        1/2 |w|^2 + costs[j] * sum_i weight_i * max(0, 1 - targets[i, j] * w.x_i)^2

    where ``weight_i`` is ``positive_weight`` for a target of 1 and 1 for a target of -1. The bias
    is regularized like the other weights, as in liblinear. A column may use rows of a single
    class, or none.

    Args:
        features: (n, d), float32 or float64; determines precision and device.
        targets: (n, k) of -1 and 1.
        costs: (k,), positive.
        used: (n, k) bool; None for all rows.
        positive_weight: liblinear's ``class_weight={1: positive_weight, -1: 1}``.
        tolerance: largest relative distance of an objective from its optimum. The distance is an
            estimate; the true one was up to 2.5 times the tolerance on features of networks.
            float32 reaches the default there, float64 1e-13.
        max_iterations: of each column. A ``ConvergenceWarning`` counts the columns that reach it.

    Returns:
        (d + 1, k), biases in the last row; see ``decision_function``.

    Raises:
        ValueError: mismatched shapes, targets other than -1 and 1, non-positive costs, or
            non-finite features.
    """
    validate_problems(features, targets, costs, used)
    rotated = rotate(features)
    chunk = max(1, MAX_ENTRIES // len(features))
    weights, unconverged = [], 0
    for start in range(0, targets.shape[1], chunk):
        columns = slice(start, start + chunk)
        signs = targets[:, columns].to(features)
        cost = costs[columns].to(features)
        row_costs = torch.where(signs > 0, positive_weight * cost, cost)
        if used is not None:
            row_costs *= used[:, columns].to(features)
        found, remaining = _descend(rotated, signs, row_costs, tolerance, max_iterations)
        weights.append(rotated.basis @ found)
        unconverged += remaining
    if unconverged:
        warnings.warn(
            f"{unconverged} of {targets.shape[1]} SVMs did not converge to {tolerance:g} in "
            f"{max_iterations} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return torch.cat(weights, dim=1)


def decision_function(features: Tensor, weights: Tensor) -> Tensor:
    """Return the logits (n, k) of features (n, d) for weights (d + 1, k)."""
    return features @ weights[:-1] + weights[-1]


def validate_problems(
    features: Tensor, targets: Tensor, costs: Tensor, used: Tensor | None = None
) -> None:
    """Validate the arguments of ``fit_svms``.

    Raises:
        ValueError: an argument is invalid.
    """
    shapes = [tuple(t.shape) for t in (features, targets, costs)]
    (n, k) = targets.shape if targets.ndim == 2 else (0, 0)
    if not n or not k or features.ndim != 2 or len(features) != n or shapes[2] != (k,):
        raise ValueError(
            "expected non-empty features (n, d), targets (n, k) and costs (k,), but got the shapes "
            f"{', '.join(map(str, shapes))}"
        )
    if used is not None and (used.shape != targets.shape or used.dtype != torch.bool):
        raise ValueError(
            f"expected used to be bool {(n, k)}, but got {used.dtype} {tuple(used.shape)}"
        )
    if features.dtype not in (torch.float32, torch.float64) or not features.isfinite().all():
        raise ValueError(f"expected finite float32 or float64 features, but got {features.dtype}")
    if not ((targets == 1) | (targets == -1)).all():
        raise ValueError("expected targets of -1 and 1; use ``used`` to exclude rows")
    if not (costs > 0).all():
        raise ValueError(f"expected positive costs, but the smallest is {costs.min():g}")


@dataclass(frozen=True)
class RotatedFeatures:
    """Features, with a constant 1 appended, in an orthonormal basis that decorrelates them.

    An orthonormal basis preserves the norm of the weights and thus every objective. In this one
    the Hessian is nearly diagonal, so that few iterations suffice.

    Attributes:
        rows: (n, r), r = min(n, d + 1).
        basis: (d + 1, r), maps weights of ``rows`` to weights of the features.
        curvature: (r, 1), squared norm of each column of ``rows``.
    """

    rows: Tensor
    basis: Tensor
    curvature: Tensor


def rotate(features: Tensor) -> RotatedFeatures:
    """Append a constant 1 to features (n, d) and rotate them to their principal axes."""
    rows = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    rows, basis = to_principal_axes(rows)
    return RotatedFeatures(rows, basis, rows.square().sum(dim=0)[:, None])


def to_principal_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate rows (n, d) to the eigenvectors of their Gram matrix.

    Returns:
        the rotated rows (n, r) and the orthonormal basis (d, r), r = min(n, d).
    """
    span = None
    if rows.shape[0] < rows.shape[1]:  # the weights lie in the span of the rows
        span, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T
    _, axes = torch.linalg.eigh(rows.T @ rows)
    return rows @ axes, axes if span is None else span @ axes


@dataclass
class _Columns:
    """The state of the columns that have not converged.

    Attributes:
        index: (k,), column of the result.
        signs, row_costs: (n, k), the problem; unused rows cost 0.
        weights: (r, k), current iterate.
        slack: (n, k), 1 - signs * outputs.
        direction: (r, k), search direction.
        gradient: (r, k), at the previous iterate.
        energy: (k,), squared norm of that gradient in the metric of the preconditioner.
    """

    index: Tensor
    signs: Tensor
    row_costs: Tensor
    weights: Tensor
    slack: Tensor
    direction: Tensor
    gradient: Tensor
    energy: Tensor

    @classmethod
    def at_zero(cls, signs: Tensor, row_costs: Tensor, rank: int) -> "_Columns":
        """Start at zero; infinite energy makes the first direction steepest descent."""
        k = signs.shape[1]
        nothing = signs.new_zeros(rank, k)
        index, energy = torch.arange(k, device=signs.device), signs.new_full((k,), torch.inf)
        ones = torch.ones_like(signs)
        return cls(index, signs, row_costs, nothing, ones, nothing, nothing, energy)

    def keep(self, kept: Tensor) -> "_Columns":
        return _Columns(*(getattr(self, field.name)[..., kept] for field in fields(self)))


def _descend(
    rotated: RotatedFeatures,
    signs: Tensor,
    row_costs: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, int]:
    """Return the weights (r, k) in the rotated basis and the number of unconverged columns.

    Preconditioned nonlinear conjugate gradients (Polak-Ribiere+) with an exact line search. The
    objective is piecewise quadratic, and within a piece this is linear conjugate gradients.
    Truncated Newton with the same preconditioner needed twice as many products with the features
    at VOC07's size, and more at higher costs.
    """
    columns = _Columns.at_zero(signs, row_costs, rank=len(rotated.curvature))
    found = torch.zeros_like(columns.weights)
    for _ in range(max_iterations):
        loss = columns.slack.clamp(min=0)
        costly = columns.row_costs * loss
        gradient = columns.weights - 2 * (rotated.rows.T @ (costly * columns.signs))
        active = (columns.row_costs * (loss > 0)).mean(dim=0)
        # Diagonal approximation of the Hessian, as if all rows were active in equal parts.
        descent = gradient / (1 + 2 * active * rotated.curvature)
        energy = (gradient * descent).sum(dim=0)
        objective = columns.weights.square().sum(dim=0) / 2 + (costly * loss).sum(dim=0)
        kept = ~(energy <= tolerance * objective)  # NaN has not converged
        if not kept.all():
            found[:, columns.index[~kept]] = columns.weights[:, ~kept]
            columns, energy = columns.keep(kept), energy[kept]
            gradient, descent = gradient[:, kept], descent[:, kept]
            if not len(energy):
                return found, 0
        _update_direction(columns, gradient, descent, energy)
        _update_weights(columns, rotated.rows)
    found[:, columns.index] = columns.weights
    return found, len(columns.index)


def _update_direction(columns: _Columns, gradient: Tensor, descent: Tensor, energy: Tensor) -> None:
    """Set the next direction, conjugate to the previous one."""
    beta = ((gradient - columns.gradient) * descent).sum(dim=0) / columns.energy
    direction = beta.clamp(min=0) * columns.direction - descent
    # The preconditioner changes between iterations, so descent is not guaranteed.
    is_descent = (gradient * direction).sum(dim=0) < 0
    columns.direction = torch.where(is_descent, direction, -descent)
    columns.gradient, columns.energy = gradient, energy


def _update_weights(columns: _Columns, rows: Tensor) -> None:
    """Move to the minimum along each column's direction."""
    change = columns.signs * (rows @ columns.direction)
    step = _step_length(columns, change)
    columns.weights = torch.addcmul(columns.weights, columns.direction, step)
    columns.slack = torch.addcmul(columns.slack, change, step, value=-1)


def _step_length(columns: _Columns, change: Tensor) -> Tensor:
    """Return the step (k,) that minimizes each column's objective along its direction.

    The slope along a line is piecewise linear and increasing. Newton's method finds its root in a
    few steps; a bracket prevents it from oscillating between two pieces. The features are not
    needed.

    Args:
        change: (n, k), decrease of the slack per unit step.
    """
    loss = columns.slack.clamp(min=0)
    weighted = columns.row_costs * change
    curvatures = weighted * change
    slope = (columns.gradient * columns.direction).sum(dim=0)
    length = columns.direction.square().sum(dim=0)
    step = low = torch.zeros_like(slope)
    high = torch.full_like(slope, torch.inf)
    for _ in range(LINE_SEARCH_STEPS):
        slack = torch.addcmul(columns.slack, change, step, value=-1)
        curvature = length + 2 * (curvatures * (slack > 0)).sum(dim=0)
        # As a difference from the slope at 0, which avoids cancellation near the optimum.
        slope_at = slope + step * length - 2 * (weighted * (slack.clamp_(min=0) - loss)).sum(dim=0)
        if (slope_at.abs() <= LINE_SEARCH_SLOPE * slope.abs()).all():
            break
        low, high = torch.where(slope_at < 0, step, low), torch.where(slope_at < 0, high, step)
        newton = step - slope_at / curvature
        step = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return step
