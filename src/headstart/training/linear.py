"""Linear heads of the other tasks: a logistic regression per label, ridge regression for a number.

As the probe (`headstart.training.probe`): features are standardised and rotated onto their
principal axes once, the L2 strength is chosen by cross-validation on training photos, then all of
them are fitted with it. The objectives are scikit-learn's `LogisticRegression` per label, with one
strength for all labels, and `Ridge` with ``alpha = 1 / C``, on a standardised target::

    sum_i log(1 + exp(-s_i (x_i w + b)))  +  |w|² / (2 C)         s_i = 1 with the label, else -1
    sum_i (x_i w + b - y_i)²              +  |w|² / C

Labels are not weighted: their thresholds are chosen for them (`choose_thresholds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.stratify import Fold
from headstart.task import MULTILABEL, REGRESSION, Task
from headstart.training.fits import Fits
from headstart.training.logistic import FINAL_TOLERANCE, PATH_TOLERANCE, Floats, Rotated
from headstart.training.probe import STRENGTHS

# Of the ridge; the closed form costs next to nothing per strength.
RIDGE_STRENGTHS: tuple[float, ...] = tuple(float(f"{c:.3g}") for c in np.logspace(-6, 2, 25))

_ALONE = {MULTILABEL.name: 0.01, REGRESSION.name: 1e-3}


@dataclass(frozen=True)
class Loss:
    """One strength's cross-validated loss.

    Attributes:
        strength: As scikit-learn's C.
        loss: Mean over photos and labels of the log loss in nats; of a number the mean squared
            error, as a share of the variance.
    """

    strength: float
    loss: float


@dataclass(frozen=True)
class LinearHead:
    """A solved head on raw (not standardised) features.

    Attributes:
        kernel: ``(feature, name)`` float32.
        bias: ``(name,)`` float32.
        strength: The C that was chosen; larger means weaker regularisation.
        path: The strengths tried, in order; empty when there were no folds.
        held_out: ``(sample, name)`` probabilities or numbers for the training samples, by heads
            that had not seen them; no rows when there were no folds.
        task: What it was solved for.
    """

    kernel: Floats
    bias: Floats
    strength: float
    path: tuple[Loss, ...]
    held_out: Floats
    task: Task

    def predict(self, features: Floats) -> Floats:
        """``(sample, name)`` probabilities or numbers of ``(sample, feature)`` features."""
        return activate(features.astype(np.float32) @ self.kernel + self.bias, self.task)


def activate(rows: Floats, task: Task) -> Floats:
    """What the head's last layer makes of its sums.

    >>> activate(np.array([[0.0, 2.0]]), MULTILABEL).round(2).tolist()
    [[0.5, 0.88]]
    """
    if task is REGRESSION:
        return rows
    found: Floats = 0.5 * (1 + np.tanh(0.5 * rows))  # the sigmoid, without overflow
    return found


def fit_head(
    features: Floats,
    targets: Floats,
    folds: Sequence[Fold],
    task: Task,
    strength: float | None = None,
) -> LinearHead:
    """Solve the head of several labels or a number, its strength chosen by cross-validation.

    Args:
        features: ``(sample, feature)``.
        targets: ``(sample, name)``: 0 or 1 per label; or numbers.
        folds: ``(train rows, held-out rows)`` pairs, which hold out every row once; or none.
        task: Multilabel or regression.
        strength: Taken as it is where there are no folds.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(80, 5))
    >>> halves = [(np.arange(40), np.arange(40, 80)), (np.arange(40, 80), np.arange(40))]
    >>> head = fit_head(x, 20 + 3 * x[:, :1], halves, REGRESSION)
    >>> bool(abs(head.predict(x) - 20 - 3 * x[:, :1]).max() < 0.1)
    True
    """
    import scipy.optimize  # noqa: F401 - as in `headstart.training.probe.fit_probe`
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        solver = _SOLVERS[task.name](features, targets)
        path, held_out = _follow_path(solver, targets, folds, task)
        alone = _ALONE[task.name] if strength is None else strength
        best = min(path, key=lambda step: step.loss).strength if path else alone
        (solution,) = solver.solve(np.arange(len(targets)), (best,), FINAL_TOLERANCE)
        kernel, bias = solver.unrotate(solution)
    return LinearHead(kernel, bias, best, path, held_out, task)


def _follow_path(
    solver: _Labels | _Ridge, targets: Floats, folds: Sequence[Fold], task: Task
) -> tuple[tuple[Loss, ...], Floats]:
    """The loss of each strength; out-of-fold answers at the best of them."""
    if not folds:
        return (), np.empty((0, targets.shape[1]), np.float32)
    found = np.full((len(solver.strengths), *targets.shape), np.nan, np.float32)

    def hold_out(fold: Fold) -> Floats:
        train, held_out = fold
        solved = solver.solve(train, solver.strengths, PATH_TOLERANCE)
        sums = [solver.rotated[held_out] @ solution[:-1] + solution[-1] for solution in solved]
        return np.stack([activate(each, task) for each in sums])

    answers = Fits(hold_out, len(targets)).map(folds)
    for (_, held_out), rows in zip(folds, answers, strict=True):
        found[:, held_out] = rows
    losses = [solver.measure(rows) for rows in found]
    path = tuple(Loss(*pair) for pair in zip(solver.strengths, losses, strict=True))
    return path, found[int(np.argmin(losses))]


class _Labels(Rotated):
    """Independent logistic regressions, solved side by side."""

    strengths = STRENGTHS

    def __init__(self, features: Floats, targets: Floats) -> None:
        super().__init__(features)
        self._targets = targets.astype(np.float32)

    def measure(self, rows: Floats) -> float:
        """Mean log loss of ``(sample, label)`` probabilities."""
        truth = np.where(self._targets > 0, rows, 1 - rows).astype(np.float64)
        return float(-np.log(np.maximum(truth, 1e-12)).mean())

    def solve(
        self, rows: npt.NDArray[np.intp], strengths: Sequence[float], tolerance: float
    ) -> list[Floats]:
        """For each strength the optimum on some rows, ``(axis + 1, label)``; last row: bias."""
        x, targets = self.rotated[rows], self._targets[rows]
        found: list[Floats] = []
        for strength in strengths:
            found.append(self._solve_one(x, targets, strength, found[-1:], tolerance))
        return found

    def _solve_one(
        self, x: Floats, targets: Floats, strength: float, start: list[Floats], tolerance: float
    ) -> Floats:
        from scipy.optimize import minimize

        # The curvature p (1 - p) of each label at its share: the problem becomes nearly round.
        shares = np.clip(targets.mean(0, dtype=np.float64), 1e-3, 1 - 1e-3)
        spread = self.spread * (len(x) / len(self.rotated))
        curvature = np.append(spread, len(x))[:, None] * (shares * (1 - shares))
        curvature[:-1] += 1 / strength
        scale = 1 / np.sqrt(curvature)
        signs = 2 * targets - 1
        first = np.zeros_like(scale)
        # A label that all rows have, or none, has no finite optimum: it ends at a share of 1e-3.
        first[-1] = np.log(shares / (1 - shares)) / scale[-1]
        is_even = np.abs(signs.sum(0)) == len(x)

        def objective(flat: Floats) -> tuple[float, Floats]:
            solution = flat.reshape(scale.shape) * scale
            single = solution.astype(np.float32)
            sums = x @ single[:-1] + single[-1]
            loss = float(np.logaddexp(0, -signs * sums).sum(dtype=np.float64))
            loss += float((solution[:-1] ** 2).sum()) / (2 * strength)
            residual = 0.5 * (1 + np.tanh(0.5 * sums)) - targets
            residual[:, is_even] = 0
            gradient = np.vstack([x.T @ residual, residual.sum(0)]).astype(np.float64)
            gradient[:-1] += solution[:-1] / strength
            return loss / len(x), (gradient * scale).ravel() / len(x)

        begin = start[0] / scale if start else first
        result = minimize(
            objective,
            begin.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "maxcor": 10, "ftol": tolerance, "gtol": 1e-7},
        )
        solution: Floats = result.x.reshape(scale.shape) * scale
        return solution


class _Ridge(Rotated):
    """Least squares with an L2 penalty, in closed form for all strengths at once."""

    strengths = RIDGE_STRENGTHS

    def __init__(self, features: Floats, targets: Floats) -> None:
        super().__init__(features)
        self._targets = targets.astype(np.float64)
        self._scale = max(float(self._targets.std()), 1e-12)

    def measure(self, rows: Floats) -> float:
        """Mean squared error of ``(sample, 1)`` numbers, as a share of the variance."""
        return float((((rows - self._targets) / self._scale) ** 2).mean())

    def solve(
        self, rows: npt.NDArray[np.intp], strengths: Sequence[float], _: float
    ) -> list[Floats]:
        """For each strength the optimum on some rows, ``(axis + 1, 1)``; last row: intercept.

        The penalty is one on the weights of the standardised target: in the user's unit both sides
        are the target's scale times as large, and the optimum is the same.
        """
        x, y = self.rotated[rows].astype(np.float64), self._targets[rows]
        centre, middle = x.mean(0), y.mean(0)
        x, y = x - centre, y - middle
        is_wide = len(x) < x.shape[1]
        squares, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
        turned = vectors.T @ (y if is_wide else x.T @ y)
        found = []
        for strength in strengths:
            weights = vectors @ (turned / (np.maximum(squares, 0) + 1 / strength)[:, None])
            kernel = x.T @ weights if is_wide else weights
            found.append(np.vstack([kernel, middle - centre @ kernel]))
        return found


_SOLVERS: dict[str, Any] = {MULTILABEL.name: _Labels, REGRESSION.name: _Ridge}


def choose_thresholds(probabilities: Floats, targets: Floats) -> tuple[float, ...]:
    """For each label the probability from which on it is said, such that F1 is highest.

    F1 of a label is highest at some threshold between two of its probabilities (Lipton, Elkan and
    Naryanaswamy 2014, https://arxiv.org/abs/1402.1892); the middle of the two is taken.

    Args:
        probabilities: ``(sample, label)`` of samples held out.
        targets: ``(sample, label)`` 0 or 1.

    Returns:
        0.5 for a label that none or all of the samples have.

    >>> choose_thresholds(np.array([[0.1], [0.2], [0.3], [0.6]]), np.array([[0], [0], [1], [1]]))
    (0.25,)
    """
    return tuple(
        _choose_threshold(column.astype(np.float64), truth)
        for column, truth in zip(probabilities.T, targets.T > 0, strict=True)
    )


def _choose_threshold(column: Floats, truth: npt.NDArray[np.bool_]) -> float:
    if not len(truth) or truth.all() or not truth.any():
        return 0.5
    order = np.argsort(-column, kind="stable")
    sorted_column, hits = column[order], np.cumsum(truth[order])
    # The label is said of the first 1, 2, … samples; never of one of several that are equal.
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())
    lower = np.append(sorted_column[1:], 0.0)
    f1[lower == sorted_column] = -1
    best = int(f1.argmax())
    return float((sorted_column[best] + lower[best]) / 2)
