"""One run of fine-tuning: epochs over activations, interrupted and resumed to the same bits.

All that is random is drawn from generators made of the seed, the epoch and the step, so that the
position in the data is the whole random state.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.recipe import FineTune
from headstart.training.checkpoint import Arrays, Checkpoints
from headstart.training.interpolate import is_as_good
from headstart.training.network import Network
from headstart.training.objective import Targets
from headstart.training.source import Source, read_ahead

Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.intp]

# At most so much work is lost by a kill.
CHECKPOINT_SECONDS = 15.0

# The cosine ends here, as a share of the highest rate.
_LAST_RATE = 0.01


@dataclass(frozen=True)
class Epoch:
    """What is said after each epoch.

    Attributes:
        run: Which run of the stage, such as ``"learning rate 0.001"`` or ``"all photos"``.
        number: From 1 on.
        epochs: As many there will be at most.
        loss: Mean over the training photos, while they were trained on.
        accuracy: Likewise; of other tasks than classification the score of
            `headstart.training.objective`, by its name in `measure`.
        validation_loss: Log loss on the photos held out; None without any.
        validation_accuracy: Likewise.
        validation_photos: How many there are.
        learning_rate: At the end of the epoch.
        seconds: It took.
        measure: What the accuracy is called.
    """

    run: str
    number: int
    epochs: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_photos: int
    learning_rate: float
    seconds: float
    measure: str = "accuracy"


@dataclass(frozen=True)
class Data:
    """What one run trains on and is measured on.

    Attributes:
        source: Gives activations.
        targets: Of all of its samples.
        train: Samples that are trained on.
        validation: Samples that are held out; may be empty.
    """

    source: Source
    targets: Targets
    train: Numbers
    validation: Numbers


@dataclass(frozen=True)
class Context:
    """What the runs of a stage share.

    Attributes:
        seed: Of everything random.
        checkpoints: Where positions are kept; None for nowhere.
        callbacks: Called with every `Epoch`.
        check: Called after every step; it raises when the run must end.
    """

    seed: int
    checkpoints: Checkpoints | None = None
    callbacks: Sequence[Callable[[Epoch], None]] = ()
    check: Callable[[], None] | None = None


@dataclass
class Position:
    """Where a run is; with the arrays of a checkpoint, all that it depends on."""

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    right: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    is_finished: bool = False
    is_diverged: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """Learning rates: a linear warm-up, then a cosine.

    Attributes:
        learning_rate: Of the last block, at its highest.
        head_learning_rate: Of the head, likewise.
        epochs: That both are stretched over.
        stop: Epoch after which the run ends nevertheless.
        warmup: Share of the steps in which the rates rise.
    """

    learning_rate: float
    head_learning_rate: float
    epochs: int
    stop: int
    warmup: float

    def rates(self, step: int, steps: int) -> tuple[float, float]:
        """Rates of backbone and head in a step of so many.

        >>> Schedule(1.0, 2.0, 1, 1, 0.1).rates(0, 10)
        (1.0, 2.0)
        """
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            share = (step + 1) / rising
        else:
            done = (step - rising) / max(1, steps - rising)
            share = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
        return share * self.learning_rate, share * self.head_learning_rate


def make_schedule(
    settings: FineTune, rate: float, epochs: int | None = None, stop: int | None = None
) -> Schedule:
    """The schedule of a run at a rate; one of fewer epochs warms up in as many steps.

    With fewer, a short run would say little of the long one.

    >>> make_schedule(FineTune(epochs=10, warmup=0.1), 0.5, epochs=4)
    Schedule(learning_rate=0.5, head_learning_rate=1.5, epochs=4, stop=4, warmup=0.25)
    """
    total, head_rate = epochs or settings.epochs, settings.head_learning_rate
    head_rate = settings.head_factor * rate if head_rate is None else head_rate
    warmup = min(1.0, settings.warmup * settings.epochs / total)
    return Schedule(rate, head_rate, total, stop or total, warmup)


class Run:
    """One run of the network over the data, from its state at the first call of `finish`.

    Args:
        name: Of its checkpoint.
        network: Started; it is trained in place.
        data: What to train on.
        schedule: Of the learning rates.
        context: Seed, checkpoints and callbacks.
    """

    def __init__(
        self, name: str, network: Network, data: Data, schedule: Schedule, context: Context
    ) -> None:
        self.name, self.network, self.data, self.schedule = name, network, data, schedule
        self._settings: FineTune = network.settings
        self._seed, self._checkpoints = context.seed, context.checkpoints
        self._callbacks, self._check = context.callbacks, context.check
        self.position = Position()
        self._best: list[Floats] = []
        self._saved = self._started = time.monotonic()
        first = np.random.default_rng([context.seed, 1])
        self._first_view = first.integers(data.source.views, size=len(data.targets))

    def finish(self) -> Position:
        """Train to the end, or from the last checkpoint on.

        The network has the best weights then, or the last where the best are not clearly better.
        A rate that diverges (the loss is not finite, or after the last epoch the photos that were
        trained on are answered worse than at random) ends the run: the position says so, and the
        weights are the best before that.
        """
        self._restore()
        batches = max(1, math.ceil(len(self.data.train) / self._settings.batch_size))
        position, stop = self.position, min(self.schedule.epochs, self.schedule.stop)
        while not position.is_finished:
            self._started = time.monotonic()
            self._train_epoch(batches)
            position.epoch, position.batch = position.epoch + 1, 0
            self._measure(batches)
            waited = position.epoch - position.best_epoch
            most = self._settings.patience
            is_stuck = bool(len(self.data.validation)) and most is not None and waited >= most
            position.is_finished = position.epoch >= stop or is_stuck or position.is_diverged
            if position.is_finished:
                self._settle()
            self._save()
        return position

    def _settle(self) -> None:
        """Take the best weights, or those of the end where these are not clearly worse.

        By one standard error, as Breiman et al. (1984) choose among trees: the end of the schedule
        has the lowest rate, and which epoch looks best on a few photos is mostly chance. Who gives
        a patience asks for the best.
        """
        position, held_out = self.position, self.data.validation
        is_end = position.epoch == self.schedule.epochs and not position.is_diverged
        is_end &= self._settings.patience is None
        if is_end and position.best_epoch < position.epoch and len(held_out) > 1:
            last, targets, outputs = self.network.get(), self.data.targets.take(held_out), []
            for arrays in (self._best, last):
                self.network.set(arrays)
                outputs.append(compute_logits(self.network, self.data.source, held_out))
            if is_as_good(*(targets.judge(each)[0] for each in outputs)):
                self._best, position.best_epoch = last, position.epoch
                position.best_loss = targets.measure(outputs[1])[0]
        self.network.set(self._best)

    def _train_epoch(self, batches: int) -> None:
        position, data = self.position, self.data
        order = np.random.default_rng([self._seed, 2, position.epoch]).permutation(data.train)
        views = (self._first_view + position.epoch) % data.source.views
        parts = np.array_split(order, batches)
        wanted = [(rows, views[rows]) for rows in parts[position.batch :]]
        with contextlib.closing(read_ahead(data.source, wanted)) as read:
            for rows, activations in read:
                step = position.epoch * batches + position.batch
                loss, right = self.network.train_step(
                    activations,
                    data.targets.values[rows],
                    data.targets.weights[rows],
                    self.schedule.rates(step, self.schedule.epochs * batches),
                    np.random.default_rng([self._seed, 3, position.epoch, position.batch]),
                )
                position.loss += loss * len(rows)
                position.right += right
                position.batch += 1
                if not math.isfinite(loss):
                    position.is_diverged = True
                    return
                if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                    self._save()
                if self._check is not None:
                    try:
                        self._check()
                    except BaseException:
                        self._save()
                        raise

    def _measure(self, batches: int) -> None:
        position, data = self.position, self.data
        loss = accuracy = None
        if len(data.validation):
            logits = compute_logits(self.network, data.source, data.validation)
            loss, accuracy = data.targets.take(data.validation).measure(logits)
            position.is_diverged |= not math.isfinite(loss)
        is_last = position.epoch >= min(self.schedule.epochs, self.schedule.stop)
        if is_last and not position.is_diverged:
            position.is_diverged = self._has_unlearnt()
        is_better = loss is None or position.best_loss is None or loss < position.best_loss
        if is_better and not position.is_diverged:
            position.best_loss, position.best_epoch = loss, position.epoch
            self._best = self.network.get()
        step, steps = position.epoch * batches - 1, self.schedule.epochs * batches
        seconds = position.seconds + time.monotonic() - self._started
        count = max(1, len(data.train))
        epoch = Epoch(
            run=self.name,
            number=position.epoch,
            epochs=self.schedule.epochs,
            loss=position.loss / count,
            accuracy=position.right / count,
            validation_loss=loss,
            validation_accuracy=accuracy,
            validation_photos=len(data.validation),
            learning_rate=self.schedule.rates(step, steps)[0],
            seconds=seconds,
            measure=data.targets.objective.measure or "accuracy",
        )
        position.loss = position.right = position.seconds = 0.0
        position.history.append(asdict(epoch))
        for callback in self._callbacks:
            callback(epoch)

    def _has_unlearnt(self) -> bool:
        """Whether the photos that were trained on are answered worse than at random.

        Without mixup, smoothing and dropout: with few classes these raise the loss of training
        above that of answering at random although all goes well.
        """
        rows, targets = self.data.train, self.data.targets
        outputs = compute_logits(self.network, self.data.source, rows)
        loss, _ = targets.take(rows).measure(outputs)
        return loss > targets.objective.at_random(self.network.num_classes)

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._checkpoints is None:
            return
        self.position.seconds += time.monotonic() - self._started if self.position.batch else 0.0
        self._started = time.monotonic()
        arrays: Arrays = {"state": self.network.get(), "best": self._best}
        if not self.position.is_finished:
            arrays["optimizer"] = self.network.get_optimizer()
        self._checkpoints.save(self.name, arrays, asdict(self.position))

    def _restore(self) -> None:
        found = self._checkpoints.load(self.name) if self._checkpoints else None
        if found is None:
            self._best = self.network.get()
            return
        arrays, record = found
        self.position = Position(**record)
        self._best = arrays["best"]
        self.network.set(arrays["state"])
        if "optimizer" in arrays:
            self.network.set_optimizer(arrays["optimizer"])


def compute_logits(network: Network, source: Source, rows: Numbers, view: int = 0) -> Floats:
    """``(sample, class)`` logits (or numbers) of samples in one view."""
    size = network.settings.batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with contextlib.closing(read_ahead(source, [(part, view) for part in parts])) as read:
        found = [network.compute_logits(activations) for _, activations in read]
    return np.concatenate(found) if found else np.empty((0, network.num_classes), np.float32)
