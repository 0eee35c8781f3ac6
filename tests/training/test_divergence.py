"""Learning rates that are far too large: said, dropped, and never below the probe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_network import CLASSES, SHAPE, Array, build_small

from headstart.data.scan import Sample
from headstart.models.boundary import cut
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.training import stage
from headstart.training.interpolate import Gain
from headstart.training.loop import Context, Data, Position, Run, Schedule, compute_logits
from headstart.training.network import Network
from headstart.training.probe import Probe, fit_probe
from headstart.training.stage import Stage
from headstart.training.tuning import Photos, Tuning

TRAIN, FRESH = 60, 300


@pytest.fixture
def source() -> Array:
    """Noisy activations of photos to train on, then of photos that training never sees."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(CLASSES, *SHAPE))
    labels = np.arange(TRAIN + FRESH) % CLASSES
    rows = 0.6 * signal[labels] + rng.normal(size=(TRAIN + FRESH, *SHAPE))
    return Array(rows.astype(np.float32))


def tune(source: Array, **settings: Any) -> tuple[Network, Probe, Tuning]:
    """The stage without photos: the network as it left it, the probe, and what it says."""
    chosen = FineTune(**{"unfreeze": "block3", "batch_size": 16, "epochs": 4, **settings})
    backbone = build_small()
    unfreeze = resolve_unfreeze(backbone, chosen.unfreeze)
    network = Network(backbone, unfreeze, CLASSES, chosen)
    features = network.suffix(source.rows[:TRAIN], training=False).numpy().mean((1, 2))
    probe = fit_probe(features, np.arange(TRAIN) % CLASSES, CLASSES, strengths=(1.0,))
    names = tuple(map(str, range(CLASSES)))
    samples = tuple(Sample(Path(), names[n % CLASSES], str(n)) for n in range(TRAIN))
    groups = tuple(sample.digest for sample in samples)
    photos = Photos(samples, (), groups, features, names)
    return network, probe, Stage(network, source, photos, probe, Context(0)).run()


def is_the_probe(network: Network, probe: Probe) -> bool:
    untouched = [variable.numpy() for variable in build_small().variables]
    now = [variable.numpy() for variable in network.backbone.variables]
    return (
        all((a == b).all() for a, b in zip(untouched, now, strict=True))
        and (network.head.kernel.numpy() == probe.kernel).all()
        and (network.head.bias.numpy() == probe.bias).all()
    )


@pytest.mark.parametrize("holdout", [0.2, 0.0])
def test_a_rate_that_diverges_keeps_the_probe_and_names_itself(
    source: Array, holdout: float
) -> None:
    network, probe, found = tune(source, learning_rate=900.0, holdout=holdout)
    assert found.says == (
        "Fine-tuning diverged (learning rate 900); the probe is kept. Try a lower one, such as "
        "0.0002, or give none: then one is measured."
    )
    assert (found.share, found.epochs) == (0.0, 0)
    assert is_the_probe(network, probe)


def test_where_the_head_diverges_its_rate_is_named(source: Array) -> None:
    _, _, found = tune(source, learning_rate=1e-4, head_learning_rate=1000.0)
    assert found.says.endswith("The head's rate was 1000: lower it as well.")


def test_the_sweep_drops_rates_that_diverge(source: Array) -> None:
    _, _, found = tune(source, learning_rates=(900.0, 1e-3, 30.0))
    assert found.learning_rate == 1e-3
    assert "diverged" not in found.says
    assert {epoch["run"] for epoch in found.history} >= {"rate 900", "rate 0.001", "rate 30"}


