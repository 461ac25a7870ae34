"""Solve the linear SVMs of ``svm_solver`` with liblinear, as in published results."""

import warnings

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from virtex.probes.svm_solver import validate_problems


def fit_svms_liblinear(
    features: Tensor,
    targets: Tensor,
    costs: Tensor,
    used: Tensor | None = None,
    positive_weight: float = 2.0,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    seed: int = 0,
    jobs: int = -1,
) -> Tensor:
    """Solve the problems of ``svm_solver.fit_svms`` one by one with scikit-learn's LinearSVC.

    The defaults are those of VOC07 evaluations since Goyal et al. (arXiv 1905.01235): the dual
    solver with tolerance 1e-4, at most 2000 iterations, positives weighted by 2. A
    ``ConvergenceWarning`` counts the columns that reach the maximum.

    Args:
        features, targets, costs, used, positive_weight: as in ``fit_svms``.
        tolerance, max_iterations: of liblinear.
        seed: of the order in which liblinear visits the images, which affects its result.
        jobs: number of processes; -1 for one per core.

    Returns:
        (d + 1, k) as ``fit_svms``, with the dtype and device of ``features``.

    Raises:
        ValueError: as ``fit_svms``, or the used rows of a column are of one class.
    """
    validate_problems(features, targets, costs, used)
    model = LinearSVC(
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=tolerance,
        max_iter=max_iterations,
        class_weight={1: positive_weight, -1: 1},
        intercept_scaling=1.0,
        random_state=seed,
    )
    signs = targets.cpu().numpy().astype(np.int64)
    rows = np.ones(signs.shape, dtype=bool) if used is None else used.cpu().numpy()
    has_both = (rows & (signs == 1)).any(axis=0) & (rows & (signs == -1)).any(axis=0)
    if not has_both.all():
        raise ValueError(
            "liblinear needs rows of both classes, but columns "
            f"{np.flatnonzero(~has_both).tolist()} use one; omit them, or use fit_svms"
        )
    array = features.cpu().double().numpy()  # liblinear works in float64; converted once
    # Processes instead of threads: liblinear's random state is global to a process.
    found = Parallel(n_jobs=jobs)(
        delayed(_fit)(clone(model).set_params(C=cost), array, signs[:, j], rows[:, j])
        for j, cost in enumerate(costs.tolist())
    )
    unconverged = sum(not converged for _, converged in found)
    if unconverged:
        warnings.warn(
            f"liblinear did not converge for {unconverged} of {len(found)} SVMs in "
            f"{max_iterations} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return torch.from_numpy(np.stack([weights for weights, _ in found], axis=1)).to(features)


def _fit(
    model: LinearSVC, features: np.ndarray, signs: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Return the weights (d + 1,) of one column and whether liblinear converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        model.fit(features[rows], signs[rows])
    return np.append(model.coef_[0], model.intercept_), bool(model.n_iter_ < model.max_iter)
