"""How often 95 % intervals hold the truth: ours beside the usual ones, by simulation.

A share of 0.95 is right; less means that the interval promises too much, more that it is wider
than needed. Every setting draws photos from a known truth, and each draw gets the interval of
every method. Settings resemble ours: 20 to 372 test photos, shares of 0.6 to 0.98, bursts of 4 to
10 photos that are right or wrong together.

    python benchmarks/coverage.py [--draws 1000]

The repeated cross-validation trains a linear discriminant on two normal classes; its truth is the
mean accuracy of discriminants trained on four fifths as many photos.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measure import make_parser, save_rows
from scipy import stats

from headstart.evaluation.intervals import (
    Estimate,
    bootstrap,
    compare_hits,
    cross_validate,
    estimate_repeated,
    estimate_share,
)
from headstart.evaluation.student import student_quantile

Methods = dict[str, Estimate]
Draw = Callable[[np.random.Generator, int], Methods]
Setting = tuple[str, str, float, Draw]

SEED = 20261123


def measure(setting: Setting, draws: int) -> Iterator[dict[str, Any]]:
    """A row per method."""
    figure, photos, truth, draw = setting
    rng = np.random.default_rng(SEED)
    start = time.perf_counter()
    held: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for number in range(draws):
        for method, found in draw(rng, number).items():
            held.setdefault(method, []).append(found.low <= truth <= found.high)
            widths.setdefault(method, []).append(found.high - found.low)
    print(f"{figure}, {photos}: {time.perf_counter() - start:.0f} s", flush=True)
    for method, covered in held.items():
        share = estimate_share(covered)
        yield {
            "figure": figure,
            "photos": photos,
            "method": method.removesuffix(" *"),
            "ours": method.endswith(" *"),
            "truth": truth,
            "draws": draws,
            "coverage": share.value,
            "low": share.low,
            "high": share.high,
            "mean width": float(np.mean(widths[method])),
        }


# ---- shares


def plain_shares() -> Iterator[Setting]:
    for count, share in ((20, 0.9), (100, 0.6), (100, 0.9), (153, 0.94), (372, 0.87), (372, 0.98)):

        def draw(rng: Any, number: int, count: int = count, share: float = share) -> Methods:
            hits = rng.random(count) < share
            return {
                "Wilson *": estimate_share(hits),
                "normal": estimate_normal(hits),
                "bootstrap": bootstrap_plainly(hits, number),
            }

        yield "accuracy", f"{count} photos", share, draw


def grouped_shares() -> Iterator[Setting]:
    for share, groups, size, alike in (
        (0.9, 20, 5, 0.3),
        (0.9, 20, 5, 0.01),
        (0.8, 30, 10, 0.2),
        (0.9, 50, 8, 0.5),
        (0.95, 100, 4, 0.8),
        (0.98, 100, 4, 0.5),
        (0.9, 250, 1.5, 0.9),
    ):

        def draw(
            rng: Any,
            number: int,
            setting: tuple[float, int, float, float] = (share, groups, size, alike),
        ) -> Methods:
            hits, numbers = draw_groups(rng, *setting)
            return {
                "Wilson at the effective size *": estimate_share(hits, numbers),
                "Wilson, groups ignored": estimate_share(hits),
                "bootstrap over groups": bootstrap_plainly(hits, number, numbers),
            }

        text = f"{groups} groups of {size:g}, correlation {alike:g}"
        yield "accuracy of groups", text, share, draw


def draw_groups(
    rng: np.random.Generator, share: float, groups: int, size: float, alike: float
) -> tuple[Any, Any]:
    """Beta-binomial hits: ``alike`` is the correlation of two photos of a group."""
    sizes = rng.poisson(size - 1, groups) + 1
    weight = (1 - alike) / alike
    shares = rng.beta(share * weight, (1 - share) * weight, groups)
    numbers = np.repeat(np.arange(groups), sizes)
    return rng.random(len(numbers)) < shares[numbers], numbers


def estimate_normal(hits: Any) -> Estimate:
    """The interval of the textbooks: share ± 1.96 standard errors."""
    share = float(hits.mean())
    half = 1.959964 * math.sqrt(share * (1 - share) / len(hits))
    return Estimate(share, share - half, share + half)


def bootstrap_mean(values: Any, seed: int, groups: Any = None) -> Estimate:
    """Ours, on a mean."""
    exact = np.asarray(values, float)
    return bootstrap(lambda rows: float(exact[rows].mean()), len(exact), seed, groups)


def bootstrap_plainly(values: Any, seed: int, groups: Any = None) -> Estimate:
    """The percentile bootstrap of the textbooks, over groups."""
    exact = np.asarray(values, float)
    groups = np.arange(len(exact)) if groups is None else groups
    sums, sizes = np.bincount(groups, exact), np.bincount(groups)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (1000, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), (2.5, 97.5))
    return Estimate(float(exact.mean()), float(low), float(high))


def scipy_bca(values: Any, seed: int) -> Estimate:
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(float(np.mean(values)), float(found.low), float(found.high))


# ---- means


def log_losses() -> Iterator[Setting]:
    """The probability of the truth is a beta variable, so that the mean loss is known."""
    a, b = 4.0, 0.6
    from scipy.special import digamma

    truth = float(digamma(a + b) - digamma(a))
    for count in (50, 153, 372):

        def draw(rng: Any, number: int, count: int = count) -> Methods:
            losses = -np.log(rng.beta(a, b, count))
            return {
                "bootstrap *": bootstrap_mean(losses, number),
                "bootstrap, not widened": bootstrap_plainly(losses, number),
                "BCa": scipy_bca(losses, number),
            }

        yield "log loss", f"{count} photos", truth, draw

    def draw_grouped(rng: Any, number: int) -> Methods:
        numbers = np.repeat(np.arange(50), 5)
        losses = -np.log(rng.beta(a, b, 50))[numbers] * rng.uniform(0.8, 1.2, 250)
        return {
            "bootstrap over groups *": bootstrap_mean(losses, number, numbers),
            "bootstrap, groups ignored": bootstrap_plainly(losses, number),
        }

    yield "log loss of groups", "50 groups of 5", truth, draw_grouped


# Photos and recall of each class: even and nearly without mistakes, and uneven, among which are
# the test photos of clothing.
_BALANCED = {
    "150 photos, 10 classes": ((15,) * 10, np.linspace(0.75, 0.97, 10)),
    "372 photos, 10 classes": ((37,) * 9 + (39,), np.linspace(0.75, 0.97, 10)),
    "100 photos, 10 classes": ((10,) * 10, np.full(10, 0.98)),
    "80 photos, 2 classes": ((40, 40), np.full(2, 0.98)),
    "80 photos, 2 uneven classes": ((70, 10), np.array((0.95, 0.8))),
    "200 photos, 5 uneven classes": ((120, 40, 20, 10, 10), np.linspace(0.98, 0.82, 5)),
    "372 photos, 10 uneven classes": (
        (12, 38, 12, 72, 15, 73, 42, 30, 26, 52),
        np.array((0.95, 0.85, 0.75, 0.8, 0.8, 0.98, 0.95, 0.85, 0.7, 0.85)),
    ),
    "200 photos of 40 groups, 4 classes": ((50,) * 4, np.full(4, 0.9)),
}


def balanced_accuracies() -> Iterator[Setting]:
    for text, (photos, recalls) in _BALANCED.items():
        labels = np.repeat(np.arange(len(photos)), photos)
        groups = np.arange(len(labels)) // 5 if "groups" in text else None

        def draw(
            rng: Any,
            number: int,
            labels: Any = labels,
            recalls: Any = recalls,
            groups: Any = groups,
        ) -> Methods:
            shares = recalls[labels]
            if groups is not None:  # Correlation 0.4, as in `draw_groups`.
                of_group = recalls[labels[::5]] * 1.5
                shares = rng.beta(of_group, 1.5 - of_group)[groups]
            hits = rng.random(len(labels)) < shares

            def statistic(rows: Any) -> float:
                counts = np.bincount(labels[rows], minlength=len(recalls))
                right = np.bincount(labels[rows], hits[rows], len(recalls))
                return float((right[counts > 0] / counts[counts > 0]).mean())

            return {
                "Wilson at the effective size *": estimate_share(hits, groups, classes=labels),
                "bootstrap": bootstrap(statistic, len(labels), number, groups),
            }

        yield "balanced accuracy", text, float(recalls.mean()), draw


# ---- differences


def differences() -> Iterator[Setting]:
    for count, better, worse, size in (
        (20, 0.1, 0.05, 1),
        (50, 0.1, 0.05, 1),
        (153, 0.06, 0.02, 1),
        (372, 0.08, 0.05, 1),
        (372, 0.01, 0.01, 1),
        (40, 0.15, 0.1, 8),
        (100, 0.1, 0.05, 4),
    ):

        def draw(
            rng: Any,
            number: int,
            setting: tuple[int, float, float, int] = (count, better, worse, size),
        ) -> Methods:
            count, better, worse, size = setting
            shares = [better, 1 - better - worse, worse]
            groups = np.repeat(np.arange(count), size)
            of_group = rng.choice([1, 0, -1], count, p=shares)[groups]
            own = rng.choice([1, 0, -1], len(groups), p=shares)
            gains = np.where(rng.random(len(groups)) < (0.8 if size > 1 else 1), of_group, own)
            right, other = gains > 0, gains < 0
            methods = {
                "paired bootstrap, two photos added *": compare_hits(
                    right, other, groups, seed=number
                ).difference,
                "paired bootstrap": bootstrap_plainly(gains, number, groups),
            }
            if size > 1:
                ignored = compare_hits(right, other, seed=number).difference
                methods["groups ignored"] = ignored
            return methods

        text = f"{count} photos" if size == 1 else f"{count} groups of {size}"
        yield "difference of accuracies", text, better - worse, draw


# ---- repeated cross-validation


def repeated_cross_validations() -> Iterator[Setting]:
    for count, distance, size in (
        (40, 0.8, 1),
        (100, 0.8, 1),
        (100, 1.5, 1),
        (300, 0.8, 1),
        (40, 1.7, 1),
        (40, 2.2, 1),
        (100, 2.0, 1),
        (50, 1.0, 4),
        (50, 1.8, 4),
    ):
        truth = _true_accuracy(count * size, distance, size)

        def draw(
            rng: Any, number: int, setting: tuple[int, float, int] = (count, distance, size)
        ) -> Methods:
            count, distance, size = setting
            rows, labels, groups = _draw_classes(rng, count * size, distance, size)
            repeats = [_list_folds(rng, groups, 5) for _ in range(5)]

            def predict(train: Any, held_out: Any) -> Any:
                weights, threshold = _discriminate(rows[train], labels[train])
                return rows[held_out] @ weights > threshold

            hits = cross_validate(predict, repeats) == labels
            owners = groups if size > 1 else None
            scores = [
                hits[number, held_out].mean()
                for number, folds in enumerate(repeats)
                for _, held_out in folds
            ]
            return {
                "Wilson at the effective size *": estimate_repeated(hits, repeats, owners),
                "corrected resampled t": estimate_folds(scores, 1 / 4),
                "Wilson of each photo's mean": estimate_share(hits.mean(0), owners),
                "t over the folds": estimate_folds(scores),
            }

        text = f"{count} photos" if size == 1 else f"{count} groups of {size}"
        yield "repeated cross-validation", f"{text}, 5 × 5 folds", truth, draw


def estimate_folds(scores: Any, corrected: float = 0.0) -> Estimate:
    """A t interval that takes folds for independent, or with Nadeau and Bengio's correction."""
    mean, count = float(np.mean(scores)), len(scores)
    spread = float(np.std(scores, ddof=1)) * math.sqrt(1 / count + corrected)
    half = student_quantile(0.975, count - 1) * spread
    return Estimate(mean, mean - half, mean + half)


