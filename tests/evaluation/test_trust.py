"""The record of thresholds: it keeps its promises, and no other data passes for it."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from outputs import CLASSES, draw_outputs, softmax

from headstart.cli import options
from headstart.errors import HeadstartError
from headstart.evaluation import trust as trusts
from headstart.evaluation.trust import (
    Trust,
    TrustFigures,
    fit_abstentions,
    fit_trust,
    measure_trust,
)


def fitted(count: int = 600) -> Trust:
    logits, labels = draw_outputs(count, spread=4.0)
    return fit_trust(softmax(logits), labels, np.arange(count), 1.5)


def test_answers_above_the_confidence_are_as_precise_as_wanted() -> None:
    kept = []
    for seed in range(60):
        logits, labels = draw_outputs(1200, seed, spread=4.0)
        odds = softmax(2 * logits)
        half = np.arange(1200) < 600
        found = fit_abstentions(odds[half], labels[half], np.arange(600))[0.9]
        if found.confidence is None:
            continue
        sure = odds[~half].max(1) >= found.confidence
        kept.append((odds[~half].argmax(1) == labels[~half])[sure].mean() >= 0.9)
    assert len(kept) > 40
    assert np.mean(kept) > 0.85


def test_no_confidence_is_enough_for_a_coin() -> None:
    rng = np.random.default_rng(0)
    odds = softmax(rng.normal(size=(400, 2)))
    found = fit_abstentions(odds, rng.integers(2, size=400), np.arange(400))[0.95]
    assert found.confidence is None
    assert found.answered == 0
    record = replace(fitted(), abstentions={0.95: found})
    assert not any(j.is_sure for j in record.judge(softmax(50 * rng.normal(size=(9, CLASSES)))))


def test_few_photos_promise_nothing() -> None:
    odds, labels = np.tile([0.99, 0.01], (9, 1)), np.zeros(9, int)
    assert fit_abstentions(odds, labels, np.arange(9))[0.9].confidence is None


def test_figures_are_those_of_the_photos() -> None:
    record = replace(fitted(), novelty_limit=0.5, neighbours=3)
    logits, labels = draw_outputs(500, seed=9, spread=4.0)
    odds = softmax(logits)
    found = measure_trust(record, odds, np.linspace(0, 2, 500), labels, np.arange(500), (0.8, 0.9))
    sets = np.stack([j.labels for j in record.judge(odds, 0.8, 0.9)])
    sure = odds.max(1) >= record.abstentions[0.9].confidence
    assert found.coverage.value == sets[np.arange(500), labels].mean()
    assert found.set_size == sets.sum(1).mean()
    assert found.answered.value == sure.mean()
    assert found.precision.value == (odds.argmax(1) == labels)[sure].mean()
    assert found.novel.value == 0.5
    assert found.coverage.value == pytest.approx(0.8, abs=0.06)
    wide = record.judge(odds, 0.8, is_class_wise=True)
    assert np.stack([j.labels for j in wide]).shape == sets.shape


def test_other_levels_are_refused_with_those_that_are_accepted() -> None:
    with pytest.raises(HeadstartError, match=r"coverage is 0.85; accepted are 0.8, 0.9, 0.95"):
        fitted().judge(np.eye(CLASSES), 0.85)
    with pytest.raises(HeadstartError, match=r"precision is 0.5; accepted are 0.9, 0.95, 0.99"):
        fitted().judge(np.eye(CLASSES), 0.9, 0.5)


def test_plain_data_comes_back() -> None:
    record = replace(fitted(), novelty_limit=0.4, neighbours=5)
    assert Trust.from_json(record.to_json()) == record
    assert record.fits(CLASSES)
    logits, labels = draw_outputs(50)
    figures = measure_trust(record, softmax(logits), None, labels, np.arange(50))
    assert TrustFigures.from_json(asdict(figures)) == figures


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": None},
        {"thresholds": {"a": 0.5}},
        {"class_thresholds": {"0.9": 3}},
        {"abstentions": {"0.9": {}}},
        {"abstentions": [1]},
        {"photos": "many"},
    ],
)
def test_other_data_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not a trust record's data|could not convert|invalid"):
        Trust.from_json({**fitted().to_json(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": math.nan},
        {"thresholds": {0.9: math.inf}},
        {"class_thresholds": {0.9: (0.5,)}},
        {"novelty_limit": 0.0},
        {"novelty_limit": math.nan},
        {"novelty_limit": 0.5, "neighbours": 0},
    ],
)
def test_numbers_that_cannot_be_fitted_do_not_fit(change: dict[str, object]) -> None:
    assert fitted().fits(CLASSES)
    assert not replace(fitted(), **change).fits(CLASSES)


def test_the_command_line_has_the_same_defaults() -> None:
    assert (options.COVERAGE, options.PRECISION) == (trusts.COVERAGE, trusts.PRECISION)
