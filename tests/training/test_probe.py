"""The linear probe's optimum is scikit-learn's, and its strength the cross-validated one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from headstart.data.split import list_folds
from headstart.training.probe import STRENGTHS, Probe, balance_classes, fit_probe, softmax


def make_data(
    samples: int, features: int, classes: int, *, seed: int = 0, distance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters, one per class, on features of very different sizes, as backbones give them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(samples) % classes)
    centres = rng.normal(size=(classes, features)) * distance
    rows = rng.normal(size=(samples, features)) + centres[labels]
    sizes = np.exp(rng.normal(size=features))
    return (rows * sizes + rng.normal(size=features)).astype(np.float32), labels


def standardise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = features.astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    least = np.median(deviation)
    deviation[deviation < 1e-6] = 1
    deviation = np.maximum(deviation, least)
    return (x - mean) / deviation, mean, deviation


def objective(
    x: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    strength: float,
    solution: tuple[np.ndarray, np.ndarray],
) -> float:
    """What is minimised, in float64."""
    kernel, bias = solution
    probabilities = softmax(x @ kernel + bias)[np.arange(len(x)), labels]
    return float(weights[labels] @ -np.log(probabilities) + (kernel**2).sum() / (2 * strength))


def solve_reference(
    x: np.ndarray, labels: np.ndarray, strength: float, class_weight: Any
) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's optimum as a kernel and bias with a column per class."""
    classes = len(set(labels.tolist()))
    # With two classes scikit-learn has one column w where a softmax has -w/2 and w/2; the same
    # penalty on those halves is half of its own.
    model = LogisticRegression(
        C=2 * strength if classes == 2 else strength,
        tol=1e-10,
        max_iter=100_000,
        class_weight=class_weight,
    ).fit(x, labels)
    kernel, bias = model.coef_.T, model.intercept_
    if classes == 2:
        kernel, bias = np.hstack([-kernel, kernel]) / 2, np.array([-bias[0], bias[0]]) / 2
    return kernel, bias


def fit_at(features: np.ndarray, labels: np.ndarray, strength: float) -> Probe:
    """The probe of a given strength."""
    classes = int(labels.max()) + 1
    rows = np.arange(len(labels))
    return fit_probe(features, labels, classes, [(rows, rows)], (strength,))


def check_optimum(
    features: np.ndarray, labels: np.ndarray, strength: float, probe: Probe | None = None
) -> None:
    """The probabilities and objective of a probe, or of one made here, are scikit-learn's."""
    x, mean, deviation = standardise(features)
    weights = balance_classes(labels, int(labels.max()) + 1)
    class_weight = None if (weights == 1).all() else "balanced"
    reference = solve_reference(x, labels, strength, class_weight)
    probe = fit_at(features, labels, strength) if probe is None else probe
    assert probe.strength == strength
    expected = softmax(x @ reference[0] + reference[1])
    assert np.abs(probe.predict_proba(features) - expected).max() <= 1e-3
    kernel = probe.kernel.astype(np.float64)
    ours = kernel * deviation[:, None], probe.bias + mean @ kernel
    least = objective(x, labels, weights, strength, reference)
    # A millionth, or where hardly any loss is left a ten-millionth of a nat per photo.
    slack = max(1e-6 * least, 1e-7 * weights[labels].sum())
    assert objective(x, labels, weights, strength, ours) <= least + slack


