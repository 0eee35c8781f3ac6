"""What fine-tuning minimises, and by what its networks are compared: by task.

================  ======================  =============================  =========================
task              targets                 loss of a photo                score of a photo
================  ======================  =============================  =========================
classification    1 at its class          cross-entropy of the softmax   1 where it is right
multilabel        1 at its labels         mean over labels of the        share of the labels that
                                          sigmoid's cross-entropy        are right, said from 1/2 on
regression        numbers, standardised   squared error                  1 - error / spread
================  ======================  =============================  =========================

Networks of numbers are trained in units of the training photos' standard deviation, so that rates
mean the same whatever the unit; `Targets.leave` gives back the user's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Sample
from headstart.data.stratify import Fold, deal_folds
from headstart.data.targets import encode_targets, make_strata
from headstart.evaluation.calibration import SPREAD, find_temperature
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task
from headstart.training.linear import LinearHead, fit_head
from headstart.training.probe import Probe, fit_probe

Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Objective:
    """A task's row of the table above.

    Attributes:
        measure: What the score is called; empty for accuracy.
        losses: ``(sample, name)`` targets and outputs → ``(sample,)``.
        scores: Likewise.
        answers: Number of names → how many a photo has, whose mean its loss is; none where outputs
            have no temperature, after which they are compared.
        at_random: Number of names → the loss of an answer that knows nothing.
        even: Number of names → what smoothed targets are pulled to.
        losses_in_graph: `losses` of TensorFlow's tensors.
        scores_in_graph: Likewise.
    """

    measure: str
    losses: Callable[[Floats, Floats], Floats]
    scores: Callable[[Floats, Floats], Floats]
    answers: Callable[[int], int]
    at_random: Callable[[int], float]
    even: Callable[[int], float]
    losses_in_graph: Callable[[Any, Any], Any]
    scores_in_graph: Callable[[Any, Any], Any]


def _class_losses(targets: Floats, logits: Floats) -> Floats:
    wide = logits.astype(np.float64)
    top = wide.max(1)
    sums = np.log(np.exp(wide - top[:, None]).sum(1)) + top
    return np.asarray(sums - (wide * targets).sum(1))


def _class_scores(targets: Floats, logits: Floats) -> Floats:
    return np.asarray(logits.argmax(1) == targets.argmax(1), np.float64)


def _class_losses_in_graph(targets: Any, logits: Any) -> Any:
    import tensorflow as tf

    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _class_scores_in_graph(targets: Any, logits: Any) -> Any:
    import tensorflow as tf

    return tf.cast(tf.argmax(logits, 1) == tf.argmax(targets, 1), tf.float32)


def _label_losses(targets: Floats, logits: Floats) -> Floats:
    wide = logits.astype(np.float64)
    return np.asarray((np.logaddexp(0, wide) - targets * wide).mean(1))


def _label_scores(targets: Floats, logits: Floats) -> Floats:
    return np.asarray(((logits > 0) == (targets > 0.5)).mean(1))


def _label_losses_in_graph(targets: Any, logits: Any) -> Any:
    import tensorflow as tf

    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.reduce_mean(losses, 1)


def _label_scores_in_graph(targets: Any, logits: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(tf.cast((logits > 0) == (targets > 0.5), tf.float32), 1)


def _value_losses(targets: Floats, outputs: Floats) -> Floats:
    return np.asarray(((outputs.astype(np.float64) - targets) ** 2).mean(1))


def _value_scores(targets: Floats, outputs: Floats) -> Floats:
    return np.asarray(1 - abs(outputs.astype(np.float64) - targets).mean(1))


def _value_losses_in_graph(targets: Any, outputs: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(tf.square(outputs - targets), 1)


def _value_scores_in_graph(targets: Any, outputs: Any) -> Any:
    import tensorflow as tf

    return 1 - tf.reduce_mean(tf.abs(outputs - targets), 1)


OBJECTIVES: dict[str, Objective] = {
    CLASSIFICATION.name: Objective(
        "",
        _class_losses,
        _class_scores,
        lambda _: 1,
        math.log,
        lambda count: 1 / count,
        _class_losses_in_graph,
        _class_scores_in_graph,
    ),
    MULTILABEL.name: Objective(
        "labels right",
        _label_losses,
        _label_scores,
        lambda count: count,
        lambda _: math.log(2),
        lambda _: 0.5,
        _label_losses_in_graph,
        _label_scores_in_graph,
    ),
    REGRESSION.name: Objective(
        "1 - error / spread",
        _value_losses,
        _value_scores,
        lambda _: 0,
        lambda _: 1.0,
        lambda _: 0.0,
        _value_losses_in_graph,
        _value_scores_in_graph,
    ),
}


@dataclass(frozen=True)
class Targets:
    """What is true of some photos, as networks are trained on it.

    Attributes:
        values: ``(sample, name)`` float32.
        weights: ``(sample,)`` of each in the loss of training.
        task: What is told of a photo.
        labels: ``(sample,)`` texts, which folds are balanced by.
        centre: Mean of the training photos' numbers.
        spread: Their standard deviation.
    """

    values: Floats
    weights: Floats
    task: Task = CLASSIFICATION
    labels: tuple[str, ...] = field(default=(), repr=False)
    centre: float = 0.0
    spread: float = 1.0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def objective(self) -> Objective:
        """Of the task."""
        return OBJECTIVES[self.task.name]

    @property
    def classes(self) -> Numbers:
        """``(sample,)`` numbers of the classes."""
        return np.asarray(self.values.argmax(1), np.intp)

    def take(self, rows: Numbers) -> Targets:
        """Those of some of the photos."""
        labels = tuple(self.labels[row] for row in rows) if self.labels else ()
        return replace(self, values=self.values[rows], weights=self.weights[rows], labels=labels)

    def measure(self, outputs: Floats) -> tuple[float, float]:
        """Loss and score of ``(sample, name)`` outputs, means over the photos.

        >>> encode_classes(np.array([1, 0]), 2).measure(np.log([[0.5, 0.5], [0.9, 0.1]]))
        (0.399..., 0.5)
        """
        if not np.isfinite(outputs).all():
            return math.inf, 0.0
        losses, scores = (
            of(self.values, outputs) for of in (self.objective.losses, self.objective.scores)
        )
        return float(losses.mean()), float(scores.mean())

    def judge(self, outputs: Floats) -> tuple[Floats, Floats]:
        """``(sample,)`` losses after the best temperature, and scores, of outputs.

        Without a prior: the result's temperature is told by more photos than a trial has.
        """
        scores = self.objective.scores(self.values, outputs)
        best = self.fit_temperature(outputs, math.inf)
        return self.objective.losses(self.values, outputs / best), scores

    def fit_temperature(self, outputs: Floats, spread: float = SPREAD) -> float:
        """Divides the outputs so that they say how often they are right; 1 of numbers."""
        wide, losses = outputs.astype(np.float64), self.objective.losses
        count = len(wide) * self.objective.answers(wide.shape[1])
        return find_temperature(
            lambda t: float(losses(self.values, wide / t).mean()), count, spread
        )

    def enter(self, head: Probe | LinearHead) -> Probe | LinearHead:
        """A head in the unit of the targets."""
        if self.task is not REGRESSION:
            return head
        return replace(
            head, kernel=head.kernel / self.spread, bias=(head.bias - self.centre) / self.spread
        )

    def leave(self, kernel: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Kernel and bias in the user's unit."""
        if self.task is not REGRESSION:
            return kernel, bias
        single = np.float32(self.spread)
        return kernel * single, bias * single + np.float32(self.centre)

    def leave_rows(self, outputs: Floats) -> Floats:
        """Outputs in the user's unit."""
        return outputs * self.spread + self.centre if self.task is REGRESSION else outputs

    def solve(self, features: Floats, strength: float) -> Probe | LinearHead:
        """The head on features, in the unit of the targets, with a strength that was chosen."""
        if self.task is CLASSIFICATION:
            return fit_probe(features, self.classes, self.values.shape[1], strengths=(strength,))
        return fit_head(features, self.values, (), self.task, strength)

    def deal(self, groups: Sequence[str], folds: int, seed: int) -> list[Fold]:
        """Folds with whole groups, that hold out every label and every number's like evenly.

        Of several labels and of numbers; classes have folds of their own.
        """
        strata = make_strata(self.labels, self.task)
        return list(deal_folds([strata(label) for label in self.labels], groups, folds, seed))


def encode_classes(
    labels: npt.NDArray[np.integer], num_classes: int, class_weights: npt.ArrayLike | None = None
) -> Targets:
    """Targets of class numbers.

    Args:
        labels: ``(sample,)``.
        num_classes: Number of classes.
        class_weights: ``(class,)``; all 1 by default.
    """
    values = np.eye(num_classes, dtype=np.float32)[labels]
    weights = np.ones(num_classes) if class_weights is None else np.asarray(class_weights)
    return Targets(values, weights[labels])


def encode_samples(
    samples: Sequence[Sample], names: Sequence[str], task: Task, trained: int
) -> Targets:
    """Targets of labelled photos, of which the first so many are trained on."""
    labels = tuple(sample.label for sample in samples)
    values = encode_targets(labels, names, task)
    centre, spread = 0.0, 1.0
    if task is REGRESSION:
        centre = float(values[:trained].mean())
        spread = float(values[:trained].std()) or 1.0
        values = (values - centre) / spread
    weights = np.ones(len(labels))
    return Targets(values.astype(np.float32), weights, task, labels, centre, spread)
