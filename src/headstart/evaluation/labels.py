"""How good the answers are where a photo may have several labels. NumPy only.

Definitions as scikit-learn has them (https://scikit-learn.org/stable/modules/model_evaluation.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.intervals import Estimate, bootstrap, estimate_share

Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelFigures:
    """One label's row of the table.

    Attributes:
        name: Of the label.
        photos: How many have it.
        threshold: From which probability on it is said.
        precision: Share of the photos of which it is said that have it.
        recall: Share of the photos that have it of which it is said.
        f1: Their harmonic mean.
        average_precision: Mean precision over the photos that have it, the most probable first;
            0 where none has.
    """

    name: str
    photos: int
    threshold: float
    precision: float
    recall: float
    f1: float
    average_precision: float


@dataclass(frozen=True)
class LabelBaseline:
    """What an answer that looks at no photo reaches on the same photos.

    Attributes:
        labels: The most frequent set of labels, which is always said.
        micro_f1: Of that.
        subset_accuracy: Likewise.
        hamming_loss: Likewise.
        mean_average_precision: Of probabilities that are the labels' frequencies.
    """

    labels: tuple[str, ...]
    micro_f1: float
    subset_accuracy: float
    hamming_loss: float
    mean_average_precision: float


@dataclass(frozen=True)
class LabelsEvaluation:
    """Everything measured on one set of photos; intervals are of 95 %.

    Attributes:
        photos: Number of photos.
        macro_f1: Mean F1 of the labels that occur; bootstrap interval, as of the others.
        micro_f1: F1 over all pairs of photo and label.
        mean_average_precision: Mean over the labels that occur.
        hamming_loss: Share of the pairs of photo and label that are wrong.
        subset_accuracy: Share of the photos with exactly the right labels; Wilson interval.
        per_label: A row per label.
        baseline: What looks at no photo.
    """

    photos: int
    macro_f1: Estimate
    micro_f1: Estimate
    mean_average_precision: Estimate
    hamming_loss: Estimate
    subset_accuracy: Estimate
    per_label: tuple[LabelFigures, ...]
    baseline: LabelBaseline

    def __str__(self) -> str:
        return (
            f"mean average precision {self.mean_average_precision}, macro F1 {self.macro_f1} on "
            f"{self.photos} photos"
        )

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LabelsEvaluation:
        """The evaluation of plain data.

        Raises:
            ValueError: It is not an evaluation's data.
        """
        try:
            estimates = {
                key: Estimate(*(float(data[key][part]) for part in ("value", "low", "high")))
                for key in (*_ESTIMATES, "subset_accuracy")
            }
            base = data["baseline"]
            others = ("micro_f1", "subset_accuracy", "hamming_loss", "mean_average_precision")
            figures = ("threshold", "precision", "recall", "f1", "average_precision")
            return cls(
                photos=int(data["photos"]),
                **estimates,
                per_label=tuple(
                    LabelFigures(
                        str(row["name"]), int(row["photos"]), *(float(row[key]) for key in figures)
                    )
                    for row in data["per_label"]
                ),
                baseline=LabelBaseline(
                    tuple(map(str, base["labels"])), *(float(base[key]) for key in others)
                ),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an evaluation's data: {error!r}") from error


_ESTIMATES = ("macro_f1", "micro_f1", "mean_average_precision", "hamming_loss")


def evaluate_labels(
    probabilities: Floats,
    truth: npt.ArrayLike,
    thresholds: Sequence[float],
    names: Sequence[str],
    seed: int = 0,
    groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> LabelsEvaluation:
    """Measure probabilities of labels against the truth.

    Args:
        probabilities: ``(sample, label)``.
        truth: ``(sample, label)`` 1 where a sample has the label, else 0.
        thresholds: ``(label,)`` from which probability on each is said.
        names: One per label.
        seed: Of the bootstrap.
        groups: ``(sample,)`` what tells groups apart; only the intervals depend on it.

    Raises:
        ValueError: No samples, or shapes that do not fit.

    >>> rows = np.array([[0.9, 0.2], [0.6, 0.7], [0.1, 0.4]])
    >>> found = evaluate_labels(rows, [[1, 0], [1, 1], [0, 0]], (0.5, 0.5), ["big", "red"])
    >>> found.macro_f1.value, found.baseline.labels
    (1.0, ())
    """
    has = np.asarray(truth) > 0
    if not len(has) or has.shape != probabilities.shape or has.shape[1] != len(names):
        raise ValueError(
            f"{probabilities.shape} probabilities, {has.shape} truths and {len(names)} names do "
            "not fit together, or there are none."
        )
    count = len(has)
    says = probabilities >= np.asarray(thresholds)
    precisions = _AveragePrecisions(probabilities, has)

    def macro(rows: npt.NDArray[np.intp]) -> float:
        occurring = has[rows].any(0)
        return float(_f1(says[rows], has[rows], 0)[occurring].mean()) if occurring.any() else 0.0

    def micro(rows: npt.NDArray[np.intp]) -> float:
        return float(_f1(says[rows], has[rows], None))

    statistics = {
        "macro_f1": macro,
        "micro_f1": micro,
        "mean_average_precision": precisions.mean,
        "hamming_loss": lambda rows: float((says[rows] != has[rows]).mean()),
    }
    estimates = {
        key: bootstrap(statistic, count, seed, groups) for key, statistic in statistics.items()
    }
    return LabelsEvaluation(
        photos=count,
        subset_accuracy=estimate_share((says == has).all(1), groups),
        per_label=tuple(_list_figures(says, has, precisions, thresholds, names)),
        baseline=_measure_baseline(has, names),
        **estimates,
    )


def _f1(says: Booleans, has: Booleans, axis: int | None) -> Any:
    return 2 * (says & has).sum(axis) / np.maximum(says.sum(axis) + has.sum(axis), 1)


class _AveragePrecisions:
    """Of any rows; each label's samples are sorted once, and a row that is drawn twice counts so.

    Samples with equal probabilities are taken together, as scikit-learn does.
    """

    def __init__(self, probabilities: Floats, has: Booleans) -> None:
        self._order = np.argsort(-probabilities, 0, kind="stable")
        ranked = np.take_along_axis(probabilities, self._order, 0)
        self._hits = np.take_along_axis(has, self._order, 0).astype(np.float64)
        # The last place of each run of equal probabilities.
        places = np.arange(len(has))[:, None]
        ends = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, has.shape[1]), bool)])
        last = np.where(ends, places, len(has))
        self._last = np.minimum.accumulate(last[::-1], 0)[::-1]

    def measure(self, rows: npt.NDArray[np.intp]) -> Floats:
        """``(label,)``; 0 where no row has the label."""
        weights = np.bincount(rows, minlength=len(self._order)).astype(np.float64)[self._order]
        found = np.cumsum(weights * self._hits, 0)
        precision = found / np.maximum(np.cumsum(weights, 0), 1)
        precision = np.take_along_axis(precision, self._last, 0)
        total: Floats = (weights * self._hits * precision).sum(0) / np.maximum(found[-1], 1)
        return total

    def mean(self, rows: npt.NDArray[np.intp]) -> float:
        """Over the labels that occur in the rows."""
        drawn = np.bincount(rows, minlength=len(self._order))[self._order]
        occurring = (drawn * self._hits).sum(0) > 0
        return float(self.measure(rows)[occurring].mean()) if occurring.any() else 0.0


def _list_figures(
    says: Booleans,
    has: Booleans,
    precisions: _AveragePrecisions,
    thresholds: Sequence[float],
    names: Sequence[str],
) -> list[LabelFigures]:
    average, f1 = precisions.measure(np.arange(len(has))), _f1(says, has, 0)
    right, said, photos = (says & has).sum(0), says.sum(0), has.sum(0)
    return [
        LabelFigures(
            name,
            int(photos[number]),
            float(thresholds[number]),
            float(right[number] / max(said[number], 1)),
            float(right[number] / max(photos[number], 1)),
            float(f1[number]),
            float(average[number]),
        )
        for number, name in enumerate(names)
    ]


def _measure_baseline(has: Booleans, names: Sequence[str]) -> LabelBaseline:
    # As `Evaluation.majority` has it: what is best among those that look at no photo.
    counts = Counter(map(tuple, has.tolist()))
    row = np.array(max(sorted(counts), key=counts.__getitem__))
    says = np.broadcast_to(row, has.shape)
    shares = has.mean(0)
    return LabelBaseline(
        tuple(name for name, is_said in zip(names, row, strict=True) if is_said),
        float(_f1(says, has, None)),
        float((says == has).all(1).mean()),
        float((says != has).mean()),
        # With one and the same probability for all photos, the precision is the share.
        float(shares[shares > 0].mean()) if shares.any() else 0.0,
    )


@dataclass(frozen=True)
class LabelTrust:
    """What is known of the labels, from training photos that were held out.

    Attributes:
        thresholds: ``(label,)`` from which probability on each is said.
    """

    thresholds: tuple[float, ...]

    def choose(self, probabilities: Floats) -> Booleans:
        """``(label,)`` of ``(label,)`` probabilities, which labels are said."""
        return np.asarray(probabilities >= np.asarray(self.thresholds), np.bool_)

    def fits(self, names: int) -> bool:
        """Whether it is of so many labels."""
        return len(self.thresholds) == names

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"thresholds": list(self.thresholds)}

    @classmethod
    def from_json(cls, data: Any) -> LabelTrust:
        """Of plain data.

        Raises:
            ValueError: It is none.
        """
        try:
            found = tuple(float(value) for value in data["thresholds"])
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not what is known of labels: {error!r}") from error
        if not all(0 <= value <= 1 for value in found):
            raise ValueError("not what is known of labels: a threshold is no probability")
        return cls(found)
