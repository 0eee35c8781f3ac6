"""Figures and intervals: against scikit-learn, known values, and simulation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from headstart.evaluation.calibration import measure_calibration
from headstart.evaluation.html import show_evaluation
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.metrics import Evaluation, evaluate


def make_predictions(
    count: int, classes: int, seed: int = 0, skill: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + skill * np.eye(classes)[labels]
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32), labels


def names(classes: int) -> list[str]:
    return [f"class {number}" for number in range(classes)]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
def check_against_scikit_learn(probabilities: np.ndarray, labels: np.ndarray) -> None:
    classes = probabilities.shape[1]
    found = evaluate(probabilities, labels, names(classes))
    predicted = probabilities.argmax(1)
    every = list(range(classes))
    assert found.photos == len(labels)
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(labels, predicted))
    recalls = metrics.recall_score(
        labels, predicted, labels=sorted(set(labels.tolist())), average="macro", zero_division=0
    )
    assert found.balanced_accuracy.value == pytest.approx(recalls)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    assert found.log_loss.value == pytest.approx(
        metrics.log_loss(labels, exact, labels=every), rel=1e-5
    )
    figures = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    ours = np.array([[row.precision, row.recall, row.f1, row.photos] for row in found.per_class]).T
    assert np.allclose(ours, figures)
    confusion = metrics.confusion_matrix(labels, predicted, labels=every)
    assert np.array_equal(np.array(found.confusion), confusion)
    assert found.majority == np.bincount(labels).max() / len(labels)
    for estimate in (found.accuracy, found.balanced_accuracy):
        assert 0 <= estimate.low <= estimate.high <= 1
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_figures_are_scikit_learns(classes: int) -> None:
    probabilities, labels = make_predictions(200, classes)
    check_against_scikit_learn(probabilities, labels)
    found = evaluate(probabilities, labels, names(classes))
    expected = metrics.balanced_accuracy_score(labels, probabilities.argmax(1))
    assert found.balanced_accuracy.value == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 999))
def test_figures_of_any_small_set(count: int, classes: int, seed: int) -> None:
    # Among them classes without photos, and classes never answered.
    check_against_scikit_learn(*make_predictions(count, classes, seed))


def test_the_comparison_sees_a_wrong_figure() -> None:
    probabilities, labels = make_predictions(50, 3)
    shifted = np.roll(probabilities, 1, axis=1)
    right, wrong = evaluate(probabilities, labels, names(3)), evaluate(shifted, labels, names(3))
    assert right.accuracy != wrong.accuracy
    assert right.confusion != wrong.confusion
    assert right.log_loss != wrong.log_loss


def test_a_certain_and_wrong_answer_has_a_finite_loss() -> None:
    found = evaluate(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), names(2))
    assert np.isfinite(found.log_loss.value)
    assert found.log_loss.value > 10


@pytest.mark.parametrize(
    ("probabilities", "labels", "classes"),
    [(np.empty((0, 2)), [], 2), (np.ones((3, 2)) / 2, [0, 1], 2), (np.ones((2, 2)) / 2, [0, 1], 3)],
)
def test_what_does_not_fit_is_refused(
    probabilities: np.ndarray, labels: list[int], classes: int
) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        evaluate(probabilities, np.array(labels, int), names(classes))


# ---- intervals


def test_the_seed_fixes_the_intervals() -> None:
    probabilities, labels = make_predictions(80, 3)
    first = evaluate(probabilities, labels, names(3), seed=5)
    assert first == evaluate(probabilities, labels, names(3), seed=5)
    other = evaluate(probabilities, labels, names(3), seed=6)
    assert first.log_loss.value == other.log_loss.value
    assert first.log_loss != other.log_loss


def test_groups_widen_the_intervals_and_nothing_else() -> None:
    probabilities, labels = make_predictions(60, 3)
    doubled, twice = np.repeat(probabilities, 4, 0), np.repeat(labels, 4)
    groups = np.repeat(np.arange(60), 4)
    plain = evaluate(doubled, twice, names(3))
    grouped = evaluate(doubled, twice, names(3), groups=groups)
    assert (
        replace(
            grouped,
            accuracy=plain.accuracy,
            balanced_accuracy=plain.balanced_accuracy,
            log_loss=plain.log_loss,
            calibration=plain.calibration,
            top_k=plain.top_k,
        )
        == plain
    )
    for name in ("accuracy", "balanced_accuracy", "log_loss"):
        one, other = getattr(plain, name), getattr(grouped, name)
        assert one.value == pytest.approx(other.value)
        assert 1.6 < (other.high - other.low) / (one.high - one.low) < 2.6
    assert (grouped.calibration.ece, grouped.calibration.by_chance) == (
        plain.calibration.ece,
        plain.calibration.by_chance,
    )
    with pytest.raises(ValueError, match="3 groups for 240 photos"):
        evaluate(doubled, twice, names(3), groups=[1, 2, 3])


# ---- calibration


def test_calibration_error_of_known_cases() -> None:
    certain = np.array([[1.0, 0.0]] * 4)
    assert measure_calibration(certain, np.array([0, 0, 0, 0])).ece == 0
    assert measure_calibration(certain, np.array([1, 1, 1, 1])).ece == 1
    assert measure_calibration(certain, np.array([0, 0, 1, 1])).ece == 0.5
    # Two bins of two photos: gaps 0.9 - 0.5 and 1 - 0.6.
    rows = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert measure_calibration(rows, np.array([0, 1, 0, 0])).ece == pytest.approx(0.4)


def test_calibration_error_is_small_when_probabilities_are_true() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 20_000)
    labels = (rng.uniform(size=20_000) > confidence).astype(int)
    rows = np.stack([confidence, 1 - confidence], 1)
    assert measure_calibration(rows, labels).ece < 0.02
    assert measure_calibration(rows**4 / (rows**4).sum(1, keepdims=True), labels).ece > 0.08


# ---- as data and as HTML


def test_json_round_trip() -> None:
    found = evaluate(*make_predictions(40, 3), names(3))
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_it_prints_itself() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    found = evaluate(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]), names(2))
    assert str(found) == "accuracy 1.000 [0.342, 1.000] on 2 photos"


def test_html_escapes_every_text() -> None:
    evil = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b"]
    found = evaluate(*make_predictions(40, 3), evil)
    page = show_evaluation(f"Classifier({evil[0]})", found, [evil[1]], 2, [(b"jpeg", evil[1])])
    assert "<script" not in page
    assert page.count("<img") == 1
    assert 'src="data:image/jpeg;base64,anBlZw=="' in page
    assert "&quot;&gt;&lt;img src=x" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &amp; b" in page
    assert f"accuracy {found.accuracy.value:.1%}" in page
    assert "2 files were not used" in page
    assert "not fitted yet" in show_evaluation("Classifier()", None, [], 0)
