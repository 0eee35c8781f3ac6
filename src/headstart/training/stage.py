"""The runs of the fine-tuning stage and the choices between them.

Rate, number of epochs and interpolation are chosen on training photos that are held out (or on a
validation folder); then all are trained on.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from headstart.data.split import list_folds
from headstart.features.activations import Activations
from headstart.recipe import FineTune
from headstart.task import CLASSIFICATION
from headstart.training.interpolate import SHARES, Blend, Gain, choose_rate, choose_share, mix
from headstart.training.linear import LinearHead
from headstart.training.loop import (
    Context,
    Data,
    Numbers,
    Position,
    Run,
    compute_logits,
    make_schedule,
)
from headstart.training.network import Network
from headstart.training.objective import encode_samples
from headstart.training.probe import Probe
from headstart.training.source import Source
from headstart.training.tuning import Floats, Photos, Tuning

_log = logging.getLogger(__name__)

# Folds are trained until so many photos were held out: on fewer, a choice is a guess.
ENOUGH_HELD_OUT = 200

# Networks of folds are part of the result where each has seen this share of the photos, and where
# they are so many: on CIFAR-10 three or five were better than what was trained on all photos alone,
# one was not (docs/recipes.md).
LEAST_SEEN, _LEAST_BLENDED = 0.75, 3

# A sweep trains for this share of the epochs.
_SWEEP_SHARE = 0.3


class Stage:
    """The runs of one stage and the choices between them.

    Args:
        network: As pretrained.
        source: Activations of the training photos, then of the validation photos.
        photos: These photos.
        probe: The head to start from.
        context: Seed, checkpoints until the stage is complete, and callbacks.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        photos: Photos,
        probe: Probe | LinearHead,
        context: Context,
    ) -> None:
        self._network, self._source, self._photos = network, source, photos
        self._settings, self._context, self._seed = network.settings, context, context.seed
        samples, trained = (*photos.train, *photos.validation), len(photos.train)
        self._targets = encode_samples(samples, photos.class_names, photos.task, trained)
        self._start_head = self._targets.enter(probe)
        self._groups = photos.groups
        self._train = np.arange(len(photos.train))
        self._pretrained = network.get()
        self._history: list[dict[str, Any]] = []
        self._held_out: tuple[Numbers, Floats] | None = None
        self._blend = Blend()

    def run(self) -> Tuning:
        """Choose, train, and collect the result."""
        settings = self._settings
        folds, is_whole = self._list_folds()
        rate = settings.learning_rate
        if rate is None:
            rate = self._sweep(folds[0]) if folds else settings.learning_rates[0]
        share, gain, epochs = 1.0, None, settings.epochs
        is_diverged = rate is None
        if folds and rate is not None:
            share, gain, epochs, is_diverged = self._choose(folds, rate)
        says = _describe_divergence(rate, settings) if is_diverged else _describe(share, gain)
        rate = rate if rate is not None else 0.0
        is_complete = is_whole and self._blend.count == len(folds)
        if not is_diverged and share and not is_complete:
            position, start = self._train_on("all photos", self._train, (), rate, stop=epochs)
            is_diverged = position.is_diverged
            if is_diverged:
                says = _describe_divergence(rate, settings)
            elif self._blend.count < _LEAST_BLENDED:
                self._blend = Blend()
            self._blend.add(start, self._network.get())
        if is_diverged or share == 0.0:  # a mixture with what is not finite would not be finite
            share = 0.0
            self._start(self._start_head)
        else:
            self._network.set(self._blend.mix(share))
        result = self._collect(share, rate, epochs, gain, says)
        if self._context.checkpoints is not None:
            self._context.checkpoints.remove()
        return result

    def try_fold(self) -> float | None:
        """Loss on the first fold's photos, as settings are compared by; None without any."""
        (folds, _), rate = self._list_folds(), self._settings.learning_rate
        if not folds or rate is None:
            return None
        position, start = self._train_on("trial", *folds[0], rate)
        return None if position.is_diverged else float(self._judge(start, folds[0][1]).mean())

    def _list_folds(self) -> tuple[list[tuple[Numbers, Numbers]], bool]:
        """Folds to choose on; and whether there are no others, so that each photo is in a network.

        With a validation side that is one, which trains on all photos.
        """
        count = len(self._train)
        if self._photos.validation:
            return [(self._train, np.arange(count, len(self._targets)))], True
        if not self._settings.holdout:
            return [], False
        groups = self._groups[:count]
        if self._photos.task is not CLASSIFICATION:
            return self._deal(groups)
        labels = self._targets.classes[:count]
        sizes = Counter(label for label, _ in set(zip(labels.tolist(), groups, strict=True)))
        several = [size for size in sizes.values() if size > 1]
        if not several:  # a class would be held out altogether; nothing can be chosen
            return [], False
        folds = max(2, min(round(1 / self._settings.holdout), *several))
        return self._cut(list(list_folds(labels, groups, folds, self._seed)))

    def _deal(self, groups: tuple[str, ...]) -> tuple[list[tuple[Numbers, Numbers]], bool]:
        """Of several labels or a number."""
        most = len(set(groups))
        if most < 2:
            return [], False
        folds = max(2, min(round(1 / self._settings.holdout), most))
        return self._cut(self._targets.take(self._train).deal(groups, folds, self._seed))

    def _cut(
        self, folds: list[tuple[Numbers, Numbers]]
    ) -> tuple[list[tuple[Numbers, Numbers]], bool]:
        wanted = math.ceil(ENOUGH_HELD_OUT / max(1, len(self._train) / len(folds)))
        return folds[:wanted], wanted >= len(folds)

    def _sweep(self, fold: tuple[Numbers, Numbers]) -> float | None:
        """The rate to train with, by a short run of each; None when all diverge."""
        found: dict[float, Floats] = {}
        epochs = count_sweep_epochs(self._settings)
        for rate in self._settings.learning_rates:
            position, start = self._train_on(f"rate {rate:g}", *fold, rate, epochs=epochs)
            if not position.is_diverged:
                found[rate] = self._judge(start, fold[1])
        return choose_rate(found) if found else None

    def _judge(self, start: list[Floats], rows: Numbers) -> Floats:
        """``(sample,)`` losses of the network as it is, judged as the result of the stage is.

        By the loss after the best temperature, at the best share of the way: high rates make a
        network too sure of itself, and go too far.
        """
        targets = self._targets.take(rows)
        outputs = self._answer(start, self._network.get(), rows, SHARES[1:])
        losses = [targets.judge(each)[0] for each in outputs]
        return min(losses, key=lambda each: float(each.mean()))

    def _answer(
        self,
        start: list[Floats],
        end: list[Floats],
        rows: Numbers,
        shares: tuple[float, ...] = SHARES,
    ) -> list[Floats]:
        """``(sample, name)`` outputs at each share of the way; the network is left at the last."""
        outputs = []
        for share in shares:
            self._network.set(mix(start, end, share))
            outputs.append(compute_logits(self._network, self._source, rows))
        return outputs

    def _choose(
        self, folds: list[tuple[Numbers, Numbers]], rate: float
    ) -> tuple[float, Gain | None, int, bool]:
        """Share of the way, its gain, epochs, and whether the rate diverged."""
        logits: list[list[Floats]] = []
        held_out: list[Numbers] = []
        epochs = []
        is_blended = self._is_blended(folds)
        for number, (train, validation) in enumerate(folds):
            name = f"fold {number + 1}" if len(folds) > 1 else "held out"
            position, start = self._train_on(name, train, validation, rate)
            if position.is_diverged:
                return 0.0, None, 0, True
            end = self._network.get()
            logits.append(self._answer(start, end, validation))
            self._tell(name, validation, logits[-1])
            held_out.append(validation)
            epochs.append(position.best_epoch)
            if is_blended:
                self._blend.add(start, end)
        rows = np.concatenate(held_out)
        groups = [self._groups[row] for row in rows]
        pooled = [np.concatenate(parts) for parts in zip(*logits, strict=True)]
        share, gain = choose_share(pooled, self._targets.take(rows), groups, self._seed)
        self._held_out = rows, self._targets.leave_rows(pooled[SHARES.index(share)])
        return share, gain, max(1, round(float(np.mean(epochs)))), False

    def _tell(self, name: str, rows: Numbers, answers: list[Floats]) -> None:
        """What the epochs of a fold are to be compared with."""
        targets = self._targets.take(rows)
        (loss, score), (last_loss, last_score) = map(targets.measure, (answers[0], answers[-1]))
        measure = targets.objective.measure or "accuracy"
        losses, scores = f"{loss:.3f} → {last_loss:.3f}", f"{score:.1%} → {last_score:.1%}"
        _log.info("  %s: loss %s, %s %s (probe → end)", name, losses, measure, scores)

    def _is_blended(self, folds: list[tuple[Numbers, Numbers]]) -> bool:
        """Whether the networks of folds are part of the result, all of them or none."""
        # Statistics of batches belong to the weights that they were measured with.
        if self._settings.batchnorm == "train" and len(folds) > 1:
            return False
        seen = sum(len(train) for train, _ in folds)
        return seen >= LEAST_SEEN * len(self._train) * len(folds)

    def _train_on(
        self,
        name: str,
        train: Numbers,
        validation: Numbers | tuple[()],
        rate: float,
        *,
        epochs: int | None = None,
        stop: int | None = None,
    ) -> tuple[Position, list[Floats]]:
        """Train from the probe of these photos; the position, and the arrays it started from."""
        head: Probe | LinearHead = self._start_head
        if len(train) < len(self._train):
            features = self._photos.features[train]
            head = self._targets.take(train).solve(features, head.strength)
        self._start(head)
        start = self._network.get()
        held_out, targets = np.asarray(validation, np.intp), self._targets
        if isinstance(head, Probe):
            targets = replace(targets, weights=head.class_weights[targets.classes])
        data = Data(self._source, targets, train, held_out)
        schedule = make_schedule(self._settings, rate, epochs, stop)
        position = Run(name, self._network, data, schedule, self._context).finish()
        self._history += position.history
        return position, start

    def _start(self, head: Probe | LinearHead) -> None:
        self._network.start(self._pretrained, head.kernel, head.bias)

    def _collect(
        self, share: float, rate: float, epochs: int, gain: Gain | None, says: str
    ) -> Tuning:
        network = self._network
        cached = getattr(self._source, "cached", self._source)
        cached = cached if isinstance(cached, Activations) else None
        head = network.head
        kernel, bias = self._targets.leave(head.kernel.value.numpy(), head.bias.value.numpy())
        return Tuning(
            unfreeze=network.unfreeze,
            kernel=kernel,
            bias=bias,
            arrays=network.name_arrays(),
            backbone=network.backbone,
            share=share,
            learning_rate=rate,
            epochs=epochs if share else 0,
            gain=gain,
            says=says,
            parameters=network.count_parameters(),
            history=tuple(self._history),
            cached_bytes=cached.bytes if cached else 0,
            seconds=cached.seconds if cached else {"decode": 0.0, "prefix": 0.0},
            held_out=self._held_out if share else None,
        )


