"""Temperature is scikit-learn's; the calibration error knows what chance alone gives."""

from __future__ import annotations

import numpy as np
import pytest
from outputs import CLASSES, Known, draw_outputs, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from headstart.evaluation.calibration import (
    Calibration,
    fit_temperature,
    measure_calibration,
)


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_is_scikit_learns(heat: float) -> None:
    logits, labels = draw_outputs(2000, heat=heat)
    ours = fit_temperature(logits, labels)
    assert ours == pytest.approx(heat, rel=0.1)
    known = FrozenEstimator(Known().fit(logits, labels))
    theirs = CalibratedClassifierCV(known, method="temperature").fit(logits, labels)
    np.testing.assert_allclose(theirs.predict_proba(logits), softmax(logits / ours), atol=2e-4)


def test_weights_count_samples_several_times() -> None:
    logits, labels = draw_outputs(500, heat=2.0)
    weights = np.random.default_rng(1).integers(1, 4, 500)
    rows = np.repeat(np.arange(500), weights)
    twice = fit_temperature(logits[rows], labels[rows])
    assert fit_temperature(logits, labels, weights.astype(float)) == pytest.approx(twice, rel=1e-4)
    assert twice != pytest.approx(fit_temperature(logits, labels), rel=1e-4)


def test_extremes_stay_in_their_bounds() -> None:
    logits, labels = draw_outputs(50)
    sure = 50 * np.eye(CLASSES)[labels]
    assert fit_temperature(sure, labels) == pytest.approx(0.05, rel=1e-3)
    wrong = np.roll(np.eye(CLASSES), 1, axis=1)[labels]
    assert fit_temperature(wrong, labels) == pytest.approx(20, rel=1e-3)
    assert fit_temperature(logits[:0], labels[:0]) == 1.0


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
