"""The linear probe: multinomial logistic regression on frozen features, solved to convergence.

Protocol: Kornblith, Shlens and Le 2019 (https://arxiv.org/abs/1805.08974): features are
standardised, the L2 strength is chosen by cross-validation on training photos, then all of them
are fitted with it. The objective is scikit-learn's `LogisticRegression`, term by term::

    sum_i w_i · cross_entropy(softmax(x_i W + b), y_i)  +  ‖W‖² / (2 C)

so that its optimum is theirs (a test compares them; for two classes scikit-learn has one weight
vector where we have two of half its length, so that our C is its 2 C). What differs is the way
there. L-BFGS on the raw problem needs hundreds of passes, because neighbouring features are
strongly correlated. Two exact changes of variables remove that, and both are shared by every
strength and every fold:

1. features are rotated onto the singular vectors of the training matrix (an L2 penalty does not
   see rotations; with fewer photos than features this also drops the null space), and
2. each direction is scaled by the root of its curvature at W = 0, an upper bound of the Hessian
   (Böhning 1992, https://doi.org/10.1007/BF00048682), which makes the problem nearly round.

The solver itself is SciPy's L-BFGS-B, started where the neighbouring strengths point to.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headstart.training.fits import Fits
from headstart.training.logistic import PATH_TOLERANCE, Floats, Labels, Problem

# Strengths that are tried, as scikit-learn's C: the features have unit variance, so the useful
# range does not depend on the backbone. The path goes on from weak to strong only while the
# cross-validated log loss falls.
STRENGTHS: tuple[float, ...] = tuple(float(f"{c:.3g}") for c in np.logspace(-4, 2, 13))

_WELL_ABOVE = 1.02

# Classes are weighted when the largest has this many times the photos of the smallest.
UNEVEN = 2.0

Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


@dataclass(frozen=True)
class Strength:
    """One strength's cross-validated figures."""

    strength: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class Probe:
    """A solved linear head on raw (not standardised) features.

    Attributes:
        kernel: ``(feature, class)`` float32.
        bias: ``(class,)`` float32.
        strength: The C that was chosen; larger means weaker regularisation.
        path: The strengths tried, in order; empty when there were no folds.
        class_weights: ``(class,)``, all 1 when the classes are even.
        held_out: ``(sample, class)`` logits of the training samples by heads that had not seen
            them, at the chosen strength; NaN where a sample was in all training rows, no rows when
            there were no folds.
    """

    kernel: Floats
    bias: Floats
    strength: float
    path: tuple[Strength, ...]
    class_weights: Floats
    held_out: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)

    def predict_proba(self, features: Floats) -> Floats:
        """``(sample, class)`` probabilities of ``(sample, feature)`` raw features."""
        return softmax(features.astype(np.float32) @ self.kernel + self.bias)


def fit_probe(
    features: Floats,
    labels: Labels,
    num_classes: int,
    folds: Iterable[Fold] = (),
    strengths: tuple[float, ...] = STRENGTHS,
) -> Probe:
    """Solve the linear head, its strength chosen by cross-validated log loss.

    Args:
        features: ``(sample, feature)``.
        labels: ``(sample,)`` class numbers.
        num_classes: Number of classes; each must occur.
        folds: ``(train rows, held-out rows)`` pairs. Without any, the strength is 0.01.
        strengths: Ascending values to try; a single one is taken as it is.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 2
    >>> features = rng.normal(size=(60, 5)) + 2.0 * labels[:, None]
    >>> probe = fit_probe(features, labels, 2)
    >>> bool((probe.predict_proba(features).argmax(1) == labels).mean() > 0.9)
    True
    """
    import scipy.optimize  # noqa: F401 - the limit below only reaches libraries that are loaded
    from threadpoolctl import threadpool_limits

    weights = balance_classes(labels, num_classes)
    folds = list(folds)
    with threadpool_limits(1, user_api="blas"):
        problem = Problem(features, labels, weights)
        path, held_out, near = _follow_path(problem, labels, folds, strengths)
        alone = strengths[0] if len(strengths) == 1 else 0.01
        best = min(path, key=lambda step: step.log_loss).strength if path else alone
        kernel, bias = problem.unrotate(problem.solve(slice(None), best, near))
    return Probe(kernel, bias, best, path, weights, held_out)


def choose_strength(
    features: Floats,
    labels: Labels,
    num_classes: int,
    folds: Iterable[Fold],
    variance: float = 1.0,
) -> float:
    """The strength that `fit_probe` would choose; ``variance`` as in `hold_out`."""
    import scipy.optimize  # noqa: F401 - as in `fit_probe`
    from threadpoolctl import threadpool_limits

    weights = balance_classes(labels, num_classes)
    problem = Problem(features, labels, weights, variance)
    with threadpool_limits(1, user_api="blas"):
        path, _, _ = _follow_path(problem, labels, list(folds), STRENGTHS)
    return min(path, key=lambda step: step.log_loss).strength


