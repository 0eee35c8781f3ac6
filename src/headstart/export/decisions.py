"""When an export says something else than its bundle, and how good it is: by task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.labels import LabelTrust
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION

Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]

# A number that moves by this share of the spread of all answers is another one.
MOVED = 0.1
# As a share of the largest number: below it, differences are what float32 cannot hold.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Decisions:
    """How answers of a task are compared.

    Attributes:
        differ: ``(expected, found, trust, unit)``, ``(photo, name)`` each → ``(photo,)`` whether
            they say something else.
        score: ``(rows, truths, trust, unit)`` → ``(photo,)`` how good each is; at most 1.
        unit: What differences are told in, of the bundle's ``(photo, name)`` answers.
        each: One of the compared numbers, for people.
        another: What a photo gets whose answer differs, for people.
        measure: What `score` is called, for people.
    """

    differ: Callable[[Floats, Floats, Any, float], Booleans]
    score: Callable[[Floats, Floats, Any, float], Floats]
    unit: Callable[[Floats], float]
    each: str
    another: str
    measure: str


def _differ_in_class(expected: Floats, found: Floats, _: Any, __: float) -> Booleans:
    return np.asarray(expected.argmax(1) != found.argmax(1))


def _score_class(rows: Floats, truths: Floats, _: Any, __: float) -> Floats:
    return np.asarray(rows.argmax(1) == truths.argmax(1), np.float64)


def _differ_in_labels(expected: Floats, found: Floats, trust: LabelTrust, _: float) -> Booleans:
    return np.asarray((trust.choose(expected) != trust.choose(found)).any(1))


def _score_labels(rows: Floats, truths: Floats, trust: LabelTrust, _: float) -> Floats:
    return np.asarray((trust.choose(rows) == (truths > 0)).all(1), np.float64)


def _differ_in_value(expected: Floats, found: Floats, _: Any, unit: float) -> Booleans:
    return np.asarray(abs(expected - found)[:, 0] > MOVED * unit)


def _score_value(rows: Floats, truths: Floats, _: Any, unit: float) -> Floats:
    return np.asarray(1 - abs(rows.astype(np.float64) - truths)[:, 0] / unit)


def measure_spread(rows: Floats) -> float:
    """Standard deviation of numbers; where they hardly move, a share of their size.

    >>> measure_spread(np.array([[1.0], [3.0]])), measure_spread(np.array([[5.0]]))
    (1.0, 0.005)
    """
    wide = rows.astype(np.float64)
    return float(max(wide.std(), _FLOOR * abs(wide).max())) or 1.0


DECISIONS: dict[str, Decisions] = {
    CLASSIFICATION.name: Decisions(
        _differ_in_class, _score_class, lambda _: 1.0, "a probability", "another class", "accuracy"
    ),
    MULTILABEL.name: Decisions(
        _differ_in_labels,
        _score_labels,
        lambda _: 1.0,
        "a probability",
        "other labels",
        "share of photos with exactly the right labels",
    ),
    REGRESSION.name: Decisions(
        _differ_in_value,
        _score_value,
        measure_spread,
        "a number, as a share of the spread of all answers,",
        "another number",
        "1 - error / spread",
    ),
}
