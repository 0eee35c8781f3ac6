"""How accuracy grows with the number of training photos, and what more of them would bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.intervals import Estimate, estimate_share

Floats = npt.NDArray[np.floating]

# Forecasts reach to twice the photos: further away, fits to a curve of a few points say little.
AHEAD = (1.25, 1.5, 2.0)

_DRAWS = 500
# Shares of the lowest measured error that may be left when photos are endless.
_FLOORS = np.array([0.0, 0.25, 0.5, 0.75, 0.9])
_FEWEST_POINTS = 3


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with so many training photos.

    Attributes:
        photos: Number of training photos.
        accuracy: On photos held out, or forecast; with its 95 % interval.
    """

    photos: int
    accuracy: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """What was measured, and what is to be expected.

    Attributes:
        points: Measured, with ascending numbers of photos.
        forecast: Beyond the last of them; empty where the points are too few.
        photos: As many training photos there are now.
        gain: Points of accuracy between 0 and 1 that half as many photos again would bring.
    """

    points: tuple[CurvePoint, ...]
    forecast: tuple[CurvePoint, ...]
    photos: int
    gain: Estimate | None

    @property
    def says(self) -> str:
        """A sentence: what half as many photos again would bring."""
        more = _round(self.photos / 2)
        if self.gain is None:
            return "Too few photos for a forecast of what more of them would bring."
        low, value, high = (100 * v for v in (self.gain.low, self.gain.value, self.gain.high))
        if value < 0.5:
            return (
                f"About {more} more photos of the same kind would bring little: {value:+.1f} "
                f"points of accuracy [{low:+.1f}, {high:+.1f}]."
            )
        return (
            f"About {more} more photos of the same kind would bring {value:+.1f} points of "
            f"accuracy [{low:+.1f}, {high:+.1f}]."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "says": self.says}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LearningCurve:
        """The curve of plain data.

        Raises:
            ValueError: It is not a curve's data.
        """
        try:
            gain = None if data["gain"] is None else _read_estimate(data["gain"])
            points, forecast = (_read_points(data[key]) for key in ("points", "forecast"))
            return cls(points, forecast, int(data["photos"]), gain)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a learning curve's data: {error!r}") from error


def _read_points(data: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(int(p["photos"]), _read_estimate(p["accuracy"])) for p in data)


def _read_estimate(data: Mapping[str, Any]) -> Estimate:
    return Estimate(*(float(data[key]) for key in ("value", "low", "high")))


def _round(count: float) -> int:
    """Two digits: a forecast is no more exact."""
    digits = max(0, int(math.log10(max(count, 1))) - 1)
    return int(round(count / 10**digits) * 10**digits)


def fit_learning_curve(
    sizes: Sequence[int],
    hits: npt.NDArray[np.bool_],
    groups: Sequence[Any] | npt.NDArray[Any],
    photos: int,
    seed: int = 0,
) -> LearningCurve:
    """The curve of answers by heads that were trained on more and more photos.

    The error is taken to fall as a power of the number of photos towards a floor, as learning
    curves mostly do (Viering and Loog 2023, https://doi.org/10.1109/TPAMI.2022.3220744); the
    interval of the forecast is that of fits to resampled groups of photos, and to the floors that
    the points cannot tell apart.

    Args:
        sizes: Ascending numbers of training photos.
        hits: ``(size, photo)`` whether photos that were held out were answered rightly.
        groups: ``(photo,)`` what is right or wrong together.
        photos: Number of training photos that the forecast starts from.
        seed: Of the resampling.

    Raises:
        ValueError: ``hits`` and ``sizes`` do not fit together.

    >>> right = np.random.default_rng(0).random((4, 2000))
    >>> sizes = [50, 100, 200, 400]
    >>> hits = right > 2 * np.array(sizes)[:, None] ** -0.5
    >>> curve = fit_learning_curve(sizes, hits, np.arange(2000), photos=400)
    >>> abs(curve.forecast[-1].accuracy.value - (1 - 2 * 800**-0.5)) < 0.02
    True
    """
    if hits.ndim != 2 or len(hits) != len(sizes):
        raise ValueError(f"{hits.shape} hits for {len(sizes)} sizes do not fit together")
    points = tuple(
        CurvePoint(int(size), estimate_share(row, groups))
        for size, row in zip(sizes, hits, strict=True)
    )
    if len(sizes) < _FEWEST_POINTS:
        return LearningCurve(points, (), photos, None)
    targets = np.array([photos, *(share * photos for share in AHEAD)], float)
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            _extrapolate(np.asarray(sizes, float), errors, targets, rng)
            for errors in _resample(hits, groups, rng)
        ]
    )
    forecast = tuple(
        CurvePoint(round(target), _summarise(1 - column))
        for target, column in zip(targets[1:], draws.T[1:], strict=True)
    )
    return LearningCurve(points, forecast, photos, _summarise(draws[:, 0] - draws[:, 2]))


def _summarise(draws: Floats) -> Estimate:
    low, middle, high = np.percentile(draws, (2.5, 50, 97.5))
    return Estimate(float(middle), float(low), float(high))


def _resample(
    hits: npt.NDArray[np.bool_],
    groups: Sequence[Any] | npt.NDArray[Any],
    rng: np.random.Generator,
) -> Floats:
    """``(draw, size)`` errors of groups drawn with replacement, the same ones for every size."""
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    photos = np.bincount(numbers)
    wrong = np.stack([np.bincount(numbers, ~row) for row in hits])
    weights = rng.multinomial(len(photos), np.full(len(photos), 1 / len(photos)), _DRAWS)
    # Half a photo of error: the logarithm of none would be endless.
    errors: Floats = (weights @ wrong.T + 0.5) / (weights @ photos + 1)[:, None]
    return errors


def _extrapolate(
    sizes: Floats, errors: Floats, targets: Floats, rng: np.random.Generator
) -> Floats:
    """Errors at the targets by ``floor + a * size**-b``, the floor drawn by how well it fits."""
    logs = np.log(sizes)
    design = np.stack([np.ones_like(logs), logs], 1)
    found, misfits = [], []
    for floor in _FLOORS * errors.min():
        answer = np.log(errors - floor)
        weights = np.sqrt(1 - floor / errors)  # an error near the floor has a rough logarithm
        line, *_ = np.linalg.lstsq(design * weights[:, None], answer * weights, rcond=None)
        slope = min(line[1], 0.0)  # more photos never harm
        level = line[0] if slope == line[1] else float(answer.mean())
        found.append(floor + np.exp(level + slope * np.log(targets)))
        fitted = floor + np.exp(level + slope * logs)
        misfits.append(float(((fitted - errors) ** 2).sum()))
    misfit = np.array(misfits)
    odds = np.exp(-0.5 * (misfit - misfit.min()) / max(misfit.min(), 1e-8))
    curve: Floats = found[rng.choice(len(_FLOORS), p=odds / odds.sum())]
    return np.minimum(curve, 1.0)
