"""Mixed precision and several devices, on a CPU: the same training within the tolerance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import needs_time
from small_network import CLASSES, build_small

from headstart.models.unfreeze import resolve_unfreeze
from headstart.recipe import FineTune
from headstart.runtimes import TOLERANCE
from headstart.training import hardware
from headstart.training.hardware import FULL, MIXED, Hardware, LossScale, computing_in
from headstart.training.network import Network

Steps = list[tuple[float, float]]


def make_network(precision: str = FULL, **settings: Any) -> Network:
    model = build_small()
    chosen = FineTune("all", batch_size=8, **settings)
    network = Network(model, resolve_unfreeze(model, "all"), CLASSES, chosen, precision)
    kernel = np.random.default_rng(1).normal(size=(8, CLASSES)).astype(np.float32)
    network.start(network.get(), kernel, np.zeros(CLASSES, np.float32))
    return network


def take_steps(network: Network, count: int = 8) -> Steps:
    """Steps on batches of seven photos, which no two devices can share evenly."""
    photos = np.random.default_rng(0).normal(size=(7, 12, 12, 3)).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(7) % CLASSES]
    weights = np.linspace(0.5, 1.5, 7).astype(np.float32)
    return [
        network.train_step(photos, targets, weights, (1e-2, 1e-2), np.random.default_rng(step))
        for step in range(count)
    ]


# Run alone: devices cannot be split any more where TensorFlow has begun.
_TWO_DEVICES = """
import json, sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import headstart
from small_network import build_small
from test_hardware import make_network, take_steps
from headstart.training import hardware, network
from headstart.training.hardware import MIXED, Hardware

found, shared, init = {}, [], network.Network.__init__
def watch(self, *arguments):
    init(self, *arguments)
    shared.append(self.is_shared)
network.Network.__init__ = watch
for name, devices in (("one", ()), ("two", ("CPU:0", "CPU:1"))):
    with Hardware(devices).scope():
        made = make_network(l2_sp=0.01, epochs=3)
    found[f"{name} steps"] = take_steps(made)
    hardware.find_hardware = lambda: Hardware(devices, MIXED)
    tuned = headstart.fine_tune(
        build_small(), sys.argv[1], unfreeze="all", epochs=2, learning_rate=1e-3, batch_size=16,
        holdout=0.0, views="live",
    )
    found[f"{name} tuned"] = [epoch["loss"] for epoch in tuned.tuning.history]
    found[f"{name} kinds"] = sorted({type(v.value).__name__ for v in tuned.model.variables})
    found[f"{name} sum"] = float(sum(abs(v.value.numpy()).sum() for v in tuned.model.variables))
print(json.dumps({**found, "shared": shared}))
"""


@needs_time
def test_two_devices_train_as_one(digits_folder: Path, cache: Path) -> None:
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES, str(digits_folder)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shared"] == [False, False, True, True]
    one, two = np.array(found["one steps"]), np.array(found["two steps"])
    assert np.ptp(one[:, 0]) > 100 * TOLERANCE
    np.testing.assert_allclose(two[:, 0], one[:, 0], atol=TOLERANCE)
    np.testing.assert_array_equal(two[:, 1], one[:, 1])
    # In mixed precision, and from raw pixels, so that losses are around 20.
    # What is rounded differently in the first epoch is seen in the second.
    for tolerance, one, two in zip(
        (TOLERANCE, 0.05), found["one tuned"], found["two tuned"], strict=True
    ):
        assert two == pytest.approx(one, rel=tolerance)
    assert found["two kinds"] == found["one kinds"] == ["ResourceVariable"]
    assert found["two sum"] == pytest.approx(found["one sum"], rel=TOLERANCE)


def test_mixed_precision_trains_alike_and_leaves_the_layers_as_they_were() -> None:
    full, mixed = make_network(), make_network(MIXED)
    before, after = (np.array(take_steps(network))[:, 0] for network in (full, mixed))
    assert 0 < np.abs(before - after).max() < 0.01, "float16, and not far from float32"
    assert {layer.dtype_policy.name for layer in mixed.suffix.layers} == {"float32"}
    assert {v.dtype for v in mixed.backbone.variables} == {"float32"}


def test_gradients_that_overflow_are_left_out_and_the_scale_is_halved() -> None:
    network = make_network(MIXED, weight_decay=0.1)
    assert network._loss_scale is not None
    take_steps(network, 1)
    network._loss_scale.scale.assign(3e38)
    weights, state = network.get(), network.get_optimizer()
    take_steps(network, 1)
    assert all((a == b).all() for a, b in zip(weights, network.get(), strict=True))
    assert network._loss_scale.scale.numpy() == np.float32(1.5e38)
    network.set_optimizer(state)
    assert network._loss_scale.scale.numpy() == np.float32(3e38), "part of the state of a run"
    network.reset()
    assert network._loss_scale.scale.numpy() == 2.0**15


def test_the_scale_doubles_after_many_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_STEPS_TO_DOUBLE", 3)
    scale = LossScale()
    seen = []
    for is_finite in (True, True, False, True, True, True, True):
        scale.update(np.bool_(is_finite))
        seen.append(float(scale.scale.numpy()) / 2**15)
    assert seen == [1, 1, 0.5, 0.5, 0.5, 1, 1]


def test_a_layer_of_ones_own_keeps_its_precision() -> None:
    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            kinds.append(x.dtype)
            return x

    kinds: list[str] = []
    photos = keras.Input((4, 4, 3))
    model = keras.Model(photos, Own()(keras.layers.Conv2D(2, 1)(photos)))
    with computing_in(MIXED, model):
        assert model.layers[1].compute_dtype == "float16"
        model(np.zeros((1, 4, 4, 3), np.float32))
    assert model.layers[1].compute_dtype == "float32"
    assert kinds[-1] == "float32"


@pytest.mark.parametrize(
    ("photos", "settings", "count"),
    [(1000, {}, 4), (1000, {"batchnorm": "train"}, 1), (63, {}, 1), (1000, {"batch_size": 6}, 3)],
)
def test_devices_are_as_many_as_every_batch_can_use(
    photos: int, settings: dict[str, Any], count: int
) -> None:
    four = Hardware(tuple(f"GPU:{number}" for number in range(4)), MIXED)
    assert len(four.choose(FineTune(**settings), photos).devices) == count
    assert four.choose(FineTune(**settings), photos).precision == MIXED
    assert Hardware().choose(FineTune(**settings), photos) == Hardware()
