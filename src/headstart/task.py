"""What is told of a photo: its class, its labels, or a number.

The task travels with the data: a `Manifest` has it, a training takes it from there, and the
bundle's manifest records it. What knows some tasks only says so with `require_task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.errors import HeadstartError, did_you_mean


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: ``"classification"``, ``"multilabel"`` or ``"regression"``.
        activation: Of the head, as Keras calls it.
        output: What the network's answer is called.
        fewest_names: How many names the columns of the answer have at least.
        format: Of the bundle: an earlier Headstart must not take labels for classes.
    """

    name: str
    activation: str
    output: str
    fewest_names: int
    format: int


CLASSIFICATION = Task("classification", "softmax", "probabilities", 2, 1)
MULTILABEL = Task("multilabel", "sigmoid", "probabilities", 1, 2)
REGRESSION = Task("regression", "linear", "values", 1, 2)
TASKS = {task.name: task for task in (CLASSIFICATION, MULTILABEL, REGRESSION)}

# The column of a regression's answer.
VALUE = "value"

# What bundles of earlier versions call classification.
_EARLIER = {None: "classification", "single-label": "classification"}


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        HeadstartError: There is none.

    >>> get_task("multilabel").activation
    'sigmoid'
    """
    if name not in TASKS:
        raise HeadstartError(
            f"{name!r} is not a task.{did_you_mean(str(name), TASKS)} Accepted are: "
            f"{', '.join(TASKS)}."
        )
    return TASKS[name]


def read_task(manifest: Mapping[str, Any]) -> Task:
    """The task of a bundle's manifest; those of earlier versions classify.

    Raises:
        HeadstartError: It has one that is not known.

    >>> read_task({"task": "single-label"}).name, read_task({}).name
    ('classification', 'classification')
    """
    name = manifest.get("task")
    if name is None or isinstance(name, str):
        return get_task(str(_EARLIER.get(name, name)))
    return get_task(repr(name))


def require_task(task: Task, purpose: str, *accepted: Task) -> None:
    """Refuse a task that something is not made for; classification always is accepted.

    Args:
        task: The one at hand.
        purpose: What is asked for, such as ``"a heat map"``.
        accepted: The others that it is made for.

    Raises:
        HeadstartError: It is none of them.

    >>> require_task(CLASSIFICATION, "a heat map")
    """
    known = (CLASSIFICATION, *accepted)
    if task not in known:
        raise HeadstartError(
            f"{purpose} is not made for the task {task.name}; accepted: "
            f"{', '.join(each.name for each in known)}. See docs/tasks.md."
        )
