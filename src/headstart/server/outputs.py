"""What is said of a photo, by task: as plain data, and as the columns of the two protocols."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.album import Album
from headstart.predictor import Prediction, Predictor
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION

_TYPES: dict[str, Any] = {"FP32": np.float32, "BOOL": np.bool_, "BYTES": object}


@dataclass(frozen=True)
class Column:
    """One of the values of an answer.

    Attributes:
        name: Of the output in both protocols.
        kind: ``FP32``, ``BOOL`` or ``BYTES``, as the Open Inference Protocol has it.
        read: ``(prediction, class names) → value``.
        is_wide: Whether there is a value for each class.
        is_known: Whether a bundle has what it takes.
    """

    name: str
    kind: str
    read: Callable[[Prediction[Any], Sequence[str]], Any]
    is_wide: bool = False
    is_known: Callable[[Predictor], bool] = lambda predictor: True

    def collect(self, answers: Sequence[Prediction[Any]], names: Sequence[str]) -> npt.NDArray[Any]:
        """``(photo,)`` or ``(photo, class)`` values."""
        return np.array([self.read(each, names) for each in answers], _TYPES[self.kind])


def _has_trust(predictor: Predictor) -> bool:
    return predictor.trust is not None


def _has_interval(predictor: Predictor) -> bool:
    trust = predictor.target_trust
    return trust is not None and trust.get_half_width(predictor.asked[0]) is not None  # type: ignore[union-attr]


_PROBABILITIES = Column("probabilities", "FP32", lambda said, _: said.probabilities, is_wide=True)

COLUMNS: dict[str, tuple[Column, ...]] = {
    CLASSIFICATION.name: (
        _PROBABILITIES,
        Column("label", "BYTES", lambda said, _: said.label),
        Column("probability", "FP32", lambda said, _: said.probability),
        Column(
            "set",
            "BOOL",
            lambda said, names: [name in (said.prediction_set or ()) for name in names],
            is_wide=True,
            is_known=_has_trust,
        ),
        Column("is_sure", "BOOL", lambda said, _: said.is_sure, is_known=_has_trust),
    ),
    MULTILABEL.name: (
        _PROBABILITIES,
        Column("labels", "BYTES", lambda said, _: said.label),
        Column(
            "is_said",
            "BOOL",
            lambda said, names: [name in (said.labels or ()) for name in names],
            is_wide=True,
        ),
    ),
    REGRESSION.name: (
        Column("value", "FP32", lambda said, _: said.value),
        Column("low", "FP32", lambda said, _: said.interval[0], is_known=_has_interval),  # type: ignore[index]
        Column("high", "FP32", lambda said, _: said.interval[1], is_known=_has_interval),  # type: ignore[index]
    ),
}


def list_columns(predictor: Predictor) -> list[Column]:
    """Those that a bundle has."""
    return [each for each in COLUMNS[predictor.task.name] if each.is_known(predictor)]


def describe(
    predictor: Predictor, prediction: Prediction[Any], has_similar: bool = False
) -> dict[str, Any]:
    """All that is said of a photo, as plain data; where asked for, with similar photos."""
    if prediction.problem is not None:
        return {"problem": prediction.problem}
    if predictor.task is REGRESSION:
        interval = None if prediction.interval is None else list(prediction.interval)
        return {"value": prediction.value, "interval": interval, "problem": None}
    pairs = zip(predictor.class_names, prediction.probabilities, strict=True)
    odds = {name: float(p) for name, p in pairs}
    if prediction.labels is not None:
        return {"labels": list(prediction.labels), "probabilities": odds, "problem": None}
    names_of_set = prediction.prediction_set
    told = {
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": odds,
        "set": None if names_of_set is None else list(names_of_set),
        "sure": prediction.is_sure,
        "novelty": prediction.novelty,
        "novel": prediction.is_novel,
        "problem": None,
    }
    album = predictor.album
    if has_similar:
        found = [] if album is None else [(album, number) for number in prediction.similar]
        told["similar"] = [_show_trained(predictor, *each) for each in found]
    return told


def _show_trained(predictor: Predictor, album: Album, number: int) -> dict[str, str | None]:
    """Class and picture of a training photo; the latter as an address that holds it."""
    picture = base64.b64encode(album.pictures[number]).decode()
    return {
        "label": predictor.class_names[album.labels[number]],
        "picture": f"data:image/jpeg;base64,{picture}" if picture else None,
    }
