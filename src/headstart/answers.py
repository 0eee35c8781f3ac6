"""What a fitted classifier answers: classes, probabilities, sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import Bundle
from headstart.data.labelled import list_photos
from headstart.errors import HeadstartError
from headstart.evaluation.trust import COVERAGE
from headstart.predictor import Predictor

Photos = str | Path | Sequence[Any]


class Answers:
    """The half of `ImageClassifier` that needs its bundle only."""

    classes_: npt.NDArray[np.str_]
    _predictor: Predictor | None = None

    @property
    def bundle(self) -> Bundle:
        """What is predicted with."""
        raise NotImplementedError

    def predict(self, X: Photos, *, views: int = 1) -> npt.NDArray[np.str_]:
        """``(photo,)`` class names.

        Args:
            X: Photos: paths, encoded bytes, Pillow images or uint8 arrays; a single path, or a
                folder, counts as a list of its photos.
            views: Views of each photo that are averaged, see `headstart.predictor.Predictor`.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        # First, because it says when fit was not called.
        best = self.predict_proba(X, views=views).argmax(1)
        names: npt.NDArray[np.str_] = self.classes_[best]
        return names

    def predict_proba(self, X: Photos, *, views: int = 1) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities, columns in the order of `classes_`.

        Args:
            X: Photos, see `predict`.
            views: Likewise.

        Raises:
            HeadstartError: A photo cannot be read (with its name), or `fit` was not called.
        """
        rows: list[npt.NDArray[np.float32]] = []
        predictor = self.predictor if views == 1 else Predictor(self.bundle, views=views)
        for prediction in predictor.predict(list_photos(X)):
            if prediction.problem is not None:
                shown = prediction.item if isinstance(prediction.item, (str, Path)) else len(rows)
                raise HeadstartError(
                    f"Photo {shown} cannot be predicted: {prediction.problem}. To go on past such "
                    "photos use classifier.predictor.predict, which gives the reason per photo."
                )
            rows.append(prediction.probabilities)
        return np.array(rows, np.float32).reshape(len(rows), len(self.classes_))

    def predict_sets(self, X: Photos, *, coverage: float = COVERAGE) -> list[tuple[str, ...]]:
        """For each photo the classes among which the truth is, the most probable first.

        Args:
            X: Photos, see `predict`.
            coverage: Share of the sets that shall hold the truth: 0.8, 0.9, 0.95 or 0.99.

        Raises:
            HeadstartError: A photo cannot be read, no thresholds were fitted (too few training
                photos), or `fit` was not called.
        """
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
        """Accuracy on photos with labels, as scikit-learn's scorers expect it."""
        return float((self.predict(X) == np.asarray(y, str)).mean())

    @property
    def predictor(self) -> Predictor:
        """Predicts photo by photo, with reasons for those that cannot be read."""
        if self._predictor is None:
            self._predictor = Predictor(self.bundle)
        return self._predictor
