"""Heads that are solved once: a second run on the same features and labels reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from headstart.data.stratify import Fold
from headstart.features.solved import solve_once
from headstart.task import Task
from headstart.training.linear import LinearHead, Loss, fit_head
from headstart.training.logistic import Floats, Labels
from headstart.training.probe import (
    STRENGTHS,
    Probe,
    Strength,
    choose_strength,
    fit_probe,
    hold_out,
)


def fit_probe_once(
    features: Floats, labels: Labels, num_classes: int, folds: Iterable[Fold] = ()
) -> Probe:
    """As `headstart.training.probe.fit_probe`."""
    dealt = list(folds)

    def solve() -> list[Floats]:
        probe = fit_probe(features, labels, num_classes, dealt)
        path = [(step.strength, step.log_loss, step.accuracy) for step in probe.path]
        return [
            probe.kernel,
            probe.bias,
            np.array([probe.strength]),
            np.array(path, np.float64).reshape(-1, 3),
            probe.class_weights,
            probe.held_out,
        ]

    question = ["probe", features, labels, num_classes, STRENGTHS, *_flatten([dealt])]
    kernel, bias, strength, path, weights, held_out = solve_once(question, solve)
    steps = tuple(Strength(*step) for step in path.tolist())
    return Probe(kernel, bias, float(strength[0]), steps, weights, held_out)


def fit_head_once(
    features: Floats, targets: Floats, folds: Sequence[Fold], task: Task
) -> LinearHead:
    """As `headstart.training.linear.fit_head`."""

    def solve() -> list[Floats]:
        head = fit_head(features, targets, folds, task)
        path = [(step.strength, step.loss) for step in head.path]
        return [
            head.kernel,
            head.bias,
            np.array([head.strength]),
            np.array(path, np.float64).reshape(-1, 2),
            head.held_out,
        ]

    question = ["head", features, targets, task.name, *_flatten([folds])]
    kernel, bias, strength, path, held_out = solve_once(question, solve)
    steps = tuple(Loss(*step) for step in path.tolist())
    return LinearHead(kernel, bias, float(strength[0]), steps, held_out, task)


def choose_strength_once(
    features: Floats,
    labels: Labels,
    num_classes: int,
    folds: Iterable[Fold],
    variance: float = 1.0,
) -> float:
    """As `headstart.training.probe.choose_strength`."""
    dealt = list(folds)

    def solve() -> list[Floats]:
        return [np.array([choose_strength(features, labels, num_classes, dealt, variance)])]

    question = ["strength", features, labels, num_classes, variance, *_flatten([dealt])]
    return float(solve_once(question, solve)[0][0])


def hold_out_once(
    features: Floats,
    labels: Labels,
    num_classes: int,
    repeats: Sequence[Sequence[Fold]],
    strength: float,
    variance: float = 1.0,
) -> Floats:
    """As `headstart.training.probe.hold_out`."""
    question = ["hold out", features, labels, num_classes, strength, variance, *_flatten(repeats)]
    (logits,) = solve_once(
        question, lambda: [hold_out(features, labels, num_classes, repeats, strength, variance)]
    )
    return logits


def _flatten(repeats: Sequence[Sequence[Fold]]) -> list[int | npt.NDArray[np.intp]]:
    """Which rows each fold of each repeat trains on and holds out, as one list."""
    rows = [side for folds in repeats for fold in folds for side in fold]
    return [*(len(folds) for folds in repeats), *rows]
