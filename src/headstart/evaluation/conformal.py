"""Conformal prediction sets: the classes among which the truth is, as often as was asked for.

The score of a photo is one minus the probability of its true class (LAC: Sadinle, Lei and Wasserman
2019, https://doi.org/10.1080/01621459.2017.1395341). A set holds every class whose score is at most
a threshold, the quantile of the scores of photos that were held out. As long as new photos come
from where those came from, at least the asked share of sets holds the truth (Vovk, Gammerman and
Shafer 2005). Class-wise thresholds promise it of every class by itself, for larger sets.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def fit_threshold(scores: Floats, coverage: float, otherwise: float = 1.0) -> float:
    """The largest score that a set may have: the ``ceil((n + 1) · coverage)``-th smallest.

    Args:
        scores: ``(sample,)`` one minus the probability of the truth, of samples held out.
        coverage: Share of the sets that hold the truth, between 0 and 1.
        otherwise: See below.

    Returns:
        ``otherwise`` where there are too few samples for the coverage; 1.0 lets every class in.

    >>> fit_threshold(np.arange(1, 20) / 20, 0.9)
    0.9
    >>> fit_threshold(np.array([0.1, 0.2]), 0.9)
    1.0
    """
    # Rounded first: (n + 1) · 0.95 is a whole number more often than floats know.
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else otherwise


def score_truth(probabilities: Floats, labels: Labels) -> Floats:
    """``(sample,)`` one minus the probability of the truth."""
    scores: Floats = 1 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return scores


def fit_class_thresholds(
    probabilities: Floats, labels: Labels, coverage: float
) -> tuple[float, ...]:
    """A threshold per class, from the samples of that class alone (Mondrian conformal sets).

    Args:
        probabilities: ``(sample, class)`` of samples held out.
        labels: ``(sample,)`` class numbers.
        coverage: As in `fit_threshold`; a class of too few samples is in every set.
    """
    scores = score_truth(probabilities, labels)
    classes = range(probabilities.shape[1])
    return tuple(fit_threshold(scores[labels == number], coverage) for number in classes)


def predict_sets(
    probabilities: Floats, thresholds: float | tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """``(sample, class)`` whether the class is in the set; the most probable one always is.

    Args:
        probabilities: ``(sample, class)``.
        thresholds: One, or one per class.

    >>> predict_sets(np.array([[0.6, 0.3, 0.1], [0.5, 0.45, 0.05]]), 0.6).tolist()
    [[True, False, False], [True, True, False]]
    """
    sets = 1 - probabilities.astype(np.float64) <= np.asarray(thresholds)
    # An empty set would say nothing, and a larger one holds the truth no less often.
    sets[np.arange(len(sets)), probabilities.argmax(1)] = True
    return np.asarray(sets, np.bool_)
