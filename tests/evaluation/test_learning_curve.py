"""Forecasts of learning curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.evaluation.learning_curve import LearningCurve, fit_learning_curve

SIZES = (50, 75, 125, 200, 300, 500)


def draw(
    level: float, power: float, floor: float = 0.0, count: int = 800, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Hits whose error is ``floor + level * size**-power``; and the true accuracies ahead."""
    hard = np.random.default_rng(seed).random(count)
    errors = floor + level * np.array(SIZES, float) ** -power
    ahead = 1 - (floor + level * np.array([500, 750, 1000.0]) ** -power)
    return hard > errors[:, None], ahead


@pytest.mark.parametrize(("level", "power", "floor"), [(2, 0.5, 0), (1, 0.3, 0), (3, 0.7, 0.05)])
def test_intervals_hold_the_truth_as_often_as_they_say(
    level: float, power: float, floor: float
) -> None:
    held = 0
    for seed in range(16):
        hits, ahead = draw(level, power, floor, seed=seed)
        accuracy = fit_learning_curve(SIZES, hits, np.arange(800), 500, seed).forecast[-1].accuracy
        held += accuracy.low <= ahead[-1] <= accuracy.high
    assert held >= 13  # 95 % of 16 would be 15


def test_a_flat_curve_promises_little() -> None:
    hits, _ = draw(0.2, 0.0)
    curve = fit_learning_curve(SIZES, hits, np.arange(800), 500)
    assert curve.gain is not None
    assert 0 <= curve.gain.value < 0.005
    assert "would bring little" in curve.says
    assert "About 250 more" in curve.says


def test_a_steep_curve_promises_more() -> None:
    hits, ahead = draw(4, 0.5)
    curve = fit_learning_curve(SIZES, hits, np.arange(800), 500)
    assert curve.gain is not None
    assert curve.gain.value == pytest.approx(ahead[1] - ahead[0], abs=0.01)
    assert f"{100 * curve.gain.value:+.1f}" in curve.says


def test_photos_that_belong_together_widen_the_interval() -> None:
    hits, _ = draw(4, 0.5, count=200)
    hits = np.repeat(hits, 5, axis=1)
    alone = fit_learning_curve(SIZES, hits, np.arange(1000), 500)
    grouped = fit_learning_curve(SIZES, hits, np.arange(1000) // 5, 500)
    widths = [c.forecast[-1].accuracy.high - c.forecast[-1].accuracy.low for c in (alone, grouped)]
    assert widths[1] > 1.5 * widths[0]


def test_two_points_are_no_curve() -> None:
    hits, _ = draw(2, 0.5)
    curve = fit_learning_curve(SIZES[:2], hits[:2], np.arange(800), 500)
    assert (curve.forecast, curve.gain) == ((), None)
    assert "Too few photos for a forecast" in curve.says


def test_no_mistakes_at_all_give_a_forecast_without_warnings() -> None:
    curve = fit_learning_curve(SIZES, np.ones((6, 30), bool), np.arange(30), 30)
    assert curve.forecast[-1].accuracy.high <= 1
    assert curve.forecast[-1].accuracy.low > 0.9


def test_it_survives_json() -> None:
    hits, _ = draw(2, 0.5)
    curve = fit_learning_curve(SIZES, hits, np.arange(800), 500)
    assert LearningCurve.from_json(curve.to_json()) == curve
    with pytest.raises(ValueError, match="not a learning curve"):
        LearningCurve.from_json({"points": 3})


def test_the_same_seed_gives_the_same_forecast() -> None:
    hits, _ = draw(2, 0.5)
    curves = [fit_learning_curve(SIZES, hits, np.arange(800), 500, seed) for seed in (1, 1, 2)]
    assert curves[0] == curves[1] != curves[2]


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        fit_learning_curve(SIZES, np.ones((2, 30), bool), np.arange(30), 30)
