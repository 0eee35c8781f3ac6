"""The training loop: what moves, how it resumes, what equals what."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from conftest import needs_time
from small_network import CLASSES, SAMPLES, SHAPE, Array, build_small

from headstart.models.boundary import cut
from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.training import loop
from headstart.training.checkpoint import Checkpoints
from headstart.training.loop import (
    Context,
    Data,
    Epoch,
    Run,
    Schedule,
    compute_logits,
)
from headstart.training.network import Network
from headstart.training.objective import encode_classes
from headstart.training.probe import fit_probe

Arrays = list[np.ndarray]


@pytest.fixture
def small() -> Any:
    return build_small()


@pytest.fixture
def source() -> Array:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(SAMPLES, *SHAPE)).astype(np.float32)
    rows += np.arange(SAMPLES)[:, None, None, None] % CLASSES
    return Array(rows, views=3)


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(SAMPLES) % CLASSES


def make_network(model: Any, **settings: Any) -> Network:
    chosen = FineTune(
        **{"unfreeze": "block3", "batch_size": 8, "epochs": 3, "mixup": 0.0, **settings}
    )
    unfreeze = resolve_unfreeze(model, chosen.unfreeze, chosen.batchnorm)
    network = Network(model, unfreeze, CLASSES, chosen)
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(8, CLASSES)).astype(np.float32)
    network.start(network.get(), kernel, np.zeros(CLASSES, np.float32))
    return network


def make_run(
    network: Network, source: Array, labels: np.ndarray, rate: float = 1e-2, **more: Any
) -> Run:
    rows = np.arange(SAMPLES)
    data = Data(source, encode_classes(labels, CLASSES), rows[:20], rows[20:])
    epochs = network.settings.epochs
    return Run("test", network, data, Schedule(rate, rate, epochs, epochs, 0.1), Context(0, **more))


def equal(a: Arrays, b: Arrays) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def test_the_same_run_gives_the_same_bits(source: Array, labels: np.ndarray) -> None:
    found = []
    for _ in range(2):
        network = make_network(build_small(), mixup=0.2)
        make_run(network, source, labels).finish()
        found.append(network.get())
    assert equal(*found)
    network = make_network(build_small(), mixup=0.2)
    before = network.get()
    assert not equal(before, found[0])


@pytest.mark.parametrize(
    ("steps", "batchnorm"),
    [
        (1, "inference"),
        (3, "inference"),
        (5, "train"),
        pytest.param(8, "inference", marks=needs_time),
    ],
)
def test_a_run_that_was_killed_ends_in_the_same_bits(
    source: Array,
    labels: np.ndarray,
    steps: int,
    batchnorm: str,
    monkeypatch: pytest.MonkeyPatch,
    empty_cache: Any,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step

    def make() -> tuple[Network, Run]:
        network = make_network(build_small(), batchnorm=batchnorm, mixup=0.3, epochs=3)
        return network, make_run(network, source, labels, checkpoints=Checkpoints({"test": 1}))

    network, run = make()
    reference = run.finish()
    whole = network.get()
    Checkpoints({"test": 1}).remove()

    network, run = make()
    train_step, done = network.train_step, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal done
        if done == steps:
            raise KeyboardInterrupt
        done += 1
        return train_step(*arguments)

    network.train_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    network, run = make()
    counted: list[int] = []
    train_step_again = network.train_step
    network.train_step = lambda *a: (counted.append(1), train_step_again(*a))[1]  # type: ignore
    position = run.finish()
    assert len(counted) == 9 - steps, "what was done is not done again"
    assert equal(network.get(), whole)
    for key in ("loss", "accuracy", "validation_loss"):
        assert [e[key] for e in position.history] == [e[key] for e in reference.history]


def test_a_finished_run_is_read_back(source: Array, labels: np.ndarray, empty_cache: Any) -> None:
    checkpoints = Checkpoints({"test": 2})
    network = make_network(build_small())
    make_run(network, source, labels, checkpoints=checkpoints).finish()
    whole = network.get()
    network = make_network(build_small())
    network.train_step = None  # type: ignore[assignment]
    position = make_run(network, source, labels, checkpoints=checkpoints).finish()
    assert position.is_finished
    assert equal(network.get(), whole)


def test_cached_training_is_training_with_a_frozen_prefix() -> None:
    """50 steps of SGD from activations against the whole network in plain Keras."""
    rng = np.random.default_rng(0)
    photos = rng.normal(size=(16, 12, 12, 3)).astype(np.float32)
    labels = np.arange(16) % CLASSES
    model = build_small()
    settings = {"optimizer": "sgd", "dropout": 0.0, "label_smoothing": 0.0}
    network = make_network(model, **settings)
    prefix, _ = cut(model, network.unfreeze.boundary)
    activations = np.asarray(prefix(photos, training=False))
    twin = build_small()
    x = keras.layers.GlobalAveragePooling2D()(twin.output)
    head = keras.layers.Dense(CLASSES)
    whole = keras.Model(twin.input, head(x))
    head.kernel.assign(network.head.kernel)
    twin_unfreeze = resolve_unfreeze(twin, "block3")
    for layer in whole.layers:
        layer.trainable = layer.name in (*twin_unfreeze.layers, head.name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    start = network.get()
    eye = np.eye(CLASSES, dtype=np.float32)
    for step in range(50):
        rows = np.random.default_rng(step).permutation(16)[:8]
        ours, _ = network.train_step(
            activations[rows], eye[labels[rows]], np.ones(8), (0.01, 0.01), rng
        )
        theirs = float(whole.train_on_batch(photos[rows], labels[rows]))
        assert ours == pytest.approx(theirs, rel=1e-4)
    by_name = {v.path: v for v in whole.trainable_variables}
    for variable, before in zip(network.variables[:-2], start, strict=False):
        after, other = variable.value.numpy(), np.asarray(by_name[variable.path].value)
        moved = np.linalg.norm(after - before)
        assert moved > 0
        assert np.linalg.norm(after - other) <= 1e-3 * moved


def collect(network: Network) -> dict[str, np.ndarray]:
    return network.name_arrays()


@pytest.mark.parametrize(
    ("batchnorm", "moving"),
    [
        ("inference", {"kernel", "bias"}),
        ("affine", {"kernel", "bias", "gamma", "beta"}),
        ("train", {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}),
    ],
)
def test_batchnorm_does_what_its_setting_says(
    small: Any, source: Array, labels: np.ndarray, batchnorm: str, moving: set[str]
) -> None:
    network = make_network(small, batchnorm=batchnorm)
    before = collect(network)
    make_run(network, source, labels).finish()
    after = collect(network)
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert {name.split("/")[1] for name in moved} == moving
    assert {name.split("_")[0] for name in moved} == {"block3", "block4"}


def test_rates_fall_by_block_and_the_head_has_its_own(small: Any) -> None:
    network = make_network(small, unfreeze="all", layer_decay=0.5, weight_decay=0.0)
    arrays = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)
    before = network.get()
    eye = np.eye(CLASSES, dtype=np.float32)[np.arange(8) % CLASSES]
    network.train_step(arrays, eye, np.ones(8), (1e-3, 1e-2), np.random.default_rng(0))
    # The first step of Adam moves every number by the rate.
    for (variable, depth), old, new in zip(network.depths, before, network.get(), strict=True):
        rate = 1e-2 if depth < 0 else 1e-3 * 0.5**depth
        assert np.abs(new - old).max() == pytest.approx(rate, rel=0.02), variable.path


def test_weight_decay_spares_biases_and_norms(small: Any) -> None:
    network = make_network(small, batchnorm="affine", weight_decay=0.1)
    decayed = {
        variable.path
        for optimizer, _, _, members in network._optimizers
        for variable in (network.variables[i] for i in members)
        if optimizer._use_weight_decay(variable)
    }
    assert decayed == {"block3_conv/kernel", "block4_conv/kernel", "head/kernel"}


def test_l2_sp_pulls_to_the_start(source: Array, labels: np.ndarray) -> None:
    distances = []
    for strength in (0.0, 300.0):
        network = make_network(
            build_small(), l2_sp=strength, optimizer="sgd", dropout=0.0, weight_decay=0.0
        )
        start = network.get()
        make_run(network, source, labels, rate=1e-3).finish()
        pairs = list(zip(start, network.get(), strict=True))[:-2]
        distances.append(sum(float(np.abs(a - b).sum()) for a, b in pairs))
    assert 0 < distances[1] < 0.8 * distances[0]


def test_label_smoothing_dropout_and_weights_are_in_the_loss(small: Any) -> None:
    x = np.random.default_rng(0).normal(size=(6, 6, 6, 4)).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(6) % CLASSES]
    weights = np.array([1, 2, 3, 1, 2, 3], np.float32)

    def loss(**settings: Any) -> float:
        network = make_network(
            build_small(), **{"dropout": 0.0, "label_smoothing": 0.0, **settings}
        )
        logits = network.compute_logits(x)
        found = network.train_step(x, targets, weights, (0.0, 0.0), np.random.default_rng(0))[0]
        losses[str(settings)] = logits
        return found

    losses: dict[str, np.ndarray] = {}
    plain = loss()
    logits = losses["{}"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert plain == pytest.approx(float(-(weights[:, None] * targets * log_p).sum() / 6), rel=1e-5)
    smooth = targets * 0.7 + 0.1
    expected = float(-(weights[:, None] * smooth * log_p).sum() / 6)
    assert loss(label_smoothing=0.3) == pytest.approx(expected, rel=1e-5)
    assert loss(dropout=0.5) != pytest.approx(plain, rel=1e-3)


def test_early_stopping_keeps_the_best_weights(
    small: Any, source: Array, labels: np.ndarray
) -> None:
    network = make_network(small, epochs=30, patience=2)
    best: list[Arrays] = []
    seen: list[Epoch] = []

    def watch(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.validation_loss == min(e.validation_loss for e in seen if e.validation_loss):
            best[:] = [network.get()]

    shuffled = np.random.default_rng(0).permutation(labels)  # nothing to learn: it gets worse
    position = make_run(network, source, shuffled, callbacks=[watch]).finish()
    assert len(seen) == position.best_epoch + 2 < 30
    assert equal(network.get(), best[0])
    rows = np.arange(20, SAMPLES)
    loss, _ = encode_classes(shuffled[rows], CLASSES).measure(compute_logits(network, source, rows))
    assert loss == pytest.approx(position.best_loss, rel=1e-6)


@pytest.mark.parametrize("is_good", [True, False])
def test_the_end_is_taken_unless_an_earlier_epoch_is_clearly_better(
    small: Any, source: Array, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    asked: list[Array] = []
    monkeypatch.setattr(loop, "is_as_good", lambda *losses: asked.append(losses) or is_good)
    network, states = make_network(small, epochs=8), list[Arrays]()
    shuffled = np.random.default_rng(0).permutation(labels)  # nothing to learn: it gets worse
    position = make_run(
        network, source, shuffled, callbacks=[lambda _: states.append(network.get())]
    ).finish()
    history = [epoch["validation_loss"] for epoch in position.history]
    best = int(np.argmin(history))
    assert best < 7, "an earlier one looks better"
    [(early, late)] = asked
    assert early.shape == late.shape == (SAMPLES - 20,)
    taken = 7 if is_good else best
    assert equal(network.get(), states[taken])
    assert (position.best_epoch, position.best_loss) == (
        taken + 1,
        pytest.approx(history[taken], rel=1e-6),
    )


def test_a_patience_that_never_ends_a_run_keeps_the_best_weights(
    small: Any, source: Array, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "is_as_good", lambda *_: True)
    network, states = make_network(small, epochs=8, patience=99), list[Arrays]()
    shuffled = np.random.default_rng(0).permutation(labels)
    position = make_run(
        network, source, shuffled, callbacks=[lambda _: states.append(network.get())]
    ).finish()
    best = int(np.argmin([epoch["validation_loss"] for epoch in position.history]))
    assert best < 7
    assert equal(network.get(), states[best])


def test_a_rate_that_diverges_ends_the_run_without_nan(
    small: Any, source: Array, labels: np.ndarray
) -> None:
    network = make_network(small, epochs=10, optimizer="sgd")
    source.rows *= 1e18
    position = make_run(network, source, labels, rate=1e3).finish()
    assert position.is_diverged
    assert all(np.isfinite(array).all() for array in network.get())


def test_a_loss_that_mixup_and_smoothing_raise_is_no_divergence(
    small: Any, source: Array, labels: np.ndarray
) -> None:
    settings = {"epochs": 1, "mixup": 1.0, "label_smoothing": 0.5, "dropout": 0.5}
    network = make_network(small, **settings)
    features = network.suffix(source.rows, training=False).numpy().mean((1, 2))
    probe = fit_probe(features, labels, CLASSES, strengths=(100.0,))
    network.start(network.get(), probe.kernel, probe.bias)
    run = make_run(network, source, labels, rate=1e-9)
    network.start(network.get(), probe.kernel, probe.bias)
    position = run.finish()
    assert position.history[-1]["loss"] > 0.8 * np.log(CLASSES)
    assert not position.is_diverged


def test_every_epoch_takes_another_view(small: Any, labels: np.ndarray) -> None:
    asked: list[tuple[int, int]] = []

    class Watched(Array):
        def read(self, rows: np.ndarray, views: Any = 0) -> np.ndarray:
            if not np.isscalar(views):
                asked.extend(zip(rows.tolist(), views.tolist(), strict=True))
            return super().read(rows, views)

    rows = np.random.default_rng(0).normal(size=(SAMPLES, 6, 6, 4)).astype(np.float32)
    make_run(make_network(small, epochs=3), Watched(rows, views=3), labels).finish()
    assert sorted(asked) == [(row, view) for row in range(20) for view in range(3)]


def test_the_rate_rises_then_falls() -> None:
    schedule = Schedule(1.0, 0.1, 10, 10, 0.1)
    rates = [schedule.rates(step, 100)[0] for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02
    assert schedule.rates(9, 100)[1] == pytest.approx(0.1)


def test_a_damaged_checkpoint_is_as_none(empty_cache: Any) -> None:
    checkpoints = Checkpoints({"a": 1})
    checkpoints.save("run", {"x": [np.arange(50.0), np.float32(2.0)]}, {"epoch": 1})
    loaded = checkpoints.load("run")
    assert loaded is not None
    assert loaded[0]["x"][1].shape == ()
    path = next(checkpoints.folder.iterdir())
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert checkpoints.load("run") is None
    path.write_bytes(b"nonsense")
    assert checkpoints.load("run") is None
