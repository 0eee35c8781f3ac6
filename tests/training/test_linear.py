"""Heads for several labels and for a number, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score

from headstart.data.stratify import deal_folds
from headstart.task import MULTILABEL, REGRESSION
from headstart.training.linear import choose_thresholds, fit_head

RNG = np.random.default_rng(0)


def make_rows(samples: int, features: int) -> np.ndarray:
    mixing = RNG.normal(size=(features, features)) / features**0.5
    return RNG.normal(size=(samples, features)) @ mixing + RNG.normal(size=features)


def scale(rows: np.ndarray) -> np.ndarray:
    """Each feature by its deviation, or by the median one where that is larger."""
    deviation = rows.std(0)
    return (rows - rows.mean(0)) / np.maximum(deviation, np.median(deviation))


def make_folds(count: int) -> list:
    return list(deal_folds([()] * count, [str(n) for n in range(count)], 4, 0))


@pytest.mark.parametrize("features", [20, 150])
def test_labels_are_scikit_learns_logistic_regressions(features: int) -> None:
    x = make_rows(120, features)
    truth = (x[:, :3] + RNG.normal(size=(120, 3)) > [0, 0.5, 1.5]).astype(float)
    head = fit_head(x, truth, (), MULTILABEL)
    scaled = scale(x)
    for column in range(3):
        theirs = LogisticRegression(C=head.strength, tol=1e-8, max_iter=5000)
        theirs.fit(scaled, truth[:, column])
        np.testing.assert_allclose(
            head.predict(x)[:, column], theirs.predict_proba(scaled)[:, 1], atol=2e-4
        )


@pytest.mark.parametrize("features", [20, 150])
def test_a_number_is_scikit_learns_ridge(features: int) -> None:
    x = make_rows(120, features)
    y = 50 + 7 * x[:, :1] + RNG.normal(size=(120, 1))
    head = fit_head(x, y, make_folds(120), REGRESSION)
    theirs = Ridge(alpha=1 / head.strength).fit(scale(x), y[:, 0])
    expected = theirs.predict(scale(x))
    np.testing.assert_allclose(head.predict(x)[:, 0], expected, atol=1e-2)


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION])
def test_held_out_answers_are_of_heads_that_had_not_seen_the_photo(task: object) -> None:
    x = make_rows(80, 120)  # more features than photos: what was seen is known by heart
    noise = RNG.normal(size=(80, 1))
    targets = (noise > 0).astype(float) if task is MULTILABEL else noise
    head = fit_head(x, targets, make_folds(80), task)  # type: ignore[arg-type]
    assert np.isfinite(head.held_out).all()
    seen = np.corrcoef(head.predict(x)[:, 0], targets[:, 0])[0, 1]
    unseen = np.corrcoef(head.held_out[:, 0], targets[:, 0])[0, 1]
    assert abs(unseen) < 0.4 < seen


def test_the_strength_follows_the_noise() -> None:
    x = make_rows(200, 30)
    clean = fit_head(x, x[:, :1], make_folds(200), REGRESSION)
    noisy = fit_head(x, x[:, :1] + 30 * RNG.normal(size=(200, 1)), make_folds(200), REGRESSION)
    assert clean.strength > 100 * noisy.strength


def test_a_label_that_all_or_no_photos_have() -> None:
    x = make_rows(40, 5)
    targets = np.stack([np.ones(40), np.zeros(40), x[:, 0] > 0], 1).astype(float)
    found = fit_head(x, targets, make_folds(40), MULTILABEL).predict(x)
    assert (found[:, 0] > 0.99).all()
    assert (found[:, 1] < 0.01).all()
    assert ((found[:, 2] > 0.5) == (x[:, 0] > 0)).mean() > 0.9


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION])
def test_a_feature_that_was_silent_in_training_does_not_decide(task: object) -> None:
    x = make_rows(80, 20)
    x[:, 7] = 1e-5 * np.abs(RNG.normal(size=80))
    targets = x[:, :1] - x[:, :1].mean()
    targets = (targets > 0).astype(float) if task is MULTILABEL else targets
    head = fit_head(x, targets, make_folds(80), task)  # type: ignore[arg-type]
    fired = x.copy()
    fired[:, 7] = 0.02  # 2,000 times its deviation, and 0.02 of that of others
    np.testing.assert_allclose(head.predict(fired), head.predict(x), atol=0.1)


def test_no_other_threshold_gives_a_higher_f1() -> None:
    truth = RNG.random((100, 3)) < [0.5, 0.2, 0.05]
    rows = np.clip(0.3 * truth + RNG.random((100, 3)) * 0.7, 0, 1).round(2)
    chosen = choose_thresholds(rows, truth)
    for column, threshold in enumerate(chosen):
        ours = f1_score(truth[:, column], rows[:, column] >= threshold)
        others = [f1_score(truth[:, column], rows[:, column] >= t) for t in rows[:, column]]
        assert ours == pytest.approx(max(others))
    assert choose_thresholds(rows[:, :1], np.zeros((100, 1))) == (0.5,)


def test_photos_with_equal_probabilities_are_not_parted() -> None:
    rows, truth = np.array([[0.9], [0.5], [0.5], [0.5], [0.5]]), np.array([[1], [1], [0], [0], [0]])
    assert choose_thresholds(rows, truth) == (0.7,)
