"""How long fine-tuning will take here: a few steps are timed, the rest is counted."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from headstart.errors import BoundaryError, HeadstartError
from headstart.evaluation.novelty import MOST_REFERENCES
from headstart.models.boundary import INPUT, Prefix
from headstart.recipe import FineTune
from headstart.runtimes.memory import recall, remember
from headstart.training.fine_tune import build_network
from headstart.training.interpolate import SHARES
from headstart.training.memory import measure_memory
from headstart.training.stage import ENOUGH_HELD_OUT, LEAST_SEEN, count_sweep_epochs

# Of a frozen pass on the fastest runtime, per photo and share of the multiply-adds: what training
# and computing cost in TensorFlow, and seconds until its first step. Only to tell what is out of
# the question before TensorFlow is imported; EfficientNet-Lite0 on two cores has 2.4 to 6.
_TRAIN_TIMES, _INFER_TIMES, _START_SECONDS = 3.0, 1.2, 10.0

# Share of the multiply-adds that is trained, where nothing was measured.
_GUESSED_SHARES = {"last_block": 0.13, "half": 0.45, "most": 0.7, "all": 1.0}

_STEPS = 3

# Decoding and squaring of an augmented view, beside that of the photo as it is.
_VIEW_TIMES = 1.15

# Share of decoding in a frozen pass.
_DECODE_SHARE = 0.25


@dataclass(frozen=True)
class Speed:
    """What training a part of a network costs on this machine.

    Attributes:
        start: Seconds until the first step: import, building, tracing.
        train: Seconds per photo of a step of the optimizers.
        infer: Seconds per photo of the suffix in inference.
        share_before: Share of the multiply-adds before the boundary.
        bytes_per_photo: That the cache keeps of a view.
        memory_mb: Largest resident memory of the process after some steps; 0 where not known.
        is_measured: Else it is guessed from the frozen pass.
    """

    start: float
    train: float
    infer: float
    share_before: float
    bytes_per_photo: int
    memory_mb: float = 0.0
    is_measured: bool = True


@dataclass(frozen=True)
class Forecast:
    """What a stage will take.

    Attributes:
        extract: Seconds of computing activations up to the boundary.
        train: Seconds of training, if no run ends early.
        finish: Seconds of writing the tuned network as a graph and measuring it.
        cached_bytes: Of the activations.
        memory_mb: See `Speed`.
        is_measured: See `Speed`.
    """

    extract: float
    train: float
    finish: float
    cached_bytes: int
    memory_mb: float
    is_measured: bool

    @property
    def seconds(self) -> float:
        """In all."""
        return self.extract + self.train + self.finish


@dataclass(frozen=True)
class Amounts:
    """Numbers of photos.

    Attributes:
        train: That are trained on.
        validation: Of a validation side; 0 where training photos are held out.
        test: That the result is measured on.
        pace: Seconds per photo of a frozen pass, decoding included.
    """

    train: int
    validation: int
    test: int
    pace: float


def guess_speed(unfreeze: str | int, pace: float) -> Speed:
    """A speed that is rather too high, without TensorFlow.

    >>> guess_speed("last_block", 0.01).train < guess_speed("all", 0.01).train
    True
    """
    share = _GUESSED_SHARES.get(str(unfreeze), 0.2)
    train, infer = _TRAIN_TIMES * share * pace, _INFER_TIMES * share * pace
    return Speed(_START_SECONDS, train, infer, 1 - share, 0, is_measured=False)


def measure_speed(prefix: Prefix, settings: FineTune, num_classes: int, photos: int) -> Speed:
    """Time some steps on made-up activations, and remember it for this machine.

    Args:
        prefix: Of the backbone.
        settings: Of the stage.
        num_classes: Number of classes.
        photos: That would be trained on.

    Raises:
        BoundaryError: The setting ``unfreeze`` names nothing that can be trained.
    """
    begin = time.perf_counter()
    network = build_network(prefix, settings, num_classes, photos)
    if network is None:
        raise BoundaryError(
            f"unfreeze={settings.unfreeze!r} trains only the head: there is nothing to time. Name "
            'a part of the backbone, such as "last_block".'
        )
    unfreeze = network.unfreeze
    random, count = np.random.default_rng(0), settings.batch_size
    batch = np.abs(random.normal(size=(count, *unfreeze.boundary.shape))).astype(np.float32)
    if unfreeze.boundary.name == INPUT:
        batch *= 100
    targets = np.eye(num_classes, dtype=np.float32)[np.arange(count) % num_classes]

    def step() -> None:
        network.train_step(batch, targets, np.ones(count, np.float32), (1e-5, 1e-5), random)

    step()
    network.compute_logits(batch)
    start = time.perf_counter() - begin
    speed = Speed(
        start,
        _time(step) / count,
        _time(lambda: network.compute_logits(batch)) / count,
        unfreeze.boundary.share_before,
        0 if unfreeze.boundary.name == INPUT else unfreeze.boundary.bytes_per_photo,
        measure_memory(),
    )
    with contextlib.suppress(HeadstartError):  # it will be timed again, no more
        remember("speeds", _list_sources(prefix, settings), asdict(speed))
    return speed


def recall_speed(prefix: Prefix, settings: FineTune) -> Speed | None:
    """What was measured before with these versions, or None."""
    record = recall("speeds", _list_sources(prefix, settings))
    try:
        return Speed(**record) if record is not None else None
    except TypeError:  # of another version
        return None


def _time(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def _list_sources(prefix: Prefix, settings: FineTune) -> dict[str, Any]:
    return {
        "weights_digest": prefix.weights_digest,
        "image_size": prefix.image_size,
        "unfreeze": settings.unfreeze,
        "batchnorm": settings.batchnorm,
        "batch_size": settings.batch_size,
        "versions": {name: version(name) for name in ("headstart", "keras", "tensorflow")},
    }


def forecast_stage(speed: Speed, settings: FineTune, amounts: Amounts) -> Forecast:
    """What a stage of these settings will take if no run of it ends early.

    >>> speed = Speed(10.0, 0.003, 0.001, 0.87, 19_000)
    >>> found = forecast_stage(speed, FineTune("last_block"), Amounts(1000, 0, 372, 0.01))
    >>> round(found.extract), round(found.train), round(found.finish)
    (59, 126, 19)
    """
    trained, computed = _count_passes(settings, amounts)
    photos = amounts.train + amounts.validation
    again = _VIEW_TIMES * (settings.cached_views - 1)
    extract = photos * amounts.pace * speed.share_before * (1 + again)
    train = speed.start + trained * speed.train + computed * speed.infer
    # What is not cached is decoded, and goes through the frozen part, whenever it is needed.
    each = amounts.pace * (_DECODE_SHARE + (1 - _DECODE_SHARE) * speed.share_before)
    is_whole = speed.share_before == 0
    train += trained * each * (_VIEW_TIMES if settings.is_live else is_whole)
    train += computed * each * is_whole
    measured = min(amounts.train, MOST_REFERENCES) + amounts.validation + amounts.test
    finish = speed.start / 2 + measured * amounts.pace
    size = settings.cached_views * photos * speed.bytes_per_photo
    return Forecast(extract, train, finish, size, speed.memory_mb, speed.is_measured)


def _count_passes(settings: FineTune, amounts: Amounts) -> tuple[int, int]:
    """Photos that go through steps of the optimizers, and through the suffix alone."""
    if amounts.validation or not settings.holdout:
        folds, held_out = 1 if amounts.validation else 0, amounts.validation
        trained = amounts.train
    else:
        parts = max(2, round(1 / settings.holdout))
        held_out = amounts.train // parts
        trained = amounts.train - held_out
        folds = min(parts, math.ceil(ENOUGH_HELD_OUT / max(1, held_out)))
    swept = rates = 0
    if settings.learning_rate is None and folds:
        rates = len(settings.learning_rates)
        swept = rates * count_sweep_epochs(settings)
    epochs = swept + folds * settings.epochs
    steps, computed = epochs * trained, epochs * held_out
    # Shares of the way are compared after each run, the probe not in a sweep; a fold's network also
    # answers what it was trained on.
    computed += (rates * (len(SHARES) - 1) + folds * len(SHARES)) * held_out + folds * trained
    # Each run may compare its end with an earlier epoch.
    computed += 2 * (rates + folds) * held_out * (settings.patience is None)
    # The networks of all folds are the result; else one more is trained on all photos.
    is_complete = folds > 0 and folds * held_out >= amounts.train - folds
    is_complete &= trained >= LEAST_SEEN * amounts.train and settings.batchnorm != "train"
    if not amounts.validation and not is_complete:
        steps += settings.epochs * amounts.train
        computed += amounts.train
    return steps, computed