def hold_out(
    features: Floats,
    labels: Labels,
    num_classes: int,
    repeats: Iterable[Iterable[Fold]],
    strength: float,
    variance: float = 1.0,
) -> Floats:
    """Logits of samples by heads that had not seen them, for several divisions into folds.

    Args:
        features: ``(sample, feature)``.
        labels: ``(sample,)`` class numbers.
        num_classes: Number of classes; each must occur in the training rows of every fold.
        repeats: For each repeat its folds, ``(train rows, held-out rows)``.
        strength: Of the regularisation.
        variance: Share of the features' variance that is looked at: less is faster.

    Returns:
        ``(repeat, sample, class)``; NaN where a sample is held out of no fold.
    """
    import scipy.optimize  # noqa: F401 - as in `fit_probe`
    from threadpoolctl import threadpool_limits

    every = [list(folds) for folds in repeats]
    found = np.full((len(every), len(labels), num_classes), np.nan, np.float32)
    # What is an approximation anyway need not be solved as exactly.
    tolerance = PATH_TOLERANCE if variance == 1 else 10 * PATH_TOLERANCE

    problem = Problem(features, labels, balance_classes(labels, num_classes), variance)
    with threadpool_limits(1, user_api="blas"):

        def solve(fold: Fold) -> Floats:
            train, held_out = fold
            solution = problem.solve(train, strength, None, tolerance)
            return _hold_out(problem, held_out, solution)

        tasks = [(number, fold) for number, folds in enumerate(every) for fold in folds]
        logits = Fits(solve, len(labels)).map(fold for _, fold in tasks)
        for (number, (_, held_out)), rows in zip(tasks, logits, strict=True):
            found[number, held_out] = rows
    return found


def _hold_out(problem: Problem, rows: npt.NDArray[np.intp], solution: Floats) -> Floats:
    logits: Floats = problem.rotated[rows] @ solution[:-1] + solution[-1]
    return logits


def import_solver_beside(
    progress: Callable[[int, int], None] | None,
) -> Callable[[int, int], None]:
    """Progress of a pass that also imports SciPy, in a thread, as soon as there is a pass.

    Its half second then passes beside the computing. Where all is in the cache, the head may be.

    Args:
        progress: Is told as well.
    """
    begun: list[threading.Thread] = []

    def report(done: int, total: int) -> None:
        if done < total and not begun:
            name = "scipy.optimize"
            thread = threading.Thread(target=importlib.import_module, args=(name,), name=name)
            begun.append(thread)
            thread.start()
        if progress is not None:
            progress(done, total)

    return report


def balance_classes(labels: Labels, num_classes: int) -> Floats:
    """``(class,)`` weights, inversely proportional to the counts when these are uneven, else 1.

    >>> balance_classes(np.array([0, 0, 0, 1]), 2).round(2).tolist()
    [0.67, 2.0]
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    if counts.min() < 1:
        raise ValueError(f"class {int(counts.argmin())} of {num_classes} has no training sample")
    if counts.max() < UNEVEN * counts.min():
        return np.ones(num_classes)
    return len(labels) / (num_classes * counts)


def softmax(logits: Floats) -> Floats:
    """Probabilities of ``(..., class)`` logits."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities


def _follow_path(
    problem: Problem, labels: Labels, folds: list[Fold], strengths: tuple[float, ...]
) -> tuple[tuple[Strength, ...], Floats, Floats | None]:
    """Figures of each strength; at the best of them held-out logits and the folds' mean optimum."""
    if not folds:
        return (), np.empty((0, problem.num_classes), np.float32), None
    solved: list[list[Floats]] = [[] for _ in folds]
    path: list[Strength] = []
    kept = np.full((len(labels), problem.num_classes), np.nan, np.float32)
    found, near = kept.copy(), None

    def solve(task: tuple[Fold, float, Floats | None]) -> tuple[Floats, Floats]:
        (train, held_out), strength, start = task
        solution = problem.solve(train, strength, start, PATH_TOLERANCE)
        return solution, _hold_out(problem, held_out, solution)

    fits = Fits(solve, len(labels))
    for strength in strengths:
        starts = [_extrapolate(steps) for steps in solved]
        results = fits.map((folds[n], strength, start) for n, start in enumerate(starts))
        loss = right = 0.0
        for number, (solution, logits) in enumerate(results):
            solved[number] = [*solved[number][-1:], solution]
            held_out = folds[number][1]
            found[held_out] = logits
            probabilities, truth = softmax(logits), labels[held_out]
            chosen = probabilities[np.arange(len(truth)), truth]
            loss += float(-np.log(np.maximum(chosen, 1e-12)).sum())
            right += int((probabilities.argmax(1) == truth).sum())
        count = sum(len(held_out) for _, held_out in folds)
        path.append(Strength(strength, loss / count, right / count))
        if path[-1].log_loss == min(step.log_loss for step in path):
            kept[:] = found
            near = np.asarray(np.mean([steps[-1] for steps in solved], 0))
        # The curve has one valley, apart from noise: two steps well above the best end it.
        best = min(step.log_loss for step in path)
        if min(step.log_loss for step in path[-2:]) > _WELL_ABOVE * best:
            break
    return tuple(path), kept, near


def _extrapolate(solved: list[Floats]) -> Floats | None:
    # Strengths are evenly spaced in their logarithm, along which the optimum moves almost
    # straight: going on as far as in the last step halves the iterations.
    return 2 * solved[-1] - solved[-2] if len(solved) == 2 else solved[-1] if solved else None
