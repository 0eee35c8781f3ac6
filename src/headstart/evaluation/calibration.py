"""Do probabilities mean what they say? Temperature, reliability, and what chance alone would show.

NumPy only, so that whoever predicts can import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.intervals import Estimate, estimate_share

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

BINS = 15
_DRAWS = 1000
# Logarithm of the highest temperature, and that of the lowest but for the sign.
_FARTHEST, _PLACES = math.log(20), 25
# Of the logarithm of temperatures, before any photo is seen: docs/trust.md.
SPREAD = 0.3


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


def fit_temperature(
    logits: Floats,
    labels: Labels,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    spread: float = SPREAD,
) -> float:
    """The temperature by which logits are divided so that they say how often they are right.

    One number for all classes; it changes no decision (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599). How few photos are heeded: `find_temperature`.

    Args:
        logits: ``(sample, class)`` of samples that were held out.
        labels: ``(sample,)`` class numbers.
        groups: ``(sample,)`` what is right or wrong together, and counts as one.
        spread: See `find_temperature`.

    Returns:
        Between 0.05 and 20; 1.0 where there are no samples.

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(4000, 3))
    >>> odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    >>> labels = (odds.cumsum(1) < rng.random((4000, 1))).sum(1)
    >>> round(fit_temperature(3 * logits, labels), 1)
    3.0
    """
    wide = logits.astype(np.float64)
    wide = wide - wide.max(1, keepdims=True)
    chosen = wide[np.arange(len(labels)), labels]

    def loss(temperature: float) -> float:
        return float((np.log(np.exp(wide / temperature).sum(1)) - chosen / temperature).mean())

    return find_temperature(loss, len(labels) if groups is None else len(set(groups)), spread)


def find_temperature(loss: Callable[[float], float], count: int, spread: float = SPREAD) -> float:
    """The temperature of the lowest loss, nearer to 1 the fewer photos tell it.

    Few photos that are all right have their lowest loss at temperature 0, where every answer is
    said to be certain. So the likelihood is joined by a prior, a normal distribution of the
    temperature's logarithm around 0, and the maximum of both is taken. That divides the loss of
    new photos by four to six where nearly all held out are right (`benchmarks/temperature.py`).

    Args:
        loss: From a temperature to the mean log loss of photos held out, in nats.
        count: How many photos, or groups of them.
        spread: Standard deviation of the prior; infinite is no prior.

    Returns:
        Between 0.05 and 20; 1.0 where there are no photos.

    >>> find_temperature(lambda temperature: 0.0 * temperature, 100)
    1.0
    """
    if not count:
        return 1.0

    def cost(place: float) -> float:
        return count * loss(math.exp(place)) + (place / spread) ** 2 / 2

    # Coarsely first, as there may be a second dip.
    places = np.linspace(-_FARTHEST, _FARTHEST, _PLACES)
    best = int(np.argmin([cost(place) for place in places]))
    low, high = float(places[max(best - 1, 0)]), float(places[min(best + 1, _PLACES - 1)])
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-6:
        first, second = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, second) if cost(first) <= cost(second) else (first, high)
    return round(math.exp((low + high) / 2), 6)


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
