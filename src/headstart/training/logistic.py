"""Multinomial logistic regression on any rows of one matrix, and for any strength.

How it is made nearly round before SciPy solves it is told in `headstart.training.probe`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

# Relative tolerance of the objective. Cross-validation compares strengths a factor of 3 apart.
FINAL_TOLERANCE, PATH_TOLERANCE = 1e-9, 1e-6


# Share of the median deviation that a feature is divided by at least. One that hardly moves on the
# training photos and does on another would outweigh all others, and those that move less than most
# tell less, above all where photos are few. benchmarks/few_shot.py compares shares.
LEAST = 1.0


class Rotated:
    """A training matrix, scaled and rotated once, for any rows, targets and strengths.

    Args:
        features: ``(sample, feature)``.
        variance: Share of the variance of the scaled features that is kept: the smallest
            principal axes are dropped, and what is computed becomes an approximation.

    Attributes:
        rotated: ``(sample, axis)``.
        spread: ``(axis,)`` sums of squares.
    """

    def __init__(self, features: Floats, variance: float = 1.0) -> None:
        x = features.astype(np.float32)
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)
        deviation = x.std(0, dtype=np.float64).astype(np.float32)
        # A feature that never moves carries nothing; dividing by 1 leaves it at zero.
        self._deviation = np.where(deviation < 1e-6, np.float32(1), deviation)
        self._deviation = np.maximum(self._deviation, np.float32(LEAST * np.median(deviation)))
        x = (x - self._mean) / self._deviation
        self.rotated, self.spread, self._turn_back = _rotate(x, variance)

    def unrotate(self, solution: Floats) -> tuple[Floats, Floats]:
        """Kernel and bias on raw features."""
        kernel = self._turn_back(solution[:-1]) / self._deviation[:, None].astype(np.float64)
        bias = solution[-1] - self._mean.astype(np.float64) @ kernel
        return kernel.astype(np.float32), bias.astype(np.float32)


class Problem(Rotated):
    """Classes on a rotated training matrix; solved for any rows and strengths.

    Args:
        features: ``(sample, feature)``.
        labels: ``(sample,)`` class numbers.
        class_weights: ``(class,)``.
        variance: See `Rotated`.

    A fold is a subset of rows. Standardisation and rotation are shared by the folds: they see no
    labels, and the rotation does not change any optimum.
    """

    def __init__(
        self, features: Floats, labels: Labels, class_weights: Floats, variance: float = 1.0
    ) -> None:
        super().__init__(features, variance)
        self.num_classes = len(class_weights)
        self._targets = np.eye(self.num_classes, dtype=np.float32)[labels]
        self._weights = class_weights.astype(np.float32)[labels][:, None]

    def solve(
        self,
        rows: npt.NDArray[np.intp] | slice,
        strength: float,
        start: Floats | None = None,
        tolerance: float = FINAL_TOLERANCE,
    ) -> Floats:
        """The optimum on some rows, ``(axis + 1, class)`` (last row: bias), rotated coordinates."""
        from scipy.optimize import minimize

        x, targets, weights = self.rotated[rows], self._targets[rows], self._weights[rows]
        total = float(weights.sum(dtype=np.float64))
        if start is None:
            # Curvature of the loss at W = 0: p (1 - p) per class along an axis, and the penalty's.
            share = (1 - 1 / self.num_classes) / self.num_classes
            curvature = np.append(share * self.spread * (len(x) / len(self.rotated)), share * total)
        else:
            # At a start that is near, its own, which is far smaller; the mean over the classes.
            logits = x @ start[:-1].astype(np.float32) + start[-1].astype(np.float32)
            probabilities = np.exp(logits - logits.max(1, keepdims=True))
            probabilities /= probabilities.sum(1, keepdims=True)
            each = (probabilities * (1 - probabilities)).mean(1) * weights[:, 0]
            curvature = np.append(each @ (x * x), each.sum())
        curvature[:-1] += 1 / strength
        scale = (1 / np.sqrt(curvature))[:, None]

        def objective(flat: Floats) -> tuple[float, Floats]:
            solution = flat.reshape(-1, self.num_classes) * scale
            single = solution.astype(np.float32)
            logits = x @ single[:-1] + single[-1]
            logits -= logits.max(1, keepdims=True)
            probabilities = np.exp(logits)
            sums = probabilities.sum(1, keepdims=True)
            losses = np.log(sums[:, 0]) - np.einsum("sc,sc->s", targets, logits)
            residual = (probabilities / sums - targets) * weights
            gradient = np.vstack([x.T @ residual, residual.sum(0)]).astype(np.float64)
            gradient[:-1] += solution[:-1] / strength
            loss = float(weights[:, 0].astype(np.float64) @ losses)
            loss += float((solution[:-1] ** 2).sum()) / (2 * strength)
            return loss / total, (gradient * scale).ravel() / total

        first = np.zeros((len(scale), self.num_classes)) if start is None else start / scale
        result = minimize(
            objective,
            first.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "maxcor": 10, "ftol": tolerance, "gtol": 1e-7},
        )
        solution: Floats = result.x.reshape(-1, self.num_classes) * scale
        return solution


def _rotate(x: Floats, variance: float) -> tuple[Floats, Floats, Callable[[Floats], Floats]]:
    """The samples in coordinates along their principal axes, and the way back.

    From the smaller Gram matrix, in float64 so that small axes keep their direction.

    Returns:
        ``(sample, axis)`` coordinates, ``(axis,)`` their sums of squares, and what turns
        ``(axis, class)`` weights into ``(feature, class)`` ones.
    """
    samples, features = x.shape
    gram = (x @ x.T if samples < features else x.T @ x).astype(np.float64)
    squares, vectors = np.linalg.eigh(gram)
    keep = squares > squares[-1] * 1e-7
    if variance < 1:
        keep &= np.cumsum(squares) > (1 - variance) * squares.sum()
    squares, vectors = squares[keep], vectors[:, keep]
    if samples >= features:
        return x @ vectors.astype(np.float32), squares, lambda weights: vectors @ weights
    # With x = U S Vᵀ the vectors are U: neither the coordinates U S nor the way back, by
    # V = xᵀ U / S, needs the axes themselves.
    lengths = np.sqrt(squares)

    def turn_back(weights: Floats) -> Floats:
        return np.asarray(x.T.astype(np.float64) @ (vectors @ (weights / lengths[:, None])))

    # Row by row in memory: the solver takes rows.
    return np.ascontiguousarray(vectors * lengths, np.float32), squares, turn_back
