"""Records of the fine-tuning stage: what it starts from and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Sample
from headstart.errors import HeadstartError
from headstart.features.extract import Progress
from headstart.models.unfreeze import ParameterCount, Unfreeze
from headstart.runtimes import AUTO
from headstart.task import CLASSIFICATION, Task
from headstart.training.interpolate import Gain
from headstart.training.loop import Epoch

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.floating]
Callbacks = Sequence[Callable[[Epoch], None]]
Check = Callable[[], None]


def check_callbacks(callbacks: Callbacks) -> None:
    """Refuse, before any work, what cannot be called with an `Epoch`.

    Raises:
        HeadstartError: One of them is not callable, such as a callback of Keras.
    """
    for callback in callbacks:
        if not callable(callback):
            raise HeadstartError(
                f"{type(callback).__name__} is no callback of fine-tuning; accepted are functions "
                "that take a headstart.training.loop.Epoch. Callbacks of Keras go with the fit of "
                "a model of your own: headstart.attach_head."
            )


@dataclass(frozen=True)
class Tuning:
    """What fine-tuning gave.

    Attributes:
        unfreeze: What was trained.
        kernel: ``(feature, class)`` of the head.
        bias: ``(class,)`` of the head.
        arrays: The backbone's arrays by ``layer/variable``.
        backbone: The backbone with these arrays.
        share: Of the way from the probe to the tuned network; 0 means the probe is kept.
        learning_rate: Of the last block.
        epochs: That the final network was trained for.
        gain: On photos held out; None without any.
        says: One sentence about the outcome.
        parameters: Trained and frozen, by block.
        history: Every epoch of every run, as plain data.
        cached_bytes: Of the activations.
        seconds: ``decode`` and ``prefix`` of the extraction.
        held_out: Rows of the photos that were held out to choose on (training photos, then
            validation photos), and their ``(row, class)`` logits (or numbers) at `share`, by
            networks that had not seen them; None without any.
        why_here: Why the nodes of the engine did not take part; empty where they did, and where
            this machine is all there is.
    """

    unfreeze: Unfreeze
    kernel: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    arrays: dict[str, Floats] = field(repr=False)
    backbone: keras.Model = field(repr=False)
    share: float
    learning_rate: float
    epochs: int
    gain: Gain | None
    says: str
    parameters: tuple[ParameterCount, ...] = field(repr=False)
    history: tuple[dict[str, Any], ...] = field(repr=False)
    cached_bytes: int
    seconds: dict[str, float]
    held_out: tuple[npt.NDArray[np.intp], Floats] | None = field(default=None, repr=False)
    why_here: str = ""


@dataclass(frozen=True)
class Photos:
    """The photos of a stage, with what the stage before it made of them.

    Attributes:
        train: Samples to train on.
        validation: Samples to choose on; without any, training photos are held out.
        groups: What belongs together, such as near duplicates: a name per sample of both.
        features: ``(train sample, feature)`` pooled features.
        class_names: Sorted.
        task: What is told of a photo.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    groups: tuple[str, ...]
    features: Floats
    class_names: tuple[str, ...]
    task: Task = CLASSIFICATION


@dataclass(frozen=True)
class Options:
    """What does not change the result.

    Attributes:
        runtime: What computes the prefix.
        progress: Called with ``(done, all)`` views while activations are extracted.
        callbacks: Called with every `Epoch`.
        seconds_per_photo: What a pass of the frozen network took; None where that is not known.
        check: Called often; it raises `headstart.budget.OutOfTimeError` when the stage must end.
    """

    runtime: str = AUTO
    progress: Progress | None = None
    callbacks: Callbacks = ()
    seconds_per_photo: float | None = None
    check: Check | None = None
