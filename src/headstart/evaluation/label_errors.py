"""Labels that are probably wrong, by confident learning; photos unlike all others. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

# Distances so many interquartile ranges above the third quartile are "far out" (Tukey 1977).
_FAR_OUT = 3.0


@dataclass(frozen=True)
class LabelErrors:
    """What out-of-fold probabilities say of the labels.

    Attributes:
        suspicion: ``(sample,)`` between 0 and 1: how much more probable another class is than the
            label; 0.5 where they are even.
        suggestions: ``(sample,)`` the most probable other class.
        flagged: ``(sample,)`` whether the sample is confidently of that other class.
    """

    suspicion: Floats
    suggestions: npt.NDArray[np.intp]
    flagged: npt.NDArray[np.bool_]


def find_label_errors(probabilities: Floats, labels: Labels) -> LabelErrors:
    """Samples that are confidently of another class than their label says.

    Confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125): a
    class's threshold is the mean probability that its own samples have of it. A sample counts as
    of the most probable class among those whose threshold it reaches; where that is not its label,
    it is flagged. About half of such flags were right in a study of ten public data sets
    (Northcutt, Athalye and Mueller 2021, https://arxiv.org/abs/2103.14749).

    Args:
        probabilities: ``(sample, class)`` by heads that have not seen the sample.
        labels: ``(sample,)`` class numbers; each class must occur.

    >>> odds = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]])
    >>> found = find_label_errors(odds, np.array([0, 0, 1, 1, 1]))
    >>> found.flagged.tolist(), found.suggestions[4].item(), round(found.suspicion[4].item(), 2)
    ([False, False, False, False, True], 0, 0.95)
    """
    rows, count = np.arange(len(labels)), probabilities.shape[1]
    own = probabilities[rows, labels].astype(np.float64)
    thresholds = np.array([own[labels == number].mean() for number in range(count)])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident = np.where(reached.max(1) >= 0, reached.argmax(1), labels)
    others = probabilities.astype(np.float64)
    others[rows, labels] = -1.0
    suggestions = others.argmax(1)
    return LabelErrors(
        suspicion=(1 + others.max(1) - own) / 2,
        suggestions=suggestions.astype(np.intp),
        # Reaching a threshold is not enough where the label is more probable still.
        flagged=(confident != labels) & (others.max(1) > own),
    )


def find_outliers(distances: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which samples are far from all others, and how far, between 0 and 1.

    Args:
        distances: ``(sample,)`` to the k-th nearest other sample, see
            `headstart.evaluation.novelty.measure_distances`.

    Returns:
        Whether a sample is far out, and 1 - (limit / distance) for those, else 0.

    >>> flagged, scores = find_outliers(np.array([1.0, 1.1, 0.9, 1.05, 0.95, 4.0]))
    >>> flagged.tolist(), bool(scores[5] > 0.5)
    ([False, False, False, False, False, True], True)
    """
    low, high = np.quantile(distances, (0.25, 0.75))
    limit = high + _FAR_OUT * (high - low)
    flagged = distances > max(limit, 1e-9)
    return flagged, np.where(flagged, 1 - limit / np.maximum(distances, 1e-9), 0.0)
