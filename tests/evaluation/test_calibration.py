"""Temperature is scikit-learn's but for its prior; chance alone shows a calibration error too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from outputs import CLASSES, Known, draw_outputs, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from headstart.evaluation.calibration import (
    Calibration,
    find_temperature,
    fit_temperature,
    measure_calibration,
)


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_is_scikit_learns(heat: float) -> None:
    logits, labels = draw_outputs(2000, heat=heat)
    ours = fit_temperature(logits, labels, spread=math.inf)
    assert ours == pytest.approx(heat, rel=0.1)
    known = FrozenEstimator(Known().fit(logits, labels))
    theirs = CalibratedClassifierCV(known, method="temperature").fit(logits, labels)
    np.testing.assert_allclose(theirs.predict_proba(logits), softmax(logits / ours), atol=2e-4)


def test_extremes_stay_in_their_bounds() -> None:
    logits, labels = draw_outputs(50)
    sure = 50 * np.eye(CLASSES)[labels]
    assert fit_temperature(sure, labels, spread=math.inf) == pytest.approx(0.05, rel=1e-3)
    wrong = np.roll(np.eye(CLASSES), 1, axis=1)[labels]
    assert fit_temperature(wrong, labels, spread=math.inf) == pytest.approx(20, rel=1e-3)
    assert fit_temperature(logits[:0], labels[:0]) == 1.0


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_photos_that_are_all_right_do_not_make_certain(count: int) -> None:
    _, labels = draw_outputs(count)
    sure = 6 * np.eye(CLASSES)[labels]
    found = fit_temperature(sure, labels)
    assert 0.3 < found < 1
    # As many photos again that say the same move it on, of the same groups they do not.
    twice = np.tile(sure, (2, 1)), np.tile(labels, 2)
    assert fit_temperature(*twice) < found
    assert fit_temperature(*twice, np.tile(np.arange(count), 2)) == pytest.approx(found, rel=1e-4)
    wrong = np.roll(sure, 1, axis=1)
    assert 1 < fit_temperature(wrong, labels) <= 20


def test_few_photos_move_the_temperature_less() -> None:
    found = [fit_temperature(*draw_outputs(count, heat=3.0)) for count in (10, 100, 4000)]
    assert 1 < found[0] < found[1] < found[2] == pytest.approx(3, rel=0.05)


def test_the_lowest_of_two_dips_is_found() -> None:
    dips = (-1.5, 1.0)

    def loss(temperature: float) -> float:
        shallow, deep = (abs(math.log(temperature) - dip) for dip in dips)
        return min(shallow + 0.1, deep)

    assert find_temperature(loss, 1000) == pytest.approx(math.exp(1.0), rel=1e-4)
    assert find_temperature(loss, 1000, math.inf) == pytest.approx(math.exp(1.0), rel=1e-4)


def test_true_probabilities_are_within_chance_and_hot_ones_are_not() -> None:
    above = 0
    for seed in range(40):
        logits, labels = draw_outputs(300, seed)
        found = measure_calibration(softmax(logits), labels, seed)
        above += found.ece > found.by_chance_high
        assert abs(found.debiased) < 0.08
    assert above <= 6  # 5 % are expected
    logits, labels = draw_outputs(300, heat=4.0)
    hot = measure_calibration(softmax(logits), labels)
    assert hot.ece > 2 * hot.by_chance_high


def test_bins_hold_every_photo_once() -> None:
    logits, labels = draw_outputs(200)
    odds = softmax(logits)
    found = measure_calibration(odds, labels, groups=np.arange(200) // 4)
    assert sum(b.photos for b in found.bins) == 200
    for b in found.bins:
        assert b.low - 1e-9 <= b.confidence <= b.high + 1e-9
        inside = (odds.max(1) >= b.low) & (odds.max(1) < b.high)
        right = (odds.argmax(1) == labels)[inside].mean()
        assert b.accuracy.value == pytest.approx(right)
        assert b.accuracy.low <= right <= b.accuracy.high
    assert found.ece == pytest.approx(
        sum(b.photos * abs(b.confidence - b.accuracy.value) for b in found.bins) / 200
    )


def test_plain_data_comes_back() -> None:
    logits, labels = draw_outputs(60)
    found = measure_calibration(softmax(logits), labels)
    assert Calibration.from_json(found.to_json()) == found
    for broken in ({}, {**found.to_json(), "bins": 3}, {**found.to_json(), "ece": None}):
        with pytest.raises(ValueError, match="not a calibration's data"):
            Calibration.from_json(broken)
