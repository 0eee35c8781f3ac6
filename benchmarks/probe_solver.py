"""The probe's solver against scikit-learn: seconds, and how near each comes to the optimum.

Two tasks: one strength (the 0.01 that `fit_probe` takes without folds), and the whole
cross-validation with the final fit. Features: those of the clothing training photos, and 3,000 rows
made of them (each a mixture of two photos of a class, plus noise of a fifth of every feature's
deviation), so that samples outnumber features. The reference optimum is scikit-learn's lbfgs at a
tolerance of 1e-10; objectives are computed in float64 by one function for all. scikit-learn is run
on float32, as ours is, as it comes (BLAS on all cores), with one BLAS thread, and, for the
cross-validation, with folds on all cores. All take turns; medians are reported.

Ours stops following the strengths two steps past the best. scikit-learn cannot: it is timed on all
strengths, and on only those that ours tried.

    HEADSTART_TEST_PHOTOS=... python benchmarks/probe_solver.py [--limit 5]
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import photos
from measure import make_parser, save_rows
from predict_then_sklearn import choose_with_sklearn, solve_with_sklearn
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from headstart.data.scan import Sample
from headstart.data.split import list_folds
from headstart.training.logistic import LEAST
from headstart.training.probe import STRENGTHS, fit_probe, softmax

OURS = "headstart"


@dataclass(frozen=True)
class Task:
    """Features ``(sample, feature)``, class numbers, and a name per group of copies."""

    name: str
    features: Any
    labels: Any
    groups: list[str]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


class Scaler(StandardScaler):  # type: ignore[misc]
    """Divides by the deviation of a feature, and at least by the median one."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Scaler:
        """As scikit-learn's, with the floor."""
        super().fit(X, y, sample_weight)
        deviation = np.sqrt(self.var_)
        self.scale_ = np.maximum(self.scale_, LEAST * np.median(deviation))
        return self


@dataclass(frozen=True)
class Solution:
    """A solved head on raw features."""

    kernel: Any
    bias: Any
    strength: float
    tried: int

    def predict_proba(self, features: Any) -> Any:
        """Probabilities in float64."""
        return softmax(features.astype(np.float64) @ self.kernel + self.bias)


def by_headstart(task: Task, *, is_path: bool) -> Solution:
    folds = list_folds(task.labels, task.groups, 5, seed=0) if is_path else ()
    probe = fit_probe(task.features, task.labels, task.num_classes, folds)
    return Solution(probe.kernel, probe.bias, probe.strength, max(1, len(probe.path)))


def by_sklearn(
    task: Task, strengths: tuple[float, ...], threads: int | None, **settings: Any
) -> Solution:
    """scikit-learn's solution; one strength is solved, several are chosen from."""
    settings["scaler"] = Scaler()  # the problem that ours solves
    with threadpool_limits(threads, user_api="blas"):
        if len(strengths) == 1:
            fitted = solve_with_sklearn(task.features, task.labels, strengths[0], **settings)
            strength = strengths[0]
        else:
            # The same folds for everyone.
            settings["cv"] = list(list_folds(task.labels, task.groups, 5, seed=0))
            fitted = choose_with_sklearn(task.features, task.labels, strengths, **settings)
            strength = float(fitted[-1].C_)
    scaler, regression = fitted
    coefficients, bias = regression.coef_.astype(np.float64), regression.intercept_
    if len(coefficients) == 1:  # two classes: scikit-learn keeps the difference only
        coefficients, bias = np.vstack([-coefficients, coefficients]) / 2, np.r_[-bias, bias] / 2
    kernel = coefficients.T / scaler.scale_[:, None]
    return Solution(kernel, bias - scaler.mean_ @ kernel, strength, len(strengths))


def objective(task: Task, solution: Solution) -> float:
    """What both minimise: the summed cross-entropy plus the penalty on scaled features."""
    probabilities = solution.predict_proba(task.features)
    chosen = probabilities[np.arange(len(task.labels)), task.labels]
    deviation = Scaler().fit(task.features.astype(np.float64)).scale_
    penalty = float(((solution.kernel * deviation[:, None]) ** 2).sum()) / (2 * solution.strength)
    return float(-np.log(chosen).sum()) + penalty


def measure_single(task: Task, repeats: int) -> list[dict[str, Any]]:
    """One strength."""
    strengths = (by_headstart(task, is_path=False).strength,)
    return measure(
        task,
        "one strength",
        {
            OURS: lambda: by_headstart(task, is_path=False),
            "scikit-learn": lambda: by_sklearn(task, strengths, None),
            "scikit-learn, one BLAS thread": lambda: by_sklearn(task, strengths, 1),
            "scikit-learn, tolerance 1e-8": lambda: by_sklearn(task, strengths, 1, tol=1e-8),
        },
        repeats,
    )