@pytest.mark.parametrize("strength", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize(("samples", "features"), [(140, 20), (60, 150), (100, 100)])
def test_the_optimum_is_scikit_learns(
    samples: int, features: int, classes: int, strength: float
) -> None:
    check_optimum(*make_data(samples, features, classes), strength)


@pytest.mark.parametrize("samples", [30, 120])
def test_collinear_and_constant_features(samples: int) -> None:
    features, labels = make_data(samples, 30, 3)
    features = np.hstack(
        [
            features,
            2 * features[:, :5] + 1,  # collinear
            np.full((samples, 1), 3.25, np.float32),  # constant
            np.zeros((samples, 2), np.float32),
            features[:, :1] * 1e-4,  # tiny, but it moves
            features[:, :1] * 1e4,
        ]
    )
    check_optimum(features, labels, 0.1)


@pytest.mark.parametrize("classes", [2, 7])
def test_uneven_classes_are_weighted_as_scikit_learn_balances(classes: int) -> None:
    features, labels = make_data(300, 12, classes)
    keep = (labels != 0) | (np.arange(300) % 4 == 0)
    features, labels = features[keep], labels[keep]
    assert not (balance_classes(labels, classes) == 1).all()
    check_optimum(features, labels, 0.05)


def test_classes_with_half_as_many_are_weighted_and_others_not() -> None:
    assert balance_classes(np.repeat([0, 1], [20, 10]), 2).tolist() == [0.75, 1.5]
    assert balance_classes(np.repeat([0, 1], [19, 10]), 2).tolist() == [1, 1]
    with pytest.raises(ValueError, match="class 1 of 3 has no training sample"):
        balance_classes(np.array([0, 2, 0]), 3)


def test_separable_data_is_solved_at_every_strength() -> None:
    features, labels = make_data(80, 40, 4, distance=20.0)
    for strength in (STRENGTHS[0], 1.0, STRENGTHS[-1]):
        probe = fit_at(features, labels, strength)
        probabilities = probe.predict_proba(features)
        assert np.isfinite(probabilities).all()
        assert np.isfinite(probe.kernel).all()
        assert (probabilities.argmax(1) == labels).all()
    check_optimum(features, labels, 1.0)


def test_a_wrong_optimum_would_be_seen() -> None:
    features, labels = make_data(140, 20, 7)
    x, _, _ = standardise(features)
    right = solve_reference(x, labels, 0.01, None)
    near = solve_reference(x, labels, 0.0102, None)
    weights = np.ones(7)
    least = objective(x, labels, weights, 0.01, right)
    assert objective(x, labels, weights, 0.01, near) > least * (1 + 1e-6)


# ---- the strength


def fit_with_folds(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Probe:
    folds = list_folds(labels, [f"{row:03d}" for row in range(len(labels))], 5, seed)
    return fit_probe(features, labels, int(labels.max()) + 1, folds)


@pytest.mark.parametrize(("classes", "distance"), [(2, 0.3), (5, 0.5), (5, 3.0)])
def test_the_strength_is_the_best_of_the_path(classes: int, distance: float) -> None:
    features, labels = make_data(120, 60, classes, distance=distance)
    probe = fit_with_folds(features, labels)
    losses = [step.log_loss for step in probe.path]
    assert probe.strength == probe.path[int(np.argmin(losses))].strength
    assert [step.strength for step in probe.path] == list(STRENGTHS[: len(losses)])
    # Whoever stops early has passed a valley.
    assert len(losses) == len(STRENGTHS) or min(losses[-2:]) > min(losses)
    assert all(0 <= step.accuracy <= 1 for step in probe.path)
    # The head is the optimum of that strength on all rows.
    check_optimum(features, labels, probe.strength, probe)


def test_the_path_is_scikit_learns_cross_validation() -> None:
    features, labels = make_data(80, 12, 4, distance=0.6)
    names = [f"{row:03d}" for row in range(80)]
    probe = fit_with_folds(features, labels)
    x, _, _ = standardise(features)  # by all training rows, as in the probe
    for step in probe.path:
        losses, right = 0.0, 0
        for train, held_out in list_folds(labels, names, 5, 0):
            kernel, bias = solve_reference(x[train], labels[train], step.strength, None)
            probabilities = softmax(x[held_out] @ kernel + bias)
            losses -= np.log(probabilities[np.arange(len(held_out)), labels[held_out]]).sum()
            right += (probabilities.argmax(1) == labels[held_out]).sum()
        assert step.log_loss == pytest.approx(losses / 80, rel=0.02)
        assert step.accuracy == pytest.approx(right / 80, abs=0.02)


def test_equal_input_gives_equal_bytes() -> None:
    features, labels = make_data(120, 200, 5)
    first, second = fit_with_folds(features, labels), fit_with_folds(features, labels)
    assert first.kernel.tobytes() == second.kernel.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()
    assert first.path == second.path


def test_float16_features_are_read_as_they_are() -> None:
    features, labels = make_data(60, 10, 3)
    halves = features.astype(np.float16)
    a, b = fit_at(halves, labels, 0.1), fit_at(halves.astype(np.float32), labels, 0.1)
    assert np.array_equal(a.kernel, b.kernel)


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(4, 24),
    features=st.integers(1, 30),
    classes=st.integers(2, 4),
    seed=st.integers(0, 999),
    strength=st.sampled_from([1e-3, 0.03, 1.0]),
)
def test_any_small_shape(
    samples: int, features: int, classes: int, seed: int, strength: float
) -> None:
    rows, labels = make_data(max(samples, 2 * classes), features, classes, seed=seed)
    check_optimum(rows, labels, strength)