def test_a_sweep_chooses_as_the_result_is_chosen(
    source: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the loss after the best temperature, not by that of a network too sure of itself."""

    losses: list[float | None] = []

    class TooSure(Run):
        def finish(self) -> Position:
            position = super().finish()
            if self.name == "rate 0.003":
                network = self.network
                features = network.suffix(source.rows[:TRAIN], training=False).numpy().mean((1, 2))
                best = fit_probe(features, np.arange(TRAIN) % CLASSES, CLASSES, strengths=(0.1,))
                network.head.kernel.assign(30 * best.kernel)
                network.head.bias.assign(30 * best.bias)
                held_out = self.data.validation
                outputs = compute_logits(network, source, held_out)
                position.best_loss, _ = self.data.targets.take(held_out).measure(outputs)
            losses.append(position.best_loss)
            return position

    monkeypatch.setattr(stage, "Run", TooSure)
    _, _, found = tune(source, learning_rates=(1e-6, 3e-3))
    assert losses[0] < losses[1]  # type: ignore[operator]
    assert found.learning_rate == 3e-3


def test_a_gain_in_probabilities_alone_is_called_so() -> None:
    better = Gain(50, 0.8, 0.9, 0.0, 0.2, 0.97)
    assert stage._describe(1.0, better).startswith("Fine-tuning gained +10.0 points")
    worse = stage._describe(0.0, replace(better, probability=0.0))
    assert worse.startswith("Fine-tuning did not help on the 50 photos held out")
    unlikely = stage._describe(0.0, replace(better, probability=0.3))
    assert "probability 0.30, wanted 0.8" in unlikely
    says = stage._describe(0.5, replace(better, tuned=0.8))
    assert says.startswith("Fine-tuning gained probabilities (a lower loss with probability 0.97)")


def test_a_short_run_warms_up_as_long_as_the_long_one(
    source: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising: dict[str, int] = {}

    class Watched(Run):
        def __init__(self, name: str, network: Network, data: Data, schedule: Schedule, *more: Any):
            super().__init__(name, network, data, schedule, *more)
            steps = 3 * schedule.epochs  # of 48 photos in batches of 16
            rates = [schedule.rates(step, steps)[0] for step in range(steps)]
            rising[name] = int(np.argmax(rates)) + 1

    monkeypatch.setattr(stage, "Run", Watched)
    tune(source, learning_rates=(1e-3, 2e-3), epochs=8, warmup=0.25)
    assert rising["rate 0.001"] == rising["rate 0.002"] == rising["fold 1"] == 6


def test_a_sweep_of_which_all_diverge_names_all_rates(source: Array) -> None:
    network, probe, found = tune(source, learning_rates=(900.0, 300.0))
    assert (
        "diverged (learning rates 900, 300); the probe is kept. Try a lower one, such as 0.0002."
        in (found.says)
    )
    assert {epoch["run"] for epoch in found.history} == {"rate 900", "rate 300"}
    assert is_the_probe(network, probe)


def test_a_rate_of_the_sweep_that_diverges_later_is_the_one_that_is_named(
    source: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky(Run):
        def __init__(self, name: str, network: Network, data: Data, *more: Any) -> None:
            super().__init__(name, network, data, *more)
            if name == "all photos":
                self.position.is_diverged = True

    monkeypatch.setattr(stage, "Run", Unlucky)
    monkeypatch.setattr(stage, "choose_share", lambda *_: (1.0, None))
    monkeypatch.setattr(stage, "ENOUGH_HELD_OUT", 1)  # one fold, then all photos
    network, probe, found = tune(source, learning_rates=(1e-3, 900.0))
    assert "diverged (learning rate 0.001); the probe is kept" in found.says
    assert is_the_probe(network, probe)


@pytest.mark.parametrize(
    ("enough", "runs"),
    [
        (1, ["held out", "all photos"]),
        (TRAIN // 2, ["fold 1", "fold 2", "fold 3", "all photos"]),
        (TRAIN, ["fold 1", "fold 2", "fold 3", "fold 4", "fold 5"]),
    ],
)
def test_the_networks_of_several_folds_are_averaged(
    source: Array, monkeypatch: pytest.MonkeyPatch, enough: int, runs: list[str]
) -> None:
    ends: dict[str, list[np.ndarray]] = {}
    starts: dict[str, list[np.ndarray]] = {}

    class Watched(Run):
        def finish(self) -> Position:
            starts[self.name] = self.network.get()
            position = super().finish()
            ends[self.name] = self.network.get()
            return position

    monkeypatch.setattr(stage, "Run", Watched)
    monkeypatch.setattr(stage, "ENOUGH_HELD_OUT", enough)
    monkeypatch.setattr(stage, "choose_share", lambda *_: (0.75, None))
    network, _, _ = tune(source, learning_rate=1e-3)
    assert list(ends) == runs
    taken = runs if len(runs) > 2 else ["all photos"]
    for number, array in enumerate(network.get()):
        start, end = (np.mean([of[run][number] for run in taken], 0) for of in (starts, ends))
        np.testing.assert_allclose(array, 0.25 * start + 0.75 * end, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [1e-3, 3e-2, 3.0])
def test_no_rate_ends_below_the_probe(source: Array, rate: float) -> None:
    """The way from the probe to the end begins at the probe, whatever the end is worth."""
    fresh = np.arange(TRAIN, TRAIN + FRESH)
    backbone = build_small()
    _, suffix = cut(backbone, resolve_unfreeze(backbone, "block3").boundary)
    features = suffix(source.rows[fresh], training=False).numpy().mean((1, 2))
    network, probe, found = tune(source, learning_rate=rate)
    before = probe.predict_proba(features).argmax(1) == fresh % CLASSES
    tuned = compute_logits(network, source, fresh).argmax(1) == fresh % CLASSES
    assert 0.5 < before.mean() < 0.95
    noise = 2 * np.sqrt((tuned != before).mean() / FRESH)  # two standard errors at most
    assert tuned.mean() >= before.mean() - noise
    if found.gain is not None:
        assert found.gain.tuned >= found.gain.probe
