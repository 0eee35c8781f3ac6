"""What a fitted classifier answers: classes, probabilities, sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import Bundle
from headstart.data.labelled import list_photos
from headstart.data.targets import normalise_label, split_labels
from headstart.engines import on_engine
from headstart.errors import HeadstartError
from headstart.evaluation.trust import COVERAGE
from headstart.evaluation.values import measure_r2
from headstart.predictor import Prediction, Predictor
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, require_task

Photos = str | Path | Sequence[Any]


class Answers:
    """The half of `ImageClassifier` that needs its bundle only."""

    classes_: npt.NDArray[np.str_]
    engine: str | None = None
    _predictor: Predictor | None = None

    @property
    def bundle(self) -> Bundle:
        """What is predicted with."""
        raise NotImplementedError

    def predict(self, X: Photos, *, views: int = 1) -> Any:
        """``(photo,)`` class names; a list of tuples of labels; or ``(photo,)`` numbers.

        Args:
            X: Photos: paths, encoded bytes, Pillow images or uint8 arrays; a single path, or a
                folder, counts as a list of its photos.
            views: Views of each photo that are averaged, see `headstart.predictor.Predictor`.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        # First, because it says when fit was not called.
        found, task = self._predict_all(X, views), self.bundle.task
        if task is MULTILABEL:
            return [prediction.labels for prediction in found]
        if task is REGRESSION:
            return np.array([prediction.value for prediction in found], np.float64)
        return np.array([prediction.label for prediction in found], self.classes_.dtype)

    def predict_proba(self, X: Photos, *, views: int = 1) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities, columns in the order of `classes_`.

        Args:
            X: Photos, see `predict`.
            views: Likewise.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        found = self._predict_all(X, views)
        require_task(self.bundle.task, "A probability", MULTILABEL)
        rows = [prediction.probabilities for prediction in found]
        return np.array(rows, np.float32).reshape(len(rows), len(self.classes_))

    def _predict_all(self, X: Photos, views: int) -> list[Prediction[Any]]:
        """Of photos all of which can be read."""
        predictor = self.predictor if views == 1 else Predictor(self.bundle, views=views)
        return self._predict_with(predictor, X)

    @on_engine
    def _predict_with(self, predictor: Predictor, X: Photos) -> list[Prediction[Any]]:
        found: list[Prediction[Any]] = []
        for prediction in predictor.predict(list_photos(X)):
            if prediction.problem is not None:
                shown = prediction.item if isinstance(prediction.item, (str, Path)) else len(found)
                raise HeadstartError(
                    f"Photo {shown} cannot be predicted: {prediction.problem}. To go on past such "
                    "photos use classifier.predictor.predict, which gives the reason per photo."
                )
            found.append(prediction)
        return found

    def predict_intervals(
        self, X: Photos, *, coverage: float = COVERAGE
    ) -> npt.NDArray[np.float64]:
        """``(photo, 2)``: for each photo the interval that the number is in.

        Args:
            X: Photos, see `predict`.
            coverage: Share of the intervals that shall hold the truth: 0.8, 0.9, 0.95 or 0.99.

        Raises:
            HeadstartError: A photo cannot be read, it predicts no numbers, too few photos were
                trained on for this coverage, or `fit` was not called.
        """
        predictor = Predictor(self.bundle, coverage=coverage)
        if predictor.task is not REGRESSION:
            raise HeadstartError(
                f"There are intervals of numbers only; this classifier has the task "
                f"{predictor.task.name}. For classes there is predict_sets."
            )
        found = [prediction.interval for prediction in self._predict_with(predictor, X)]
        if None in found:
            raise HeadstartError(
                f"Too few photos were trained on for intervals of the coverage {coverage:g}; ask "
                "for less, or train on more."
            )
        return np.array(found, np.float64).reshape(len(found), 2)

    @on_engine
    def predict_sets(self, X: Photos, *, coverage: float = COVERAGE) -> list[tuple[str, ...]]:
        """For each photo the classes among which the truth is, the most probable first.

        Args:
            X: Photos, see `predict`.
            coverage: Share of the sets that shall hold the truth: 0.8, 0.9, 0.95 or 0.99.

        Raises:
            HeadstartError: A photo cannot be read, no thresholds were fitted (too few training
                photos), or `fit` was not called.
        """
        require_task(self.bundle.task, "A prediction set")
        predictor = Predictor(self.bundle, coverage=coverage)
        if predictor.trust is None:
            raise HeadstartError(
                "This classifier has no prediction sets: it was trained on too few photos, or by "
                "an earlier Headstart. Train it again, on 20 photos or more."
            )
        found: list[tuple[str, ...]] = []
        for prediction in predictor.predict(list_photos(X)):
            if prediction.prediction_set is None:
                raise HeadstartError(f"Photo {len(found)} cannot be read: {prediction.problem}.")
            found.append(prediction.prediction_set)
        return found

    def score(self, X: Photos, y: Sequence[Any]) -> float:
        """Accuracy on photos with labels, as scikit-learn's scorers expect it.

        Of several labels the share of photos with exactly the right ones, of numbers R².
        """
        task = self.bundle.task
        if task is not CLASSIFICATION:
            return self._score_targets(X, [normalise_label(label, task) for label in y])
        return float((self.predict(X) == np.asarray(y, str)).mean())

    def _score_targets(self, X: Photos, labels: list[str]) -> float:
        found = self.predict(X)
        if self.bundle.task is MULTILABEL:
            right = [f == split_labels(label) for f, label in zip(found, labels, strict=True)]
            return float(np.mean(right))
        truth = np.array([float(label) for label in labels])
        return measure_r2(found - truth, truth)

    @property
    def predictor(self) -> Predictor:
        """Predicts photo by photo, with reasons for those that cannot be read."""
        if self._predictor is None:
            self._predictor = Predictor(self.bundle)
        return self._predictor
