"""Figures of several labels and of numbers, beside scikit-learn's and SciPy's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from headstart.evaluation.labels import LabelsEvaluation, evaluate_labels
from headstart.evaluation.values import (
    ValueEvaluation,
    ValueTrust,
    evaluate_values,
    fit_half_widths,
)

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")


def make_labels() -> tuple[np.ndarray, np.ndarray]:
    truth = RNG.random((90, 3)) < [0.5, 0.3, 0.1]
    # Rounded, so that there are equal probabilities.
    return np.clip(0.3 * truth + RNG.random((90, 3)) * 0.7, 0, 1).round(1), truth


def test_figures_of_labels_are_scikit_learns() -> None:
    rows, truth = make_labels()
    found = evaluate_labels(rows, truth, (0.5, 0.4, 0.6), NAMES)
    says = rows >= np.array([0.5, 0.4, 0.6])
    assert found.macro_f1.value == pytest.approx(metrics.f1_score(truth, says, average="macro"))
    assert found.micro_f1.value == pytest.approx(metrics.f1_score(truth, says, average="micro"))
    expected = metrics.average_precision_score(truth, rows, average=None)
    assert [row.average_precision for row in found.per_label] == pytest.approx(list(expected))
    assert found.mean_average_precision.value == pytest.approx(expected.mean())
    assert found.hamming_loss.value == pytest.approx(metrics.hamming_loss(truth, says))
    assert found.subset_accuracy.value == pytest.approx(metrics.accuracy_score(truth, says))
    for row, name in enumerate(NAMES):
        got = found.per_label[row]
        theirs = metrics.precision_recall_fscore_support(
            truth[:, row], says[:, row], average="binary"
        )
        assert (got.precision, got.recall, got.f1) == pytest.approx(theirs[:3])
        assert (got.name, got.photos) == (name, truth[:, row].sum())
    assert found.macro_f1.low < found.macro_f1.value < found.macro_f1.high


def test_a_drawn_row_counts_as_often_as_it_is_drawn() -> None:
    from headstart.evaluation.labels import _AveragePrecisions

    rows, truth = make_labels()
    drawn = RNG.integers(0, 90, 90)
    expected = metrics.average_precision_score(truth[drawn], rows[drawn], average=None)
    assert _AveragePrecisions(rows, truth).measure(drawn) == pytest.approx(expected)


def test_the_baseline_says_the_most_frequent_set() -> None:
    truth = np.array([[1, 1], [1, 1], [0, 1], [0, 0]])
    found = evaluate_labels(np.zeros((4, 2)), truth, (0.5, 0.5), ("a", "b")).baseline
    assert found.labels == ("a", "b")
    assert found.subset_accuracy == 0.5
    assert found.hamming_loss == 3 / 8
    assert found.mean_average_precision == pytest.approx((0.5 + 0.75) / 2)


def test_groups_make_intervals_wider() -> None:
    rows, truth = (np.repeat(each, 10, 0) for each in make_labels())
    alone = evaluate_labels(rows, truth, (0.5,) * 3, NAMES).macro_f1
    together = evaluate_labels(rows, truth, (0.5,) * 3, NAMES, 0, np.arange(900) // 10).macro_f1
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_figures_of_numbers_are_those_of_others() -> None:
    truth = RNG.normal(50, 10, 80).round()
    values = truth + RNG.normal(0, 5, 80).round()
    trust = ValueTrust({0.9: 8.0}, 50.0, 49.0)
    found = evaluate_values(values, truth, trust)
    assert found.mae.value == pytest.approx(metrics.mean_absolute_error(truth, values))
    assert found.rmse.value == pytest.approx(metrics.root_mean_squared_error(truth, values))
    assert found.r2.value == pytest.approx(metrics.r2_score(truth, values))
    assert found.spearman.value == pytest.approx(stats.spearmanr(truth, values).statistic)
    assert found.coverage is not None
    assert found.coverage.value == (abs(truth - values) <= 8).mean()
    assert found.baseline.median_mae == pytest.approx(abs(truth - 49).mean())


def test_prediction_intervals_hold_as_often_as_asked() -> None:
    held = [
        (abs(RNG.standard_t(3, 50)) <= fit_half_widths(RNG.standard_t(3, 40))[0.9]).mean()
        for _ in range(200)
    ]
    assert 0.89 <= np.mean(held) <= 0.93
    assert fit_half_widths(np.arange(10.0))[0.95] is None


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_plain_data_and_back(kind: str) -> None:
    rows, truth = make_labels()
    found: LabelsEvaluation | ValueEvaluation
    if kind == "labels":
        found = evaluate_labels(rows, truth, (0.5,) * 3, NAMES)
    else:
        trust = ValueTrust(fit_half_widths(rows[:, 0]), 0.0, 0.0)
        assert ValueTrust.from_json(json.loads(json.dumps(trust.to_json()))) == trust
        found = evaluate_values(rows[:, 0], truth[:, 0], trust)
    plain = json.loads(json.dumps(found.to_json()))
    assert type(found).from_json(plain) == found
    del plain["photos"]
    with pytest.raises(ValueError, match="photos"):
        type(found).from_json(plain)
