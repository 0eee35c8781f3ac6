"""Do probabilities mean what they say? Temperature, reliability, and what chance alone would show.

NumPy only, so that whoever predicts can import it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.intervals import Estimate, estimate_share

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

BINS = 15
_DRAWS = 1000
_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers of about the same confidence.

    Attributes:
        low: Least confidence of the bin.
        high: Largest.
        photos: How many answers fall in it.
        confidence: Their mean confidence.
        accuracy: Share of them that is right, with its interval.
    """

    low: float
    high: float
    photos: int
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy, and how far chance alone would bring it.

    Attributes:
        ece: Expected calibration error in 15 bins of equal width (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599).
        by_chance: What `ece` would be on average on as many photos if every probability were right.
            It is not zero: accuracies of few photos scatter.
        by_chance_high: The 95th percentile of that: a larger `ece` is visible miscalibration.
        bins: The reliability diagram, bins of equal width without the empty ones.
    """

    ece: float
    by_chance: float
    by_chance_high: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def debiased(self) -> float:
        """`ece` less what chance alone gives; around zero, also below, when calibrated."""
        return self.ece - self.by_chance

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "debiased": self.debiased, "bins": [asdict(b) for b in self.bins]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """The calibration of plain data.

        Raises:
            ValueError: It is not a calibration's data.
        """
        try:
            bins = tuple(_read_bin(row) for row in data["bins"])
            figures = {k: float(data[k]) for k in ("ece", "by_chance", "by_chance_high")}
            return cls(**figures, bins=bins)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a calibration's data: {error!r}") from error


def _read_bin(row: dict[str, Any]) -> ReliabilityBin:
    accuracy = Estimate(*(float(row["accuracy"][key]) for key in ("value", "low", "high")))
    figures = {key: float(row[key]) for key in ("low", "high", "confidence")}
    return ReliabilityBin(photos=int(row["photos"]), accuracy=accuracy, **figures)


def fit_temperature(logits: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """The temperature by which logits are divided so that their log loss is lowest.

    One number for all classes; it changes no decision (Guo et al. 2017). The log loss is convex in
    the inverse temperature, so that a golden-section search finds the optimum.

    Args:
        logits: ``(sample, class)`` of samples that were held out.
        labels: ``(sample,)`` class numbers.
        weights: ``(sample,)``; all 1 by default.

    Returns:
        Between 0.05 and 20; 1.0 where there are no samples.

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(4000, 3))
    >>> odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    >>> labels = (odds.cumsum(1) < rng.random((4000, 1))).sum(1)
    >>> round(fit_temperature(3 * logits, labels), 1)
    3.0
    """
    if not len(labels):
        return 1.0
    wide = logits.astype(np.float64)
    wide = wide - wide.max(1, keepdims=True)
    chosen = wide[np.arange(len(labels)), labels]
    share = np.ones(len(labels)) if weights is None else weights
    share = share / share.sum()

    def loss(inverse: float) -> float:
        return float(share @ (np.log(np.exp(inverse * wide).sum(1)) - inverse * chosen))

    golden = (math.sqrt(5) - 1) / 2
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    while high - low > 1e-6 * high:
        first, second = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, second) if loss(first) < loss(second) else (first, high)
    return 2 / (low + high)


def measure_calibration(
    probabilities: Floats,
    labels: Labels,
    seed: int = 0,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Calibration:
    """Confidence against accuracy.

    What chance alone gives is simulated: each answer is right with its own confidence. That is the
    consistency resampling of Bröcker and Smith (2007, https://doi.org/10.1175/WAF993.1).

    Args:
        probabilities: ``(sample, class)``.
        labels: ``(sample,)`` class numbers.
        seed: Of the simulation.
        groups: ``(sample,)`` what is right or wrong together; only the bins' intervals heed it.

    >>> found = measure_calibration(np.array([[0.8, 0.2]] * 5), np.array([0, 0, 0, 0, 1]))
    >>> found.ece, found.bins[0].photos, found.bins[0].accuracy.value
    (0.0, 5, 0.8)
    >>> found.by_chance > 0.1
    True
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rng = np.random.default_rng([seed, 7])
    by_chance = [
        _mean_gap(number, (rng.random(len(confidence)) < confidence) - confidence)
        for _ in range(_DRAWS)
    ]
    bins = []
    for each in np.unique(number):
        rows = np.flatnonzero(number == each)
        owners = None if groups is None else np.asarray(groups)[rows]
        bins.append(
            ReliabilityBin(
                each / BINS,
                (each + 1) / BINS,
                len(rows),
                float(confidence[rows].mean()),
                estimate_share(right[rows], owners),
            )
        )
    return Calibration(
        _mean_gap(number, right - confidence),
        float(np.mean(by_chance)),
        float(np.quantile(by_chance, 0.95)),
        tuple(bins),
    )


def _mean_gap(number: npt.NDArray[np.integer], gaps: Floats) -> float:
    """Mean gap between confidence and accuracy, weighted by bin."""
    sums = np.bincount(number, weights=gaps, minlength=BINS)
    return float(round(np.abs(sums).sum() / len(number), 12))
