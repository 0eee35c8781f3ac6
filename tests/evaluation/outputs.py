"""Outputs of an imagined classifier whose probabilities are true; an estimator that has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

CLASSES = 4


def draw_outputs(
    count: int, seed: int = 0, heat: float = 1.0, spread: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """``(sample, class)`` logits and the labels drawn from them; ``heat`` makes them too sure."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(count, CLASSES))
    odds = softmax(logits)
    labels = (odds.cumsum(1) < rng.random((count, 1))).sum(1)
    return heat * logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


class Known(ClassifierMixin, BaseEstimator):
    """An estimator whose input is its own logits."""

    def fit(self, X: Any, y: Any) -> Known:
        self.classes_ = np.unique(y)
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X: Any) -> Any:
        return np.asarray(X)

    def predict_proba(self, X: Any) -> Any:
        return softmax(np.asarray(X))

    def predict(self, X: Any) -> Any:
        return np.asarray(X).argmax(1)
