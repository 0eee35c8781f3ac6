"""What a classifier knows about its own answers: calibration, sets, when not to answer, novelty.

Fitted on photos that were held out from the head that judged them; kept in the bundle; read
whenever a photo is predicted. docs/trust.md explains each figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import HeadstartError
from headstart.evaluation.conformal import (
    fit_class_thresholds,
    fit_threshold,
    predict_sets,
    score_truth,
)
from headstart.evaluation.intervals import Estimate, estimate_share

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

COVERAGES = (0.8, 0.9, 0.95, 0.99)
PRECISIONS = (0.9, 0.95, 0.99)
COVERAGE, PRECISION = 0.9, 0.95

# Said where no answer is sure.
WHY_NEVER_SURE = (
    "on few training photos, or with many mistakes, no confidence can be shown to be enough"
)

# One-sided 95 %: the precision is promised, not hoped for.
_LEVEL = 0.9
_FEWEST_ANSWERS = 10


@dataclass(frozen=True)
class Abstention:
    """From which confidence on answers are right as often as wanted.

    Attributes:
        confidence: Answers below are "not sure"; None where no confidence is high enough.
        answered: Share of the photos held out that is answered then.
    """

    confidence: float | None
    answered: float


@dataclass(frozen=True)
class TrustFigures:
    """How sets, "not sure" and novelty did on photos with known labels.

    Attributes:
        coverage_asked: Of the prediction sets.
        coverage: Share of the sets that hold the truth.
        set_size: Mean number of classes in a set.
        precision_asked: Of the answers that are given.
        answered: Share of the photos with a confident answer; the others are "not sure".
        precision: Share of those answers that is right; None where none is given.
        novel: Share of the photos that do not look like the training photos; None where that is
            not known.
    """

    coverage_asked: float
    coverage: Estimate
    set_size: float
    precision_asked: float
    answered: Estimate
    precision: Estimate | None
    novel: Estimate | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrustFigures:
        """The figures of plain data.

        Raises:
            ValueError: It is not such data.
        """

        def read(value: Any) -> Estimate | None:
            if value is None:
                return None
            return Estimate(*(float(value[key]) for key in ("value", "low", "high")))

        try:
            plain = {k: float(data[k]) for k in ("coverage_asked", "set_size", "precision_asked")}
            found = {k: read(data[k]) for k in ("coverage", "answered", "precision", "novel")}
            if found["coverage"] is None or found["answered"] is None:
                raise TypeError("coverage or answered is null")
            return cls(**plain, **found)  # type: ignore[arg-type]
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not trust figures' data: {error!r}") from error


@dataclass(frozen=True)
class Judgement:
    """What is said of one answer besides its probability.

    Attributes:
        labels: ``(class,)`` whether the class is in the prediction set.
        is_sure: Whether the answer is confident enough for the wanted precision.
    """

    labels: npt.NDArray[np.bool_]
    is_sure: bool


@dataclass(frozen=True)
class Trust:
    """Thresholds of "not sure", by what is asked for.

    Attributes:
        photos: Number of photos that were held out to fit them.
        temperature: That the head's logits were divided by; it is in the weights already.
        thresholds: Coverage → largest score of a prediction set.
        class_thresholds: Coverage → one per class.
        abstentions: Precision → from which confidence on to answer.
        novelty_limit: Distance above which a photo does not look like the training photos; None
            where there are too few.
        neighbours: To which of the nearest training photos the distance is.
    """

    photos: int
    temperature: float
    thresholds: Mapping[float, float]
    class_thresholds: Mapping[float, tuple[float, ...]]
    abstentions: Mapping[float, Abstention]
    novelty_limit: float | None = None
    neighbours: int = 0

    def fits(self, num_classes: int) -> bool:
        """Whether the record can be of so many classes, and its numbers are such as are fitted."""
        single = [self.temperature, *self.thresholds.values()]
        single += [v for each in self.class_thresholds.values() for v in each]
        for each in self.abstentions.values():
            single += [each.answered, 0.0 if each.confidence is None else each.confidence]
        limit = self.novelty_limit
        return (
            all(math.isfinite(value) and value >= 0 for value in single)
            and all(len(each) == num_classes for each in self.class_thresholds.values())
            and (limit is None or (math.isfinite(limit) and limit > 0 and self.neighbours > 0))
        )

    def judge(
        self,
        probabilities: Floats,
        coverage: float = COVERAGE,
        precision: float = PRECISION,
        *,
        is_class_wise: bool = False,
    ) -> list[Judgement]:
        """Sets and sureness of ``(sample, class)`` probabilities.

        Raises:
            HeadstartError: No threshold was fitted for this coverage or precision.
        """
        kind = self.class_thresholds if is_class_wise else self.thresholds
        sets = predict_sets(probabilities, pick(kind, coverage, "coverage"))
        limit = pick(self.abstentions, precision, "precision").confidence
        sure = probabilities.max(1) >= (math.inf if limit is None else limit)
        return [Judgement(row, bool(is_sure)) for row, is_sure in zip(sets, sure, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Plain data; levels are the keys, as text."""
        plain = asdict(self)
        for name in ("thresholds", "class_thresholds", "abstentions"):
            plain[name] = {f"{level:g}": value for level, value in plain[name].items()}
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trust:
        """The record of plain data.

        Raises:
            ValueError: It is not that record's data.
        """
        try:
            limit = data["novelty_limit"]
            return cls(
                photos=int(data["photos"]),
                temperature=float(data["temperature"]),
                thresholds={float(k): float(v) for k, v in data["thresholds"].items()},
                class_thresholds={
                    float(k): tuple(map(float, v)) for k, v in data["class_thresholds"].items()
                },
                abstentions={
                    float(k): Abstention(
                        None if v["confidence"] is None else float(v["confidence"]),
                        float(v["answered"]),
                    )
                    for k, v in data["abstentions"].items()
                },
                novelty_limit=None if limit is None else float(limit),
                neighbours=int(data["neighbours"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a trust record's data: {error!r}") from error


def pick(levels: Mapping[float, Any], wanted: float, name: str) -> Any:
    """What was fitted for a level.

    Raises:
        HeadstartError: Nothing was.

    >>> pick({0.9: "a", 0.95: "b"}, 0.95, "coverage")
    'b'
    """
    found = next((v for level, v in levels.items() if math.isclose(level, wanted)), None)
    if found is None:
        accepted = ", ".join(f"{level:g}" for level in sorted(levels))
        raise HeadstartError(f"{name} is {wanted!r}; accepted are {accepted or 'none'}.")
    return found


def fit_trust(
    probabilities: Floats, labels: Labels, groups: npt.NDArray[Any], temperature: float
) -> Trust:
    """Thresholds from photos that were held out.

    Args:
        probabilities: ``(sample, class)``, calibrated.
        labels: ``(sample,)`` class numbers.
        groups: ``(sample,)`` what is right or wrong together.
        temperature: That made the probabilities what they are.
    """
    scores = score_truth(probabilities, labels)
    return Trust(
        photos=len(labels),
        temperature=temperature,
        thresholds={level: fit_threshold(scores, level) for level in COVERAGES},
        class_thresholds={
            level: fit_class_thresholds(probabilities, labels, level) for level in COVERAGES
        },
        abstentions=fit_abstentions(probabilities, labels, groups),
    )


def measure_trust(
    trust: Trust,
    probabilities: Floats,
    novelties: Floats | None,
    labels: Labels,
    groups: npt.NDArray[Any],
    asked: tuple[float, float] = (COVERAGE, PRECISION),
) -> TrustFigures:
    """How the thresholds did on photos with known labels.

    Args:
        trust: The thresholds.
        probabilities: ``(sample, class)``, calibrated.
        novelties: ``(sample,)`` distances as multiples of the limit, or None.
        labels: ``(sample,)`` class numbers.
        groups: ``(sample,)`` what is right or wrong together.
        asked: Coverage and precision.

    Raises:
        HeadstartError: No threshold was fitted for what is asked.
    """
    judged = trust.judge(probabilities, *asked)
    sets = np.stack([each.labels for each in judged])
    sure = np.array([each.is_sure for each in judged])
    right = probabilities.argmax(1) == labels
    return TrustFigures(
        coverage_asked=asked[0],
        coverage=estimate_share(sets[np.arange(len(labels)), labels], groups),
        set_size=float(sets.sum(1).mean()),
        precision_asked=asked[1],
        answered=estimate_share(sure, groups),
        precision=estimate_share(right[sure], groups[sure]) if sure.any() else None,
        novel=None if novelties is None else estimate_share(novelties > 1, groups),
    )


def fit_abstentions(
    probabilities: Floats,
    labels: Labels,
    groups: npt.NDArray[Any],
    precisions: Sequence[float] = PRECISIONS,
) -> dict[float, Abstention]:
    """By precision: the lowest confidence above which at least that share of answers is right.

    The lower bound of the share counts (Wilson's, one-sided 95 %), not the share itself: the
    lowest of many confidences at which a share happens to be high would promise too much.

    >>> sure = np.linspace(0.5, 1, 400)
    >>> odds, truth = np.stack([sure, 1 - sure], 1), np.where(sure > 0.7, 0, 1)
    >>> found = fit_abstentions(odds, truth, np.arange(400))
    >>> 0.68 < found[0.95].confidence < 0.72
    True
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    found = dict.fromkeys(precisions, Abstention(None, 0.0))
    # Every possible confidence would take long with many photos; two hundred are enough.
    counts = np.unique(np.linspace(_FEWEST_ANSWERS, len(labels), 200).astype(int))
    for count in counts[counts <= len(labels)]:
        rows = order[:count]
        low = estimate_share(right[rows], groups[rows], level=_LEVEL).low
        answered = Abstention(float(confidence[rows[-1]]), float(count / len(labels)))
        found |= {precision: answered for precision in precisions if low >= precision}
    return found