_DIMENSIONS = 5


def _draw_classes(rng: Any, count: int, distance: float, size: int) -> tuple[Any, Any, Any]:
    """Rows of two normal classes, in groups that share most of their position."""
    labels = np.arange(count // size) % 2
    rows = rng.normal(size=(len(labels), _DIMENSIONS)) + distance * (labels[:, None] - 0.5)
    groups = np.repeat(np.arange(len(labels)), size)
    rows, labels = rows[groups], labels[groups]
    if size > 1:
        rows = rows + 0.5 * rng.normal(size=rows.shape)
    return rows, labels, groups


def _discriminate(rows: Any, labels: Any) -> tuple[Any, float]:
    low, high = rows[labels == 0].mean(0), rows[labels == 1].mean(0)
    spread = np.cov((rows - np.where(labels[:, None], high, low)).T) + 0.01 * np.eye(_DIMENSIONS)
    weights = np.linalg.solve(spread, high - low)
    return weights, float(weights @ (low + high) / 2)


def _true_accuracy(count: int, distance: float, size: int) -> float:
    rng = np.random.default_rng(SEED + 1)
    rows, labels, _ = _draw_classes(rng, 40_000, distance, size)
    found = []
    for _ in range(400):
        part, part_labels, _ = _draw_classes(rng, count * 4 // 5, distance, size)
        weights, threshold = _discriminate(part, part_labels)
        found.append(((rows @ weights > threshold) == labels).mean())
    return float(np.mean(found))


def _list_folds(rng: Any, groups: Any, folds: int) -> list[tuple[Any, Any]]:
    fold_of = (rng.permutation(groups.max() + 1) % folds)[groups]
    return [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(folds)]


def main() -> None:
    parser = make_parser((__doc__ or "").splitlines()[0], has_repeats=False)
    parser.add_argument("--draws", type=int, default=1000, help="of each setting")
    options = parser.parse_args()
    parts = (
        plain_shares,
        grouped_shares,
        log_losses,
        balanced_accuracies,
        differences,
        repeated_cross_validations,
    )
    rows = [row for part in parts for setting in part() for row in measure(setting, options.draws)]
    save_rows("coverage", rows, options, is_full=options.draws >= 1000)


if __name__ == "__main__":
    main()