def count_sweep_epochs(settings: FineTune) -> int:
    """Epochs of each run that tries a learning rate."""
    return max(1, round(_SWEEP_SHARE * settings.epochs))


def _describe_divergence(rate: float | None, settings: FineTune) -> str:
    """Without a rate, all of the sweep's diverged."""
    rates = settings.learning_rates if rate is None else (rate,)
    noun = "rate" if len(rates) == 1 else "rates"
    advice = f"Try a lower one, such as {min(min(rates) / 10, *FineTune().learning_rates):g}"
    if rate is not None:
        advice += ", or give none: then one is measured"
    if settings.head_learning_rate is not None:
        advice += f". The head's rate was {settings.head_learning_rate:g}: lower it as well"
    return (
        f"Fine-tuning diverged (learning {noun} {', '.join(f'{each:g}' for each in rates)}); the "
        f"probe is kept. {advice}."
    )


def _describe(share: float, gain: Gain | None) -> str:
    if gain is None:
        return "Fine-tuned without photos held out: whether it helped is not known."
    if share == 0.0 and gain.probability == 0.0:
        return (
            f"Fine-tuning did not help on the {gain.photos} photos held out: it was right less "
            "often, or its loss was higher; the probe is kept."
        )
    if share == 0.0:
        return (
            f"Fine-tuning was not likely to help ({gain.photos} photos held out, probability "
            f"{gain.probability:.2f}, wanted 0.8); the probe is kept."
        )
    way = "" if share == 1.0 else f", {share:.0%} of the way from the probe"
    if gain.tuned == gain.probe:
        likely = f"a lower loss with probability {gain.probability:.2f}"
        return f"Fine-tuning gained probabilities ({likely}), not answers: {gain}{way}."
    return f"Fine-tuning gained {gain}{way}."
