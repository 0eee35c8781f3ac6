"""How good predicted numbers are, and the interval around each. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.conformal import fit_threshold
from headstart.evaluation.intervals import Estimate, bootstrap, estimate_share
from headstart.evaluation.trust import COVERAGE, COVERAGES, pick

Floats = npt.NDArray[np.floating]
_ESTIMATES = ("mae", "rmse", "r2", "spearman")


@dataclass(frozen=True)
class ValueBaseline:
    """Errors, on the same photos, of answers that look at no photo.

    Attributes:
        mean: Of the training photos' numbers.
        median: Likewise.
        mean_mae: Mean absolute error of always answering the mean.
        mean_rmse: Root of its mean squared error.
        median_mae: Of always answering the median.
        median_rmse: Likewise.
    """

    mean: float
    median: float
    mean_mae: float
    mean_rmse: float
    median_mae: float
    median_rmse: float


@dataclass(frozen=True)
class ValueEvaluation:
    """Everything measured on one set of photos; intervals are of 95 %, by the bootstrap.

    Attributes:
        photos: Number of photos.
        mae: Mean absolute error, in the unit of the numbers.
        rmse: Root of the mean squared error, likewise.
        r2: 1 minus the squared error as a share of that of the photos' own mean.
        spearman: Rank correlation of answers and truths.
        baseline: What looks at no photo.
        coverage: Share of the prediction intervals that hold the truth; None without intervals.
        coverage_asked: What it should be.
    """

    photos: int
    mae: Estimate
    rmse: Estimate
    r2: Estimate
    spearman: Estimate
    baseline: ValueBaseline
    coverage: Estimate | None
    coverage_asked: float

    def __str__(self) -> str:
        return f"mean absolute error {self.mae}, R² {self.r2} on {self.photos} photos"

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ValueEvaluation:
        """The evaluation of plain data.

        Raises:
            ValueError: It is not an evaluation's data.
        """
        try:
            names = ValueBaseline.__dataclass_fields__
            return cls(
                photos=int(data["photos"]),
                **{key: _read_estimate(data[key]) for key in _ESTIMATES},
                baseline=ValueBaseline(**{key: float(data["baseline"][key]) for key in names}),
                coverage=None if data["coverage"] is None else _read_estimate(data["coverage"]),
                coverage_asked=float(data["coverage_asked"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an evaluation's data: {error!r}") from error


def _read_estimate(data: dict[str, Any]) -> Estimate:
    return Estimate(*(float(data[key]) for key in ("value", "low", "high")))


@dataclass(frozen=True)
class ValueTrust:
    """What is known of the numbers, from training photos that were held out.

    Attributes:
        half_widths: For each coverage half the width of the prediction interval; None where the
            photos are too few for it.
        mean: Of the training photos' numbers.
        median: Likewise.
    """

    half_widths: dict[float, float | None]
    mean: float
    median: float

    def get_half_width(self, coverage: float) -> float | None:
        """Half the width of the prediction interval; None where the photos are too few for it.

        Raises:
            HeadstartError: No such coverage was fitted.
        """
        widths = {level: (width,) for level, width in self.half_widths.items()}
        found: float | None = pick(widths, coverage, "coverage")[0]
        return found

    def fits(self, names: int) -> bool:
        """Whether it is of so many numbers per photo: of one."""
        return names == 1

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "half_widths": {str(k): v for k, v in self.half_widths.items()}}

    @classmethod
    def from_json(cls, data: Any) -> ValueTrust:
        """Of plain data.

        Raises:
            ValueError: It is none.
        """
        try:
            widths = {
                coverage: _read_width(data["half_widths"][str(coverage)]) for coverage in COVERAGES
            }
            mean, median = float(data["mean"]), float(data["median"])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not what is known of numbers: {error!r}") from error
        if not math.isfinite(mean) or not math.isfinite(median):
            raise ValueError("not what is known of numbers: mean or median is not finite")
        return cls(widths, mean, median)


def _read_width(value: Any) -> float | None:
    if value is None:
        return None
    width = float(value)
    if not (math.isfinite(width) and width >= 0):
        raise ValueError(f"{value!r} is not a width")
    return width


def fit_half_widths(residuals: Floats) -> dict[float, float | None]:
    """Half the width of the prediction interval for each coverage.

    The quantile of absolute residuals, as of a conformal set's scores (`fit_threshold`; Lei et al.
    2018, https://doi.org/10.1080/01621459.2017.1307116). The residuals are out-of-fold: each is of
    a head that had not seen the photo, which has seen fewer photos than the final one.

    Args:
        residuals: ``(sample,)`` truth minus prediction, of samples held out.

    >>> fit_half_widths(np.arange(-10, 10.0))
    {0.8: 8.0, 0.9: 9.0, 0.95: 10.0, 0.99: None}
    """
    found = {c: fit_threshold(abs(residuals), c, math.inf) for c in COVERAGES}
    return {coverage: None if math.isinf(width) else width for coverage, width in found.items()}


def evaluate_values(
    values: Floats,
    truth: Floats,
    trust: ValueTrust,
    seed: int = 0,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    coverage: float = COVERAGE,
) -> ValueEvaluation:
    """Measure predicted numbers against the truth.

    Args:
        values: ``(sample,)`` predicted.
        truth: ``(sample,)``.
        trust: Of the training photos.
        seed: Of the bootstrap.
        groups: ``(sample,)`` what tells groups apart; only the intervals depend on it.
        coverage: Of the prediction intervals: one of those that `trust` has.

    Raises:
        ValueError: No samples, or shapes that do not fit.

    >>> trust = ValueTrust({0.9: 1.0}, 2.0, 2.0)
    >>> found = evaluate_values(np.array([1.0, 2, 4]), np.array([1.0, 2, 3]), trust)
    >>> round(found.mae.value, 3), found.r2.value, found.coverage.value
    (0.333, 0.5, 1.0)
    """
    if not len(truth) or values.shape != truth.shape:
        raise ValueError(f"{values.shape} values and {truth.shape} truths do not fit, or are none.")
    values, truth = values.astype(np.float64), truth.astype(np.float64)
    errors = values - truth
    statistics = {
        "mae": lambda rows: float(abs(errors[rows]).mean()),
        "rmse": lambda rows: float(np.sqrt((errors[rows] ** 2).mean())),
        "r2": lambda rows: measure_r2(errors[rows], truth[rows]),
        "spearman": lambda rows: _correlate(_rank(values[rows]), _rank(truth[rows])),
    }
    width = trust.get_half_width(coverage)
    return ValueEvaluation(
        photos=len(truth),
        **{key: bootstrap(each, len(truth), seed, groups) for key, each in statistics.items()},
        baseline=_measure_baseline(truth, trust),
        coverage=None if width is None else estimate_share(abs(errors) <= width, groups),
        coverage_asked=coverage,
    )


def measure_r2(errors: Floats, truth: Floats) -> float:
    """1 minus the squared error as a share of that of the mean of ``(sample,)`` truths.

    >>> measure_r2(np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    0.5
    """
    # Of photos with one and the same number there is nothing to explain.
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float((errors**2).sum()) / total if total else 0.0


def _rank(values: Floats) -> Floats:
    """Ranks, those of equal values their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _correlate(ones: Floats, others: Floats) -> float:
    ones, others = ones - ones.mean(), others - others.mean()
    size = math.sqrt(float((ones**2).sum() * (others**2).sum()))
    return float((ones * others).sum()) / size if size else 0.0


def _measure_baseline(truth: Floats, trust: ValueTrust) -> ValueBaseline:
    def measure(value: float) -> tuple[float, float]:
        errors = truth - value
        return float(abs(errors).mean()), float(np.sqrt((errors**2).mean()))

    return ValueBaseline(trust.mean, trust.median, *measure(trust.mean), *measure(trust.median))
