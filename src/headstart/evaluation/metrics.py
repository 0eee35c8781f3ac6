"""How good a classifier is, with intervals. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.evaluation.calibration import Calibration, measure_calibration
from headstart.evaluation.intervals import Estimate, bootstrap, estimate_share
from headstart.evaluation.trust import TrustFigures

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Read = TypeVar("Read")

_TOP = 3
_FEWEST_CLASSES = 5  # of which three are worth a figure


@dataclass(frozen=True)
class ClassFigures:
    """One class's row of the table."""

    name: str
    photos: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one set of photos.

    Attributes:
        photos: Number of photos.
        accuracy: Share of right answers; Wilson interval.
        balanced_accuracy: Mean recall of the classes that occur; Wilson interval at the
            effective sample size.
        log_loss: Mean negative log probability of the truth, in nats; bootstrap interval.
        ece: Expected calibration error, see `Calibration`.
        majority: Accuracy of always answering the most frequent class.
        per_class: A row per class.
        confusion: ``confusion[true][predicted]`` counts.
        class_names: Names of rows and columns.
        top_k: Share of photos whose truth is among the ``k`` most probable classes, as
            ``(k, share)``; k is 3, None with fewer than 5 classes.
        calibration: The reliability diagram, and what chance alone would show.
        trust: How sets, "not sure" and novelty did; None where nothing was fitted for them.
    """

    photos: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    log_loss: Estimate
    ece: float
    majority: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    top_k: tuple[int, Estimate] | None = None
    calibration: Calibration | None = None
    trust: TrustFigures | None = None

    def __str__(self) -> str:
        return f"accuracy {self.accuracy} on {self.photos} photos"

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        plain = asdict(self)
        plain["calibration"] = self.calibration.to_json() if self.calibration else None
        plain["top_k"] = {"k": self.top_k[0], **asdict(self.top_k[1])} if self.top_k else None
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """The evaluation of plain data.

        Raises:
            ValueError: It is not an evaluation's data.
        """
        try:
            found = cls(
                photos=int(data["photos"]),
                accuracy=_read_estimate(data["accuracy"]),
                balanced_accuracy=_read_estimate(data["balanced_accuracy"]),
                log_loss=_read_estimate(data["log_loss"]),
                ece=float(data["ece"]),
                majority=float(data["majority"]),
                per_class=tuple(_read_class(row) for row in data["per_class"]),
                confusion=tuple(tuple(int(n) for n in row) for row in data["confusion"]),
                class_names=tuple(str(name) for name in data["class_names"]),
                # Bundles of earlier versions have none of these.
                top_k=_read_top(data.get("top_k")),
                calibration=_read_optional(Calibration.from_json, data.get("calibration")),
                trust=_read_optional(TrustFigures.from_json, data.get("trust")),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an evaluation's data: {error!r}") from error
        count = len(found.class_names)
        if [len(found.per_class), *map(len, found.confusion)] != [count] * (count + 1):
            raise ValueError(f"not an evaluation's data: the tables do not have {count} classes")
        return found


def _read_optional(read: Callable[[dict[str, Any]], Read], data: Any) -> Read | None:
    return None if data is None else read(data)


def _read_top(data: Any) -> tuple[int, Estimate] | None:
    return None if data is None else (int(data["k"]), _read_estimate(data))


def _read_estimate(data: dict[str, Any]) -> Estimate:
    return Estimate(*(float(data[key]) for key in ("value", "low", "high")))


def _read_class(data: dict[str, Any]) -> ClassFigures:
    figures = (float(data[key]) for key in ("precision", "recall", "f1"))
    return ClassFigures(str(data["name"]), int(data["photos"]), *figures)


def evaluate(
    probabilities: Floats,
    labels: Labels,
    class_names: Sequence[str],
    seed: int = 0,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Evaluation:
    """Measure predictions against the truth.

    Args:
        probabilities: ``(sample, class)``.
        labels: ``(sample,)`` true class numbers.
        class_names: One name per class.
        seed: Of the bootstrap.
        groups: ``(sample,)`` what tells groups apart, whose photos are right or wrong together;
            without it each photo is its own. Only the intervals depend on it.

    Raises:
        ValueError: No samples, or shapes that do not fit.

    >>> evaluate(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]), ["a", "b"]).accuracy.value
    1.0
    """
    count, num_classes = probabilities.shape
    if count == 0 or len(labels) != count or len(class_names) != num_classes:
        raise ValueError(
            f"{probabilities.shape} probabilities, {len(labels)} labels and {len(class_names)} "
            "class names do not fit together, or there are none."
        )
    predicted = probabilities.argmax(1)
    right = predicted == labels
    chosen = probabilities[np.arange(count), labels].astype(np.float64)
    losses = -np.log(np.maximum(chosen, 1e-12))
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predicted), 1)

    accuracy = estimate_share(right, groups)  # first: it refuses groups that do not fit
    calibration = measure_calibration(probabilities, labels, seed, groups)
    return Evaluation(
        photos=count,
        accuracy=accuracy,
        balanced_accuracy=estimate_share(right, groups, classes=labels),
        log_loss=bootstrap(lambda rows: float(losses[rows].mean()), count, seed, groups),
        ece=calibration.ece,
        majority=float(np.bincount(labels).max() / count),
        per_class=tuple(_class_figures(confusion, class_names)),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        class_names=tuple(class_names),
        top_k=_measure_top(probabilities, labels, groups),
        calibration=calibration,
    )


def _measure_top(
    probabilities: Floats, labels: Labels, groups: Sequence[Any] | npt.NDArray[Any] | None
) -> tuple[int, Estimate] | None:
    if probabilities.shape[1] < _FEWEST_CLASSES:
        return None
    chosen = probabilities[np.arange(len(labels)), labels][:, None]
    # Ties count against the truth.
    above = (probabilities >= chosen).sum(1)
    return _TOP, estimate_share(above <= _TOP, groups)


def _class_figures(
    confusion: npt.NDArray[np.integer], class_names: Sequence[str]
) -> list[ClassFigures]:
    rows = []
    for number, name in enumerate(class_names):
        right = int(confusion[number, number])
        photos, answers = int(confusion[number].sum()), int(confusion[:, number].sum())
        precision, recall = right / max(answers, 1), right / max(photos, 1)
        f1 = 2 * right / max(photos + answers, 1)
        rows.append(ClassFigures(name, photos, precision, recall, f1))
    return rows
