"""Prediction sets: the thresholds are MAPIE's, and the sets hold the truth as often as asked."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from outputs import CLASSES, Known, draw_outputs, softmax

from headstart.evaluation.conformal import (
    fit_class_thresholds,
    fit_threshold,
    predict_sets,
    score_truth,
)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_are_those_of_mapie(coverage: float) -> None:
    logits, labels = draw_outputs(400)
    new, _ = draw_outputs(300, seed=1)
    threshold = fit_threshold(score_truth(softmax(logits), labels), coverage)
    ours = predict_sets(softmax(new), threshold)
    known = Known().fit(logits, labels)
    theirs = SplitConformalClassifier(
        known, confidence_level=coverage, conformity_score="lac", prefit=True
    ).conformalize(logits, labels)
    sets = theirs.predict_set(new)[1][:, :, 0]
    some = sets.any(1)  # MAPIE's may be empty; ours hold the best class then
    assert some.mean() > 0.5
    assert np.array_equal(ours[some], sets[some])
    assert (ours[~some].sum(1) == 1).all()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_the_truth_is_held_as_often_as_asked(coverage: float) -> None:
    shares, by_class = [], []
    for seed in range(150):
        logits, labels = draw_outputs(300, seed)
        odds, train = softmax(1.7 * logits), np.arange(300) < 150
        truth = (np.arange(150), labels[~train])
        threshold = fit_threshold(score_truth(odds[train], labels[train]), coverage)
        shares.append(predict_sets(odds[~train], threshold)[truth].mean())
        each = fit_class_thresholds(odds[train], labels[train], coverage)
        held = predict_sets(odds[~train], each)[truth]
        by_class.append([held[labels[~train] == c].mean() for c in range(CLASSES)])
    assert coverage - 0.01 < np.mean(shares) < coverage + 0.06
    assert np.min(np.mean(by_class, axis=0)) > coverage - 0.015


def test_too_few_samples_let_every_class_in() -> None:
    odds = np.array([[0.7, 0.3], [0.4, 0.6]])
    labels = np.array([0, 1])
    assert fit_class_thresholds(odds, labels, 0.9) == (1.0, 1.0)
    assert predict_sets(odds, (1.0, 1.0)).all()
    assert predict_sets(odds, (0.0, 1.0)).tolist() == [[True, True], [False, True]]


def test_rounding_does_not_ask_for_one_more() -> None:
    scores = np.arange(1, 20) / 100  # (19 + 1) · 0.95 = 19 exactly
    assert fit_threshold(scores, 0.95) == 0.19
