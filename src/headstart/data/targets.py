"""What a label says, by task: a class, several labels, a number; and what a split balances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DatasetError
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, VALUE, Task

SEPARATOR = ";"

# Numbers are balanced by quantile: that many bins, with at least that many numbers in each.
_BINS, _FEWEST_PER_BIN = 10, 5

Strata = Callable[[str], tuple[str, ...]]


def normalise_label(label: Any, task: Task) -> str:
    """A label as the text that a sample has.

    For several labels that is the sorted names between ``;`` (empty: none of them), for a number
    its shortest decimals.

    Args:
        label: A text; for several labels also a list, tuple or set of texts; for a number also one.
        task: The task.

    Raises:
        ValueError: It cannot be used, with the reason.
        DatasetError: It is something else altogether.

    >>> normalise_label(" red; big;red", MULTILABEL), normalise_label(["big", "red"], MULTILABEL)
    ('big;red', 'big;red')
    >>> normalise_label("2.50", REGRESSION)
    '2.5'
    """
    if task is MULTILABEL:
        if not isinstance(label, str) and not all(isinstance(name, str) for name in label):
            raise DatasetError(
                f"The labels {label!r} of a photo are not names; accepted are a list of texts, or "
                f"one text with {SEPARATOR!r} between the names."
            )
        parts = label if isinstance(label, str) else SEPARATOR.join(label)
        return SEPARATOR.join(split_labels(parts))
    text = str(label).strip()
    if not text:
        raise ValueError("no number" if task is REGRESSION else "no label")
    if task is not REGRESSION:
        return text
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return repr(number)


def split_labels(label: str) -> tuple[str, ...]:
    """The names in a text, sorted, each once.

    >>> split_labels("red; big;;red")
    ('big', 'red')
    """
    return tuple(sorted({name.strip() for name in label.split(SEPARATOR)} - {""}))


def list_names(labels: Iterable[str], task: Task) -> tuple[str, ...]:
    """The names of the answer's columns, sorted: classes, labels, or the one of a number."""
    if task is REGRESSION:
        return (VALUE,) if any(True for _ in labels) else ()
    if task is CLASSIFICATION:
        return tuple(sorted(set(labels)))
    return tuple(sorted({name for label in labels for name in split_labels(label)}))


def make_strata(labels: Sequence[str], task: Task) -> Strata:
    """What a split balances: classes; labels (and those without any); bins of numbers.

    Args:
        labels: Of all photos: they give the bins, between quantiles.
        task: The task.

    >>> make_strata(["big;red", ""], MULTILABEL)("big;red")
    ('big', 'red')
    >>> strata = make_strata([repr(number / 2) for number in range(10)], REGRESSION)
    >>> strata("0.0"), strata("4.5")
    (('bin 0',), ('bin 1',))
    """
    if task is CLASSIFICATION:
        return lambda label: (label,)
    if task is MULTILABEL:
        return lambda label: split_labels(label) or ("",)
    values = np.array([float(label) for label in labels])
    count = max(min(_BINS, len(values) // _FEWEST_PER_BIN), 1)
    inner = np.arange(1, count) / count
    edges = np.quantile(values, inner) if len(values) else np.empty(0)
    return lambda label: (f"bin {int(np.searchsorted(edges, float(label), 'right'))}",)


def encode_targets(
    labels: Sequence[str], names: Sequence[str], task: Task
) -> npt.NDArray[np.float64]:
    """``(photo, name)``: 1 where a photo has the label, else 0; of a regression the numbers.

    >>> encode_targets(["b", "a;b", ""], ["a", "b"], MULTILABEL).tolist()
    [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """
    if task is REGRESSION:
        return np.array([float(label) for label in labels], np.float64).reshape(-1, 1)
    column = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(labels), len(names)))
    for row, label in enumerate(labels):
        for name in split_labels(label) if task is MULTILABEL else (label,):
            found[row, column[name]] = 1
    return found
