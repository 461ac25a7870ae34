"""The same linear support vector machines by liblinear, as published numbers were made."""

import warnings

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from virtex.probes.svm_solver import check_problems


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
    """What ``svm_solver.fit_svms`` finds, one column after another by scikit-learn's LinearSVC.

    The settings are those of VOC07 evaluations since the benchmark of Goyal et al.
    (arXiv 1905.01235): the dual solver with tolerance 1e-4, at most 2000 iterations, positives
    weighing 2. How many columns came to that end, a ``ConvergenceWarning`` says.

    Args:
        features, targets, costs, used, positive_weight: as ``fit_svms`` takes them.
        tolerance, max_iterations: liblinear's own.
        seed: of the order in which liblinear visits images, which its result depends on.
        jobs: processes; -1 for one a core.

    Returns:
        (d + 1, k) like ``fit_svms``, of the features' precision and device.

    Raises:
        ValueError: what ``fit_svms`` refuses, and columns whose used rows are of one class.
    """
    check_problems(features, targets, costs, used)
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
    _refuse_one_class(signs, rows)
    rows_of_features = features.cpu().double().numpy()  # liblinear's precision, turned once
    # Processes, for liblinear's random numbers are one sequence for all threads of a process.
    found = Parallel(n_jobs=jobs)(
        delayed(_fit)(clone(model).set_params(C=cost), rows_of_features, signs[:, j], rows[:, j])
        for j, cost in enumerate(costs.tolist())
    )
    given_up = sum(not converged for _, converged in found)
    if given_up:
        warnings.warn(
            f"liblinear gave up {given_up} of {len(found)} SVMs after {max_iterations} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return torch.from_numpy(np.stack([weights for weights, _ in found], axis=1)).to(features)


def _refuse_one_class(signs: np.ndarray, rows: np.ndarray) -> None:
    seen = [(rows & (signs == sign)).any(axis=0) for sign in (-1, 1)]
    (alone,) = np.nonzero(~(seen[0] & seen[1]))
    if len(alone):
        raise ValueError(
            f"liblinear needs rows of both classes, which columns {alone.tolist()} do not use; "
            "leave these columns out, or solve them with fit_svms"
        )


def _fit(
    model: LinearSVC, features: np.ndarray, signs: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Weights (d + 1,) of one column, and whether liblinear converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # they are counted instead
        model.fit(features[rows], signs[rows])
    return np.append(model.coef_[0], model.intercept_), bool(model.n_iter_ < model.max_iter)