def measure_path(task: Task, repeats: int) -> list[dict[str, Any]]:
    """The strength chosen by cross-validation, and the final fit."""
    tried = STRENGTHS[: by_headstart(task, is_path=True).tried]
    return measure(
        task,
        "cross-validation",
        {
            OURS: lambda: by_headstart(task, is_path=True),
            "scikit-learn, folds in turn": lambda: by_sklearn(task, STRENGTHS, None, n_jobs=None),
            "scikit-learn, folds on all cores": lambda: by_sklearn(task, STRENGTHS, None),
            "scikit-learn, folds on all cores, strengths ours tried": lambda: by_sklearn(
                task, tried, None
            ),
        },
        repeats,
    )


def measure(
    task: Task, name: str, solvers: dict[str, Callable[[], Solution]], repeats: int
) -> list[dict[str, Any]]:
    """A row per solver: seconds, and the distance from the optimum at the strength it chose."""
    seconds: dict[str, list[float]] = defaultdict(list)
    solutions: dict[str, Solution] = {}
    for _ in range(repeats):
        for solver, solve in solvers.items():
            print(f"{task.name}: {name}: {solver}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            solutions[solver] = solve()
            seconds[solver].append(time.perf_counter() - start)
    references: dict[float, Solution] = {}
    rows = []
    for solver, solution in solutions.items():
        strength = solution.strength
        if strength not in references:
            references[strength] = find_optimum(task, strength)
        pairs = zip(seconds[solver], seconds[OURS], strict=True)
        rows.append(
            {
                "features": task.name,
                "shape": " x ".join(map(str, task.features.shape)),
                "task": name,
                "solver": solver,
                "seconds": median(seconds[solver]),
                "times ours": median(theirs / ours for theirs, ours in pairs),
                "strengths": solution.tried,
                "chosen C": strength,
                **distances(task, solution, references[strength]),
                "repeats": repeats,
            }
        )
    return rows


def find_optimum(task: Task, strength: float) -> Solution:
    """The reference: float64, to a tolerance of 1e-10."""
    exact = Task(task.name, task.features.astype(np.float64), task.labels, task.groups)
    return by_sklearn(exact, (strength,), 1, tol=1e-10, max_iter=100_000)


def distances(task: Task, solution: Solution, optimum: Solution) -> dict[str, float]:
    """How far a solution is from the optimum, on the training rows."""
    best = objective(task, optimum)
    ours, theirs = (s.predict_proba(task.features) for s in (solution, optimum))
    return {
        "relative objective gap": (objective(task, solution) - best) / best,
        "max probability difference": float(np.abs(ours - theirs).max()),
    }


def load_clothing(limit: int | None, scratch: Path) -> Task:
    """Float16-rounded features, as they come from the cache."""
    sides = photos.load_sides(photos.dataset_folder("clothing", limit, scratch))
    features = photos.compute_features(sides.train).astype(np.float16).astype(np.float32)
    samples: tuple[Sample, ...] = sides.train
    return Task("clothing", features, sides.labels(samples), [s.digest for s in samples])


def enlarge(task: Task, count: int, seed: int = 0, bucket: int = 5) -> Task:
    """More rows of the same kind: mixtures of two rows of a class, plus noise.

    Only rows of one bucket are mixed, and a bucket is a group that stays in one fold: otherwise
    the folds would share photos, and no regularisation would look best.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % task.num_classes
    first, second, groups = np.empty(count, int), np.empty(count, int), []
    for row, number in enumerate(labels):
        members = np.flatnonzero(task.labels == number)
        start = bucket * int(rng.integers(math.ceil(len(members) / bucket)))
        first[row], second[row] = rng.choice(members[start : start + bucket], 2)
        groups.append(f"{number}-{start}")
    share = rng.uniform(size=(count, 1))
    mixed = share * task.features[first] + (1 - share) * task.features[second]
    noise = rng.normal(0, 0.2, mixed.shape) * task.features.std(0)
    # Features are means of ReLU6 outputs: never negative, and sparse.
    rows = np.maximum(mixed + noise, 0).astype(np.float32)
    return Task("made of clothing", rows, labels, groups)


def main() -> None:
    options = make_parser((__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_CACHE"] = str(Path(scratch) / "cache")
        clothing = load_clothing(options.limit, Path(scratch))
    made = enlarge(clothing, 3000 if options.limit is None else 30 * options.limit)
    rows = []
    for task in (clothing, made):
        rows += measure_single(task, options.repeats)
        rows += measure_path(task, options.repeats)
    save_rows("probe_solver", rows, options)


if __name__ == "__main__":
    main()
