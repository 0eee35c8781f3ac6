"""Which figures and thresholds a task has, and how its answers are read and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.evaluation.labels import LabelsEvaluation, LabelTrust, evaluate_labels
from headstart.evaluation.metrics import Evaluation
from headstart.evaluation.trust import Trust
from headstart.evaluation.values import ValueEvaluation, ValueTrust, evaluate_values
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task

AnyEvaluation = Evaluation | LabelsEvaluation | ValueEvaluation
AnyTrust = Trust | LabelTrust | ValueTrust

_EVALUATIONS: dict[str, type[Evaluation | LabelsEvaluation | ValueEvaluation]] = {
    CLASSIFICATION.name: Evaluation,
    MULTILABEL.name: LabelsEvaluation,
    REGRESSION.name: ValueEvaluation,
}
_TRUSTS: dict[str, type[Trust | LabelTrust | ValueTrust]] = {
    CLASSIFICATION.name: Trust,
    MULTILABEL.name: LabelTrust,
    REGRESSION.name: ValueTrust,
}


def read_evaluation(data: Any, task: Task) -> AnyEvaluation:
    """The figures in a bundle's manifest.

    Raises:
        ValueError: They are none of this task.
    """
    return _EVALUATIONS[task.name].from_json(data)


def read_trust(data: Any, task: Task) -> AnyTrust:
    """What a bundle's manifest says is known of its answers.

    Raises:
        ValueError: It is none of this task.
    """
    return _TRUSTS[task.name].from_json(data)


def evaluate_answers(
    rows: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    names: Sequence[str],
    trust: LabelTrust | ValueTrust,
    seed: int,
    groups: Sequence[Any] | npt.NDArray[Any],
) -> LabelsEvaluation | ValueEvaluation:
    """Measure answers of the tasks besides classification.

    Args:
        rows: ``(sample, name)`` what the network gives.
        targets: ``(sample, name)`` what is true, as `headstart.data.targets.encode_targets` has it.
        names: Of the columns.
        trust: Thresholds.
        seed: Of the bootstrap.
        groups: ``(sample,)`` what tells groups apart.
    """
    if isinstance(trust, LabelTrust):
        return evaluate_labels(rows, targets, trust.thresholds, names, seed, groups)
    return evaluate_values(rows[:, 0], targets[:, 0], trust, seed, groups)


def measure_probability(row: npt.NDArray[np.floating], says: npt.NDArray[np.bool_]) -> float:
    """Of exactly these labels, as if they were independent: the product over all labels.

    >>> round(measure_probability(np.array([0.9, 0.2]), np.array([True, False])), 2)
    0.72
    """
    return float(math.prod(np.where(says, row, 1 - row).tolist()))
