"""Linear support vector machines solved many at a time, on CPU or GPU.

Every class, cost and fold of an evaluation is one column, and all columns descend together by
nonlinear conjugate gradients, so that the work is matrix products over the features they share.
Nothing is approximated but the point where a column stops: the objective is that of liblinear's
``LinearSVC(penalty="l2", loss="squared_hinge")``, which has one optimum.
"""

import warnings
from dataclasses import dataclass, fields

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

MATRIX_ENTRIES = 2**24  # of an (images, columns) matrix; about ten of them exist at a time
LINE_SEARCH_SLOPE = 1e-3  # of the slope at the start, where a line search ends
LINE_SEARCH_STEPS = 20  # never needed but where rounding rules


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
    """Weights of k linear classifiers, each at the optimum of its own problem.

    Column j minimizes, over the rows i that ``used[:, j]`` marks, with x ending in a 1::

        1/2 |w|^2 + costs[j] * sum_i weight_i * max(0, 1 - targets[i, j] * w.x_i)^2

    where ``weight_i`` is ``positive_weight`` for a target of 1 and 1 for a target of -1. The bias
    is the weight of that last 1, so it is kept small like the others, as liblinear does it. A
    column that uses rows of one class only, or none, is a problem like any other.

    Args:
        features: (n, d), float32 or float64, in which precision and on which device all is done.
        targets: (n, k) of -1 and 1.
        costs: (k,), positive.
        used: (n, k) of bool; all rows where None.
        positive_weight: liblinear's ``class_weight={1: positive_weight, -1: 1}``.
        tolerance: how far above its optimum an objective may stay, as a share of its value. The
            distance is estimated; it was measured at up to 2.5 times the tolerance on features
            like a network's. float32 reaches the default there, float64 1e-13.
        max_iterations: after so many a column is given up; how many were, a
            ``ConvergenceWarning`` says.

    Returns:
        (d + 1, k), the last row the biases, for ``decision``.

    Raises:
        ValueError: shapes that do not fit, targets other than -1 and 1, costs that are not
            positive, features that are not finite.
    """
    check_problems(features, targets, costs, used)
    rotated = rotate(features)
    chunk = max(1, MATRIX_ENTRIES // len(features))
    weights, given_up = [], 0
    for start in range(0, targets.shape[1], chunk):
        columns = slice(start, start + chunk)
        signs = targets[:, columns].to(features)
        cost = costs[columns].to(features)
        row_costs = torch.where(signs > 0, positive_weight * cost, cost)
        if used is not None:
            row_costs *= used[:, columns].to(features)
        found, left = _descend(rotated, signs, row_costs, tolerance, max_iterations)
        weights.append(rotated.basis @ found)
        given_up += left
    if given_up:
        warnings.warn(
            f"{given_up} of {targets.shape[1]} SVMs did not come within {tolerance:g} of their "
            f"optimum in {max_iterations} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return torch.cat(weights, dim=1)


def decision(features: Tensor, weights: Tensor) -> Tensor:
    """Scores (n, k) of features (n, d) by weights (d + 1, k); positive where the class is seen."""
    return features @ weights[:-1] + weights[-1]


def check_problems(
    features: Tensor, targets: Tensor, costs: Tensor, used: Tensor | None = None
) -> None:
    """Refuse what is no set of SVM problems; see ``fit_svms``.

    Raises:
        ValueError: what was expected, and what was found.
    """
    shapes = [tuple(t.shape) for t in (features, targets, costs)]
    (n, k) = targets.shape if targets.ndim == 2 else (0, 0)
    if not n or not k or features.ndim != 2 or len(features) != n or shapes[2] != (k,):
        raise ValueError(
            "SVMs need features (n, d), targets (n, k) and costs (k,), none of them empty; the "
            f"shapes are {', '.join(map(str, shapes))}"
        )
    if used is not None and (used.shape != targets.shape or used.dtype != torch.bool):
        raise ValueError(f"used must be bool {(n, k)}, not {used.dtype} {tuple(used.shape)}")
    if features.dtype not in (torch.float32, torch.float64) or not features.isfinite().all():
        raise ValueError(f"features of an SVM must be finite float32 or 64, not {features.dtype}")
    if not ((targets == 1) | (targets == -1)).all():
        raise ValueError("targets of an SVM must be -1 and 1; 0 marks no row, ``used`` does")
    if not (costs > 0).all():
        raise ValueError(f"costs of an SVM must be positive; the smallest is {costs.min():g}")


@dataclass(frozen=True)
class RotatedFeatures:
    """Features with their constant 1 in an orthonormal basis where no two of them correlate.

    The length of weights, and so every objective, is the same in any orthonormal basis. In this
    one the Hessian is near a diagonal, which is what makes few iterations enough.

    Attributes:
        rows: (n, r), where r is the smaller of n and d + 1.
        basis: (d + 1, r), from weights for ``rows`` to weights for the features.
        curvature: (r, 1), the squared length of each column of ``rows``.
    """

    rows: Tensor
    basis: Tensor
    curvature: Tensor


def rotate(features: Tensor) -> RotatedFeatures:
    """Features (n, d) in the axes of their Gram matrix."""
    rows = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    span = None
    if rows.shape[0] < rows.shape[1]:  # weights lie in the span of few rows: work there
        span, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T
    _, axes = torch.linalg.eigh(rows.T @ rows)
    rows = rows @ axes
    basis = axes if span is None else span @ axes
    return RotatedFeatures(rows, basis, rows.square().sum(dim=0)[:, None])


@dataclass
class _Columns:
    """Problems that still descend; a column of every matrix is one of them.

    Attributes:
        index: (k,), which column of the result this is.
        signs, row_costs: (n, k), the problem; rows left out cost 0.
        weights: (r, k), where it stands.
        slack: (n, k), 1 - signs * outputs there.
        direction: (r, k), where it goes.
        gradient: (r, k), from where it goes.
        energy: (k,), that gradient's square in the metric of the preconditioner.
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
        """All weights 0, and infinite energy, so that the first direction is straight down."""
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
    """Optimal weights (r, k) in the rotated basis, and how many columns were given up.

    Preconditioned nonlinear conjugate gradients (Polak-Ribiere, not below 0) with an exact line
    search. The objective is quadratic between the kinks of the hinge, so there it is conjugate
    gradients proper. Truncated Newton with the same preconditioner took twice the products with
    the features to the same tolerance at VOC07's size, and more with higher costs.
    """
    columns = _Columns.at_zero(signs, row_costs, rank=len(rotated.curvature))
    found = torch.zeros_like(columns.weights)
    for _ in range(max_iterations):
        loss = columns.slack.clamp(min=0)
        costly = columns.row_costs * loss
        gradient = columns.weights - 2 * (rotated.rows.T @ (costly * columns.signs))
        active = (columns.row_costs * (loss > 0)).mean(dim=0)
        # A diagonal in place of the Hessian, as if all rows were active by the same share.
        descent = gradient / (1 + 2 * active * rotated.curvature)
        energy = (gradient * descent).sum(dim=0)
        objective = columns.weights.square().sum(dim=0) / 2 + (costly * loss).sum(dim=0)
        kept = ~(energy <= tolerance * objective)  # what is not finite has not converged
        if not kept.all():
            found[:, columns.index[~kept]] = columns.weights[:, ~kept]
            columns, energy = columns.keep(kept), energy[kept]
            gradient, descent = gradient[:, kept], descent[:, kept]
            if not len(energy):
                return found, 0
        _turn(columns, gradient, descent, energy)
        _advance(columns, rotated.rows)
    found[:, columns.index] = columns.weights
    return found, len(columns.index)


def _turn(columns: _Columns, gradient: Tensor, descent: Tensor, energy: Tensor) -> None:
    """The next direction: down the preconditioned gradient, conjugate to the last direction."""
    share = ((gradient - columns.gradient) * descent).sum(dim=0) / columns.energy
    direction = share.clamp(min=0) * columns.direction - descent
    # The preconditioner changes on the way, so that conjugacy alone promises no descent.
    downhill = (gradient * direction).sum(dim=0) < 0
    columns.direction = torch.where(downhill, direction, -descent)
    columns.gradient, columns.energy = gradient, energy


def _advance(columns: _Columns, rows: Tensor) -> None:
    """Go to the lowest point along each column's direction."""
    change = columns.signs * (rows @ columns.direction)
    step = _step_length(columns, change)
    columns.weights = torch.addcmul(columns.weights, columns.direction, step)
    columns.slack = torch.addcmul(columns.slack, change, step, value=-1)


def _step_length(columns: _Columns, change: Tensor) -> Tensor:
    """How far (k,) along its direction a column's objective is lowest.

    The slope along a line is piecewise linear and rises: Newton's method finds where it is 0 in
    a few steps, and a bracket keeps it from going to and fro between two pieces. The features
    take no part in it.

    Args:
        change: (n, k), how much slack a step of 1 takes.
    """
    loss = columns.slack.clamp(min=0)
    pull = columns.row_costs * change
    bends = pull * change
    slope = (columns.gradient * columns.direction).sum(dim=0)
    length = columns.direction.square().sum(dim=0)
    step = low = torch.zeros_like(slope)
    high = torch.full_like(slope, torch.inf)
    for _ in range(LINE_SEARCH_STEPS):
        slack = torch.addcmul(columns.slack, change, step, value=-1)
        bend = length + 2 * (bends * (slack > 0)).sum(dim=0)
        # As a difference from the slope at 0, which rounding would else hide near the optimum.
        rise = slope + step * length - 2 * (pull * (slack.clamp_(min=0) - loss)).sum(dim=0)
        if (rise.abs() <= LINE_SEARCH_SLOPE * slope.abs()).all():
            break
        low, high = torch.where(rise < 0, step, low), torch.where(rise < 0, high, step)
        newton = step - rise / bend
        step = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return step
