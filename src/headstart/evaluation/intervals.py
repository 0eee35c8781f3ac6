"""How far a measured number can be trusted: intervals and paired comparison. NumPy only.

The unit that is drawn is the group, not the photo: near duplicates, photos of one burst or of one
object are right or wrong together, and an interval that counts them one by one is too narrow.
Without groups each photo is its own. docs/intervals.md says which interval is used for what, and
how often each covers the truth (`benchmarks/coverage.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.groups import Floats, Groups, Rows, design_effect, effective_size
from headstart.evaluation.student import student_quantile

Statistic = Callable[[Rows], float]
Fold = tuple[Rows, Rows]

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, of 95 % unless another level was asked for."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same photos.

    Attributes:
        difference: Accuracy of the first minus that of the second, with its interval.
        probability: Bootstrap probability that the difference is above zero.
    """

    difference: Estimate
    probability: float


def wilson(successes: float, count: float, level: float = LEVEL) -> Estimate:
    """A share with Wilson's score interval (1927, https://doi.org/10.2307/2276774).

    Args:
        successes: How many, of ``count``; an effective sample size need not be whole.
        count: At least above 0.
        level: Of confidence.

    >>> str(wilson(90, 100))
    '0.900 [0.826, 0.945]'
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z * spread / (1 + z**2 / count)
    # At 0 and at 1 a bound is the share itself, apart from rounding.
    return Estimate(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def estimate_share(
    hits: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    classes: npt.ArrayLike | None = None,
    level: float = LEVEL,
) -> Estimate:
    """The share of true values; Wilson's interval at the sample size that the groups leave.

    Photos of a group that are right together count as fewer than they are. The effective sample
    size is that of a simple sample with the variance between groups, corrected for their number
    (Korn and Graubard 1998, Survey Methodology 24:193; with Wilson's interval: Franco et al. 2019,
    https://doi.org/10.1093/jssam/smy019). It is at most the number of photos, and where all
    photos are right, or all wrong, the number of groups.

    With ``classes`` it is the mean of their shares, as balanced accuracy is; few photos of one
    class make the effective sample size small.

    Args:
        hits: ``(photo,)`` booleans, or shares of hits between 0 and 1.
        groups: ``(photo,)`` what tells groups apart.
        classes: ``(photo,)`` what tells classes apart; without it all photos are of one.
        level: Of confidence.

    >>> hits = [True] * 90 + [False] * 10
    >>> str(estimate_share(hits))
    '0.900 [0.826, 0.945]'
    >>> str(estimate_share(hits, groups=[number // 10 for number in range(100)]))
    '0.900 [0.527, 0.986]'
    >>> str(estimate_share(hits, classes=["hat"] * 20 + ["shoe"] * 80))
    '0.938 [0.876, 0.970]'
    """
    values = np.asarray(hits, np.float64)
    numbers = np.zeros(len(values), np.intp)
    if classes is not None:
        _, numbers = np.unique(classes, return_inverse=True)
    return _apply_wilson(*_summarise(values, groups, numbers, level), level)


def _summarise(
    values: Floats, groups: Sequence[Any] | npt.NDArray[Any] | None, classes: Rows, level: float
) -> tuple[float, float]:
    """Mean share of the classes, and its sample size; 0 of one group, which tells of no other."""
    sizes = np.bincount(classes)
    right = np.bincount(classes, values).astype(np.float64)
    shares, size = right / sizes, effective_size(right, sizes)
    share = float(shares.mean())
    if groups is None:
        return share, size
    members = Groups(groups, len(values))
    if len(members) == 1:
        return share, 0.0
    effect = design_effect(values, classes, shares, members)
    return share, size * min(_heed_few(len(members), level) / effect, 1.0)


def _heed_few(count: int, level: float) -> float:
    """By what a sample size is multiplied so that Wilson's interval is as wide as t makes it."""
    share = (1 + level) / 2
    return (NormalDist().inv_cdf(share) / student_quantile(share, count - 1)) ** 2


def _apply_wilson(share: float, size: float, level: float) -> Estimate:
    return wilson(share * size, size, level) if size else Estimate(share, 0.0, 1.0)


def bootstrap(
    statistic: Statistic,
    count: int,
    seed: int,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    level: float = LEVEL,
) -> Estimate:
    """Any statistic of rows, with its percentile interval over resampled groups.

    Groups are drawn with replacement and bring all their rows (Davison and Hinkley 1997,
    Bootstrap Methods and Their Application, 3.8). The percentiles are widened for few groups
    as a t interval is wider than a normal one (Hesterberg 2015, section 4.2,
    https://doi.org/10.1080/00031305.2015.1089789).

    Args:
        statistic: From row numbers, some of them repeatedly, to a number.
        count: Number of rows.
        seed: Of the draws.
        groups: ``(row,)`` what tells groups apart.
        level: Of confidence.

    >>> values = np.arange(100.0)
    >>> str(bootstrap(lambda rows: float(values[rows].mean()), 100, seed=0))
    '49.500 [43.723, 55.047]'
    """
    value = statistic(np.arange(count))
    members = Groups(groups, count)
    if len(members) == 1:
        return Estimate(value, value, value)
    rng = np.random.default_rng(seed)
    draws = [statistic(members.draw(rng)) for _ in range(RESAMPLES)]
    return _percentile_interval(value, draws, len(members), level)


def compare_hits(
    hits: npt.ArrayLike,
    others: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """Two classifiers by their hits on the same photos, paired, over resampled groups.

    Two photos are added on which one is right and the other wrong, one each way, as Bonett and
    Price do (2012, https://doi.org/10.3102/1076998611411915): without them few disagreements give
    too narrow an interval, and none gives one of no width. With groups they have groups of
    average size.

    Args:
        hits: ``(photo,)`` whether the first classifier is right.
        others: ``(photo,)`` whether the second is.
        groups: ``(photo,)`` what tells groups apart.
        seed: Of the draws.
        level: Of confidence.

    Raises:
        ValueError: They are not of the same photos.

    >>> right = np.arange(200) % 10 != 0
    >>> other = np.arange(200) % 8 != 0
    >>> found = compare_hits(right, other)
    >>> str(found.difference), round(found.probability, 2)
    ('0.025 [-0.035, 0.084]', 0.79)
    """
    gains = np.asarray(hits, np.float64) - np.asarray(others, np.float64)
    if gains.ndim != 1 or not len(gains):
        raise ValueError(f"hits of shape {gains.shape}; needed is one per photo, of both alike")
    members = Groups(groups, len(gains))
    size = len(gains) / len(members)
    sums = np.append(members.sum(gains), (size**0.5, -(size**0.5)))
    sizes = np.append(members.sizes, (size, size))
    rng = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        draws[number] = sums[drawn].sum() / sizes[drawn].sum()
    probability = float((draws > 0).mean() + (draws == 0).mean() / 2)
    value = float(gains.mean())
    return Comparison(_percentile_interval(value, draws, len(sums), level), probability)


def cross_validate(
    predict: Callable[[Rows, Rows], npt.NDArray[np.floating]],
    repeats: Iterable[Iterable[Fold]],
) -> npt.NDArray[np.floating]:
    """Out-of-fold predictions of each repeat: ``(repeat, row, ...)``.

    Args:
        predict: Trains on the rows of its first argument and gives the predictions for those of
            its second, ``(held-out row, ...)``; with cached features that is a probe's second.
        repeats: For each repeat the folds ``(train rows, held-out rows)``, in which every row is
            held out once; `headstart.data.split.list_folds` makes them, with another seed each.

    Raises:
        ValueError: A row is held out twice or never.

    >>> labels = np.array([0, 0, 1, 1])
    >>> folds = [(np.array([0, 2]), np.array([1, 3])), (np.array([1, 3]), np.array([0, 2]))]
    >>> cross_validate(lambda train, held_out: labels[train].astype(float), [folds]).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    return np.stack([_predict_held_out(predict, list(folds)) for folds in repeats])


def _predict_held_out(
    predict: Callable[[Rows, Rows], npt.NDArray[np.floating]], folds: list[Fold]
) -> npt.NDArray[np.floating]:
    order = np.concatenate([held_out for _, held_out in folds])
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ValueError("the folds do not hold out every row once")
    rows = np.concatenate([predict(train, held_out) for train, held_out in folds])
    found = np.empty_like(rows)
    found[order] = rows
    return found


def estimate_repeated(
    hits: npt.ArrayLike,
    repeats: Sequence[Sequence[Fold]],
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    level: float = LEVEL,
) -> Estimate:
    """Accuracy by repeated cross-validation; Wilson's interval at its effective sample size.

    The scores of folds are dependent, because they share training photos; their variance is raised
    by the ratio of test to training photos (Nadeau and Bengio 2003,
    https://doi.org/10.1023/A:1024068626366; for repeated cross-validation Bouckaert and Frank
    2004, https://doi.org/10.1007/978-3-540-24775-3_3). The sample size is the one that has this
    variance, or that of `estimate_share` where that is smaller: near 100 % folds hardly differ.

    Args:
        hits: ``(repeat, photo)`` whether the out-of-fold answers are right.
        repeats: The folds, as `cross_validate` took them; more than one in all.
        groups: ``(photo,)`` what tells groups apart; folds keep them together.
        level: Of confidence.

    >>> folds = [(np.array([0, 1]), np.array([2, 3])), (np.array([2, 3]), np.array([0, 1]))]
    >>> str(estimate_repeated([[True, True, False, True]], [folds]))
    '0.750 [0.003, 1.000]'
    """
    right = np.asarray(hits, np.float64)
    scores, ratios = [], []
    for row, folds in zip(right, repeats, strict=True):
        for train, held_out in folds:
            scores.append(float(row[held_out].mean()))
            ratios.append(len(held_out) / len(train))
    every = np.zeros(right.shape[1], np.intp)
    value, size = _summarise(right.mean(0), groups, every, level)
    variance = float(np.var(scores, ddof=1)) * (1 / len(scores) + float(np.mean(ratios)))
    if variance:
        size = min(size, _heed_few(len(scores), level) * value * (1 - value) / variance)
    return _apply_wilson(value, size, level)


def _percentile_interval(
    value: float, draws: Sequence[float] | Floats, groups: int, level: float
) -> Estimate:
    wide = student_quantile((1 + level) / 2, groups - 1) * math.sqrt(groups / (groups - 1))
    share = NormalDist().cdf(wide) * 100
    low, high = np.percentile(draws, (100 - share, share))
    return Estimate(value, float(low), float(high))
